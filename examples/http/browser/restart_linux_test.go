package browser

import (
	"context"
	"fmt"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPageKeepsItsOneConnectionThroughFiveRestarts(t *testing.T) {
	s := startService(t)
	serving := s.next()
	p := openPage(t, serving.address)
	first := p.await("shown.generation === 1 && shown.requests >= 10 && idle()")
	require.Equal(t, serving.pid, first.PID)
	require.Empty(t, first.Marks)

	pids := map[int]bool{serving.pid: true}
	var shown look
	marks := []string{}
	for n := 2; n <= 6; n++ {
		p.do(chromedp.Click(chromedp.ID("restart")))
		serving = s.next()
		require.Equal(t, n, serving.number)
		pids[serving.pid] = true
		shown = p.await("shown.generation >= %d && idle()", n)
		shown = p.await("shown.requests >= %d", shown.Requests+10)
		marks = append(marks, fmt.Sprint(n))
		assert.Equal(t, look{
			Generation: n, PID: serving.pid, Requests: shown.Requests, Connections: 1, Connection: first.Connection, Marks: marks,
		}, shown)
	}
	assert.Len(t, pids, 6)

	p.mu.Lock()
	defer p.mu.Unlock()
	assert.Len(t, p.connections, 1, "connections, as Chromium counts them")
	assert.Empty(t, p.failures, "requests, as Chromium judges them")
	assert.Empty(t, p.complaints, "in the console")
}

func TestThePageFitsEveryWindow(t *testing.T) {
	s := startService(t)
	p := openPage(t, s.next().address)
	p.await("shown.requests >= 10")
	for _, width := range []int64{320, 384, 390, 576, 768, 1024, 1600} {
		for _, scheme := range []string{"light", "dark"} {
			p.do(chromedp.EmulateViewport(width, 800), p.prefer(scheme))
			cut, err := chromedp.Run(p.ctx, chromedp.Evaluate[[]string](`
				for (const [id, longest] of [["pid", "4194304"], ["requests", "123,456"], ["slowest", "10000 ms"]]) {
					document.getElementById(id).textContent = longest;
				}
				Array.from(document.querySelectorAll("html, dl div, dd, button, figure"))
					.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.id || e.tagName)`))
			require.NoError(t, err)
			assert.Empty(t, cut, "wider than there is room for at %d px", width)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	assert.Empty(t, p.complaints, "in the console")
}

// prefer sets the colour scheme that the user asks for.
func (p *page) prefer(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Steps(func(ctx context.Context, target *chromedp.Target) (v chromedp.Void, err error) {
		_, err = cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return v, err
	})
}
