package upstream

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseTarget(t *testing.T) {
	for _, tc := range []struct {
		spec string
		ok   bool
	}{
		{"10.0.0.1:8083", true},
		{"[::1]:8083", true},
		{"dns:///dopplers.internal:8083", true},
		{"file:/etc/dopplers", true},
		{"", false},
		{"10.0.0.1", false},
		{":8083", false},
		{"host:", false},
		{"dns:///", false},
		{"dns:///name", false},
		{"file:", false},
	} {
		if _, err := ParseTarget(tc.spec); (err == nil) != tc.ok {
			t.Errorf("%q: %v", tc.spec, err)
		}
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "dopplers")
	for _, tc := range []struct {
		text string
		want []string
		ok   bool
	}{
		{"", nil, true},
		{"a:1\n# none\n\n b:2 # the second\n", []string{"a:1", "b:2"}, true},
		{"a:1\nnonsense\n", nil, false},
	} {
		if err := os.WriteFile(path, []byte(tc.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readFile(path)
		if (err == nil) != tc.ok || !slices.Equal(got, tc.want) {
			t.Errorf("%q: %v %v", tc.text, got, err)
		}
	}
	if _, err := readFile(path + ".not"); err == nil {
		t.Error("a file that is not there was read")
	}
}

// names is a resolver whose answer changes.
type names struct {
	mu  sync.Mutex
	ips []string
	err error
}

func (n *names) LookupHost(context.Context, string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ips, n.err
}

func (n *names) set(err error, ips ...string) {
	n.mu.Lock()
	n.ips, n.err = ips, err
	n.mu.Unlock()
}

// crowd notes which peers run and what was said of them.
type crowd struct {
	mu     sync.Mutex
	runs   map[string]int
	events []string
}

func (c *crowd) peer(ctx context.Context, addr string) {
	c.mu.Lock()
	c.runs[addr]++
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.runs[addr]--
	c.mu.Unlock()
}

func (c *crowd) note(what string) func(string) {
	return func(addr string) {
		c.mu.Lock()
		c.events = append(c.events, what+addr)
		c.mu.Unlock()
	}
}

func (c *crowd) running() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []string
	for addr, n := range c.runs {
		for range n {
			list = append(list, addr)
		}
	}
	slices.Sort(list)
	return list
}

func TestSetFollowsItsTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dns := &names{ips: []string{"10.0.0.1", "10.0.0.2"}}
		c := &crowd{runs: map[string]int{}}
		s := &Set{
			Interval: 5 * time.Second, Resolver: dns, Log: slog.New(slog.DiscardHandler), PeerLog: daemon.NewQuietEach(slog.New(slog.DiscardHandler), "addr"),
			Peer: c.peer, Added: c.note("+"), Removed: c.note("-"),
		}
		for _, spec := range []string{"dns:///dopplers:8083", "10.9.9.9:1"} {
			target, err := ParseTarget(spec)
			if err != nil {
				t.Fatal(err)
			}
			s.Targets = append(s.Targets, target)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Run(ctx) }()
		want := func(list ...string) {
			t.Helper()
			synctest.Wait()
			if got := c.running(); !slices.Equal(got, list) {
				t.Fatalf("running %v, want %v", got, list)
			}
		}
		want("10.0.0.1:8083", "10.0.0.2:8083", "10.9.9.9:1")
		dns.set(nil, "10.0.0.2", "10.0.0.3")
		time.Sleep(5 * time.Second)
		want("10.0.0.2:8083", "10.0.0.3:8083", "10.9.9.9:1")
		dns.set(errors.New("server misbehaving"))
		time.Sleep(20 * time.Second)
		want("10.0.0.2:8083", "10.0.0.3:8083", "10.9.9.9:1")
		dns.set(nil)
		time.Sleep(5 * time.Second)
		want("10.9.9.9:1")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		want()
		wantEvents := []string{
			"+10.0.0.1:8083", "+10.0.0.2:8083", "+10.9.9.9:1", "-10.0.0.1:8083", "+10.0.0.3:8083", "-10.0.0.2:8083", "-10.0.0.3:8083",
		}
		if !slices.Equal(c.events, wantEvents) {
			t.Errorf("events %v", c.events)
		}
	})
}
