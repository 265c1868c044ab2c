package main

import (
	"fmt"
	"image/color"
	"os"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

var (
	blue   = color.RGBA{R: 0x1f, G: 0x5f, B: 0xa8, A: 0xff}
	sky    = color.RGBA{R: 0x7f, G: 0xb2, B: 0xe5, A: 0xff}
	orange = color.RGBA{R: 0xd9, G: 0x7a, B: 0x06, A: 0xff}
	red    = color.RGBA{R: 0xc4, G: 0x1e, B: 0x2a, A: 0xff}
	gray   = color.RGBA{R: 0xcc, G: 0xcc, B: 0xcc, A: 0xff}
)

// leastLatency keeps a logarithmic scale away from 0.
const leastLatency = 0.05

// marks draws a vertical line for each restart, given in seconds.
type marks []float64

func (m marks) Plot(c draw.Canvas, p *plot.Plot) {
	x, _ := p.Transforms(&c)
	style := draw.LineStyle{Color: gray, Width: vg.Points(0.5)}
	for _, at := range m {
		c.StrokeLine2(style, x(at), c.Min.Y, x(at), c.Max.Y)
	}
}

// writePlot draws a row for each variant: latencies to the left, re-dials and failures to the right, both
// over time and to the same scale as the other rows.
func (r results) writePlot(path string) error {
	var end, slowest, most float64
	for _, v := range r.Variants {
		for _, b := range v.Timeline {
			end = max(end, float64(b.At)/1000)
			slowest = max(slowest, float64(b.Max))
			most = max(most, float64(b.Redialled), float64(b.Failed))
		}
	}
	var rows [][]*plot.Plot
	for _, v := range r.Variants {
		left, err := v.latencyPlot()
		if err != nil {
			return err
		}
		right, err := v.redialPlot()
		if err != nil {
			return err
		}
		// The legend stands to the right of the last value.
		left.X.Max, right.X.Max = end*1.15, end*1.15
		left.Y.Min, left.Y.Max = leastLatency, max(slowest*1.5, 10)
		right.Y.Min, right.Y.Max = 0, max(most*1.1, 10)
		rows = append(rows, []*plot.Plot{left, right})
	}
	canvas := vgsvg.New(28*vg.Centimeter, vg.Length(len(rows))*5*vg.Centimeter)
	tiles := draw.Tiles{
		Rows: len(rows), Cols: 2,
		PadX: vg.Centimeter, PadY: vg.Centimeter / 2,
		PadTop: vg.Centimeter / 4, PadRight: vg.Centimeter / 2,
	}
	for y, panels := range plot.Align(rows, tiles, draw.New(canvas)) {
		for x, panel := range panels {
			rows[y][x].Draw(panel)
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := canvas.WriteTo(file); err != nil {
		_ = file.Close()
		return err
	}
	return file.Close()
}

func (r *result) latencyPlot() (*plot.Plot, error) {
	p := r.panel(fmt.Sprintf("%s: latency in ms", r.Name))
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.LogTicks{Prec: -1}
	for _, line := range []struct {
		name  string
		color color.Color
		value func(bin) milliseconds
	}{
		{"max", orange, func(b bin) milliseconds { return b.Max }},
		{"p99", sky, func(b bin) milliseconds { return b.P99 }},
		{"p50", blue, func(b bin) milliseconds { return b.P50 }},
	} {
		var points plotter.XYs
		for _, b := range r.Timeline {
			if b.Requests > 0 {
				points = append(points, plotter.XY{X: float64(b.At) / 1000, Y: max(float64(line.value(b)), leastLatency)})
			}
		}
		if err := add(p, line.name, line.color, points); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (r *result) redialPlot() (*plot.Plot, error) {
	p := r.panel(fmt.Sprintf("%s: in each %v", r.Name, binWidth))
	for _, line := range []struct {
		name  string
		color color.Color
		value func(bin) int
	}{
		{"re-dialled", blue, func(b bin) int { return b.Redialled }},
		{"failed", red, func(b bin) int { return b.Failed }},
	} {
		var points plotter.XYs
		for _, b := range r.Timeline {
			points = append(points, plotter.XY{X: float64(b.At) / 1000, Y: float64(line.value(b))})
		}
		if err := add(p, line.name, line.color, points); err != nil {
			return nil, err
		}
	}
	return p, nil
}

// panel returns an empty plot with the restarts marked.
func (r *result) panel(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font.Size = vg.Points(10)
	p.Title.Padding = vg.Points(6)
	p.X.Label.Text = "seconds"
	p.X.Label.TextStyle.Font.Size = vg.Points(8)
	p.X.Tick.Label.Font.Size = vg.Points(8)
	p.Y.Tick.Label.Font.Size = vg.Points(8)
	p.Legend.Top = true
	p.Legend.Padding = vg.Points(3)
	p.Legend.TextStyle.Font.Size = vg.Points(8)
	var restarts marks
	for _, one := range r.Restarts {
		restarts = append(restarts, float64(one.At)/1000)
	}
	p.Add(restarts)
	return p
}

func add(p *plot.Plot, name string, c color.Color, points plotter.XYs) error {
	if len(points) == 0 {
		return nil
	}
	line, err := plotter.NewLine(points)
	if err != nil {
		return err
	}
	line.Color = c
	line.Width = vg.Points(1)
	p.Add(line)
	p.Legend.Add(name+" ", line)
	return nil
}
