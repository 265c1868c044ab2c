package browser

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// page is the service's page in a Chromium of its own.
type page struct {
	t   *testing.T
	ctx context.Context

	mu          sync.Mutex
	complaints  []string         // errors and warnings in the console
	failures    []string         // requests that Chromium itself calls failed
	connections map[float64]bool // those of the page's requests, by Chromium's own count
}

// look is what the page shows.
type look struct {
	Generation, PID, Requests, Failed, Connections int
	Connection                                     string
	Marks                                          []string // the labels in the chart
}

// looking is what reads the page.
const looking = `({
	generation: read("generation"), pid: read("pid"), requests: read("requests"), failed: read("failed"),
	connections: read("connections"), connection: document.getElementById("connection").textContent,
	marks: Array.from(document.querySelectorAll("#chart .mark text"), (mark) => mark.textContent),
})`

// openPage starts Chromium, and opens the page in it. Both end with the test.
func openPage(t *testing.T, address string) *page {
	t.Helper()
	path := findChromium(t)
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoSandbox, chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
	)
	ctx, cancel := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(cancel)
	ctx, _ = chromedp.NewContext(ctx)
	t.Cleanup(func() {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if err := chromedp.Cancel(limited); err != nil {
			t.Errorf("the end of Chromium: %v", err)
		}
	})
	p := &page{t: t, ctx: ctx, connections: map[float64]bool{}}
	require.NoError(t, chromedp.Do(ctx), "start Chromium")
	p.listen(address)
	p.do(chromedp.Navigate("http://" + address + "/"))
	return p
}

func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("Chromium is not installed")
	return ""
}

// listen notes what Chromium tells of the page.
func (p *page) listen(address string) {
	p.t.Helper()
	console := chromedp.Console(p.ctx)
	go func() {
		for message, err := range console {
			if err != nil {
				return
			}
			switch message.Type {
			case chromedp.ConsoleWarning, chromedp.ConsoleError, chromedp.ConsoleException:
				p.note(func() { p.complaints = append(p.complaints, message.String()) })
			}
		}
	}()
	require.NoError(p.t, chromedp.Listen(p.ctx, func(event any) {
		switch event := event.(type) {
		case *network.EventResponseReceived:
			if path, ok := strings.CutPrefix(event.Response.URL, "http://"+address+"/"); ok && (path == "hit" || path == "restart") {
				p.note(func() { p.connections[event.Response.ConnectionID] = true })
			}
		case *network.EventLoadingFailed:
			p.note(func() { p.failures = append(p.failures, event.ErrorText) })
		}
	}))
}

func (p *page) note(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *page) do(steps ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	require.NoError(p.t, chromedp.Do(ctx, steps...))
}

// await waits until a condition holds for what the page shows, which is looked at after each change.
func (p *page) await(condition string, values ...any) look {
	p.t.Helper()
	condition = fmt.Sprintf(condition, values...)
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	shown, err := chromedp.Run(ctx, chromedp.Evaluate[look](`new Promise((resolve) => {
		const read = (id) => Number(document.getElementById(id).textContent.replaceAll(",", ""));
		const idle = () => !document.getElementById("restart").disabled;
		const observer = new MutationObserver(check);
		function check() {
			const shown = `+looking+`;
			if (!(`+condition+`)) return;
			observer.disconnect();
			resolve(shown);
		}
		observer.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
		check();
	})`, chromedp.EvalAwaitPromise))
	require.NoError(p.t, err, "waited for %s", condition)
	return shown
}
