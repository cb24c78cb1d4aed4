package integration

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// deadline returns a context that ends the test's waiting, long after it should
// have been over on the slowest machine.
func deadline(t *testing.T) context.Context {
	t.Helper()
	limit := 2 * time.Minute
	if raceEnabled || full {
		limit = 8 * time.Minute
	}
	if end, ok := t.Deadline(); ok { // leave time to say what is wrong
		limit = min(limit, time.Until(end)-10*time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// start starts a pipeline that is stopped when the test ends, and whose
// services have to end well. Their own metrics are off, so that every envelope
// is one a test has sent.
func start(t *testing.T, conf pipeline.Config) *pipeline.Pipeline {
	t.Helper()
	conf.Binaries = programs
	conf.DopplerArgs = append([]string{"--metric-interval", "0", "--ring-bytes", "128MiB", "--recent-bytes", "16MiB"}, conf.DopplerArgs...)
	p, err := pipeline.Start(deadline(t), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := p.Stop(ctx); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, s := range slices.Concat(p.Dopplers, p.Controllers) {
				t.Logf("%s:\n%s", s.Name, s.Log())
			}
		}
	})
	return p
}

// sending describes what a test sends.
type sending struct {
	load.Plan
	count uint64 // to each Doppler
	rate  float64
}

// send sends to all Dopplers at once, sender number i to Doppler i, and returns
// what they confirmed.
func send(ctx context.Context, t *testing.T, senders []*load.Sender, dopplers []*pipeline.Service, s sending) uint64 {
	t.Helper()
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		total uint64
	)
	for i, sender := range senders {
		run := load.Run{Plan: s.Plan, Addr: dopplers[i%len(dopplers)].Addrs[pipeline.GRPC], Count: s.count, Rate: s.rate}
		all.Go(func() {
			sent, err := sender.Run(ctx, run)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			total += sent.Envelopes
		})
	}
	all.Wait()
	return total
}

func newSenders(n int) []*load.Sender {
	all := make([]*load.Sender, n)
	for i := range all {
		all[i] = load.NewSender(i)
	}
	return all
}

// read opens a reader and runs it until the test ends. It has to end well.
func read(ctx context.Context, t *testing.T, conf load.ReaderConfig) *load.Reader {
	t.Helper()
	r, err := load.OpenReader(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(context.WithoutCancel(ctx)) }()
	t.Cleanup(func() {
		_ = r.Close() // the server may have closed it
		if err := <-ended; err != nil {
			t.Errorf("reader: %v", err)
		}
	})
	return r
}

// firehose opens a reader of a subscription and waits until it is a member at
// n Dopplers.
func firehose(ctx context.Context, t *testing.T, n int, conf load.ReaderConfig) *load.Reader {
	t.Helper()
	r := read(ctx, t, conf)
	until(ctx, t, r, "be placed at every Doppler", func(_ load.Account, places map[string]load.Place) bool {
		return len(places) >= n
	})
	return r
}

// until waits for a reader.
func until(ctx context.Context, t *testing.T, r *load.Reader, what string, done func(load.Account, map[string]load.Place) bool) {
	t.Helper()
	if err := r.Until(ctx, done); err != nil {
		a := r.Account()
		t.Fatalf("%v: reader did not %s: received %d, missing %d, repeated %d, gaps %d exact (%v), %d at least, %d unknown",
			err, what, a.Received, a.Missing, a.Repeated, a.Exact, a.GapReasons, a.AtLeast, a.Unknown)
	}
}

// complete waits until a reader has n envelopes and checks that they are all
// there, once each and in order.
func complete(ctx context.Context, t *testing.T, name string, r *load.Reader, n uint64) {
	t.Helper()
	until(ctx, t, r, fmt.Sprintf("receive %d", n), func(a load.Account, _ map[string]load.Place) bool {
		return a.Received+a.Exact >= n
	})
	a := r.Account()
	if a.Received != n || a.Missing+a.Repeated+a.Foreign+a.Others+a.Exact+a.AtLeast+a.Unknown != 0 {
		t.Errorf("%s: received %d of %d, missing %d, repeated %d, foreign %d, others %d, gaps %d exact (%v), %d at least, %d unknown",
			name, a.Received, n, a.Missing, a.Repeated, a.Foreign, a.Others, a.Exact, a.GapReasons, a.AtLeast, a.Unknown)
	}
}

// metric reads a counter or gauge of a service, summed up over its labels.
func metric(ctx context.Context, t *testing.T, s *pipeline.Service, name string) float64 {
	t.Helper()
	sum, found := 0.0, false
	for line := range strings.Lines(get(ctx, t, "http://"+s.Addrs[pipeline.Admin]+"/metrics", http.StatusOK)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || !strings.HasSuffix(name, "}") && rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		t.Fatalf("%s has no metric %s", s.Name, name)
	}
	return sum
}

// get returns the body of an answer that has to have this status.
func get(ctx context.Context, t *testing.T, url string, status int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("GET %s: %s, want %d: %s", url, resp.Status, status, body)
	}
	return string(body)
}

// launch starts a program that is killed when the test ends, if it still runs.
func launch(t *testing.T, name string, c process.Command) *process.Process {
	t.Helper()
	c.Path = programs.Path(name)
	p, err := process.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// finish waits for a program to end by itself with code 0.
func finish(ctx context.Context, t *testing.T, p *process.Process) {
	t.Helper()
	code, err := p.Wait(ctx)
	if err != nil || code != 0 {
		t.Fatalf("%s: code %d, %v:\n%s", p.Name(), code, err, p.Log())
	}
}

// poll waits until done says so, looking again and again.
func poll(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}

// lines counts the lines of a file, 0 when it does not exist.
func lines(t *testing.T, path string) (n int) {
	t.Helper()
	file, err := os.Open(filepath.Clean(path))
	if os.IsNotExist(err) {
		return 0
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for r := bufio.NewReaderSize(file, 1<<20); ; n++ {
		if _, err := r.ReadSlice('\n'); err == io.EOF {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
