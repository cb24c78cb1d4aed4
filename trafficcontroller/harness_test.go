package trafficcontroller

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 15 * time.Second

// eventually waits until what is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !so() {
		select {
		case <-deadline:
			t.Fatalf("never: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// rig is a Traffic Controller with its Dopplers.
type rig struct {
	t    *testing.T
	tc   *TrafficController
	file string // that names the Dopplers
	stop func() // ends Run and waits for it
	logs *lines
}

// lines is a log that a test reads.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) with(words ...string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.buf.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}

// count returns how many lines have a word.
func (l *lines) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), word)
}

func config() *Config {
	c := DefaultConfig()
	c.Name, c.Addr, c.AdminAddr = "tc", "127.0.0.1:0", "127.0.0.1:0"
	c.DisableAccessControl = true
	c.ResolveInterval, c.GatherTimeout, c.DrainGrace = 100*time.Millisecond, 500*time.Millisecond, 200*time.Millisecond
	return c
}

// start runs a Traffic Controller that finds the Dopplers in a file.
func start(t *testing.T, change func(*Config), dopplers ...*dopplertest.Server) *rig {
	t.Helper()
	r := &rig{t: t, file: filepath.Join(t.TempDir(), "dopplers"), logs: &lines{}}
	r.dopplers(dopplers...)
	cfg := config()
	cfg.Dopplers = []string{"file:" + r.file}
	if change != nil {
		change(cfg)
	}
	var err error
	r.tc, err = New(*cfg, slog.New(slog.NewJSONHandler(r.logs, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.tc.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	if len(dopplers) > 0 {
		eventually(t, "ready", func() bool { return r.get("/ready").code == http.StatusOK })
	}
	return r
}

// dopplers writes where the Dopplers are.
func (r *rig) dopplers(list ...*dopplertest.Server) {
	r.t.Helper()
	text := "# Dopplers of a test\n"
	for _, d := range list {
		text += d.Addr() + "\n"
	}
	if err := os.WriteFile(r.file+".new", []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(r.file+".new", r.file); err != nil {
		r.t.Fatal(err)
	}
}

func doppler(t *testing.T, name string, epoch uint64) *dopplertest.Server {
	t.Helper()
	s, err := dopplertest.Serve(&dopplertest.Doppler{Name: name, Epoch: epoch}, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop(false) })
	return s
}

type answer struct {
	code   int
	header http.Header
	body   string
}

func (r *rig) get(path string) answer { return get(r.t, "http://"+r.tc.Addr()+path) }

func get(t *testing.T, url string) answer {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return answer{body: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

// reader is a client that keeps account.
type reader struct {
	t    *testing.T
	conn *stream.Conn

	mu          sync.Mutex
	ids         []string
	redelivered int
	gaps        []*streampb.Gap
	fins        int
	positions   map[string]*streampb.Position
	hello       *streampb.Hello
	watching    int
	err         error
	done        chan struct{}
}

func (r *rig) dial(path string) (*stream.Conn, error) {
	return stream.Dial(r.t.Context(), "http://"+r.tc.Addr()+path, stream.DialOptions{Subprotocol: stream.Subprotocol})
}

// read opens a stream and reads it until it ends.
func (r *rig) read(path string) *reader {
	r.t.Helper()
	conn, err := r.dial(path)
	if err != nil {
		r.t.Fatal(err)
	}
	c := &reader{t: r.t, conn: conn, positions: map[string]*streampb.Position{}, done: make(chan struct{})}
	go c.run()
	r.t.Cleanup(c.close)
	return c
}

func (c *reader) close() {
	_ = c.conn.Close(stream.CloseNormal, "")
	<-c.done
}

func (c *reader) run() {
	defer close(c.done)
	for {
		b, err := c.conn.Read(context.Background())
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
		c.take(b.Bytes())
		b.Release()
	}
}

func (c *reader) take(msg []byte) {
	meta, records, err := stream.SplitBatch(msg)
	var b streampb.Batch
	if err == nil {
		err = stream.UnmarshalMeta(meta, &b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.t.Errorf("message: %v", err)
		return
	}
	if b.Hello != nil {
		c.hello = b.Hello
	}
	if p := b.Position; p != nil {
		c.positions[p.Doppler] = p
	}
	c.gaps = append(c.gaps, b.Gaps...)
	c.fins += len(b.Fins)
	c.watching += len(b.Watching)
	for env := range envelope.Walk(records) {
		var e loggregatorv2.Envelope
		if err := proto.Unmarshal(env, &e); err != nil {
			c.t.Errorf("envelope: %v", err)
		}
		c.ids = append(c.ids, e.SourceId+"/"+e.InstanceId)
		if b.Lease.GetRedelivered() {
			c.redelivered++
		}
	}
}

func (c *reader) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.ids)
}

// joined waits until the reader has a position of so many Dopplers.
func (c *reader) joined(dopplers int) {
	c.t.Helper()
	eventually(c.t, "a position of every Doppler", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.positions) >= dopplers
	})
}

// want waits for exactly these ids, in any order over Dopplers.
func (c *reader) want(ids ...string) {
	c.t.Helper()
	wantIn(c.t, func() []string {
		c.mu.Lock()
		defer c.mu.Unlock()
		return slices.Clone(c.ids)
	}, ids)
}

// wantIn waits for exactly these ids, in any order.
func wantIn(t *testing.T, have func() []string, ids []string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d envelopes, have %d", len(ids), len(have())), func() bool { return len(have()) >= len(ids) })
	got, want := slices.Sorted(slices.Values(have())), slices.Sorted(slices.Values(ids))
	if !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// cursor is where the reader stands.
func (c *reader) cursor() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	cursor := &streampb.Cursor{Version: 1}
	for _, p := range c.positions {
		cursor.Entries = append(cursor.Entries, &streampb.CursorEntry{
			Doppler: p.Doppler, Epoch: p.Epoch, Offset: p.Next, Matched: p.Matched + uint64(p.Count),
		})
	}
	return stream.EncodeCursor(cursor)
}

func (c *reader) gapReasons() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var reasons []string
	for _, g := range c.gaps {
		reasons = append(reasons, fmt.Sprintf("%s %d %s", g.Precision, g.Count, g.Reason))
	}
	return strings.Join(reasons, ", ")
}

func ids(source, prefix string, from, to int) (list []string) {
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint(source, "/", prefix, i))
	}
	return list
}
