package fanout

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

// memConn is a connection whose reader may stop to take anything.
type memConn struct {
	mu     sync.Mutex
	gate   chan struct{} // closed: takes; nil: takes
	got    []*streampb.Batch
	ids    []string
	writes int
	closed *stream.CloseError
	more   chan struct{}
}

func newMemConn() *memConn { return &memConn{more: make(chan struct{}, 1)} }

func (c *memConn) WriteFrames(bufs [][]byte, release func(bool), timeout time.Duration) error {
	c.mu.Lock()
	gate := c.gate
	c.writes++
	var all []byte
	for _, b := range bufs {
		all = append(all, b...)
	}
	c.mu.Unlock()
	release(gate != nil)
	if gate != nil {
		select {
		case <-gate:
		case <-time.After(timeout):
			return fmt.Errorf("write: %w", stream.ErrStuck)
		}
	}
	return c.take(all)
}

// take reads frames as a client does.
func (c *memConn) take(all []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(all) > 0 {
		n, head := int(all[1]), 2
		switch n {
		case 126:
			n, head = int(all[2])<<8|int(all[3]), 4
		case 127:
			n, head = 0, 10
			for _, b := range all[2:10] {
				n = n<<8 | int(b)
			}
		}
		meta, records, err := stream.SplitBatch(all[head : head+n])
		if err != nil {
			return err
		}
		b := &streampb.Batch{}
		if err := stream.UnmarshalMeta(meta, b); err != nil {
			return err
		}
		c.got = append(c.got, b)
		for env := range envelope.Walk(records) {
			c.ids = append(c.ids, instanceID(env))
		}
		all = all[head+n:]
	}
	select {
	case c.more <- struct{}{}:
	default:
	}
	return nil
}

func (c *memConn) Close(code stream.CloseCode, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = &stream.CloseError{Code: code, Reason: reason}
	return nil
}

func (c *memConn) snapshot() (ids []string, gaps uint64, closed *stream.CloseError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.got {
		for _, g := range b.Gaps {
			gaps += g.Count
		}
	}
	return append([]string(nil), c.ids...), gaps, c.closed
}

// rig is a Hub with its Pump and one Doppler.
type rig struct {
	t    *testing.T
	hub  *Hub
	pump *Pump

	mu      sync.Mutex // guards doppler, which Fetch reads
	doppler *dopplertest.Doppler
	link    *dopplertest.Link
	made    int
	fetch   func() error
}

func newRig(t *testing.T, change func(*Config, *PumpConfig)) *rig {
	r := &rig{t: t, doppler: &dopplertest.Doppler{Name: "d", Epoch: 1}}
	hub := Config{
		Name: "tc", TailBytes: 1 << 20, AllBytes: 16 << 20, GatherWithin: 3 * time.Second, LostAfter: 30 * time.Second, Heartbeat: 5 * time.Second,
	}
	pump := PumpConfig{StuckTimeout: time.Minute, Fetches: 4, Fetch: func(_ context.Context, _, source string, q map[string][]string) ([]byte, error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.fetch != nil {
			if err := r.fetch(); err != nil {
				return nil, err
			}
		}
		return r.doppler.History(source, url.Values(q))
	}}
	if change != nil {
		change(&hub, &pump)
	}
	var err error
	r.hub, r.pump, err = NewPump(hub, pump, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.pump.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if r.pump.running != 0 {
			t.Errorf("%d goroutines are still counted", r.pump.running)
		}
	})
	return r
}

func (r *rig) connect() {
	r.link = r.doppler.NewLink()
	if err := r.hub.Connected("d:1", r.doppler.Hello(), func() {}); err != nil {
		r.t.Fatal(err)
	}
	r.pass()
}

// emit appends n envelopes of a source.
func (r *rig) emit(source string, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range n {
		r.doppler.Append(source, "", fmt.Sprint(r.made), int64(r.made+1))
		r.made++
	}
}

// pass carries what link and hub have for each other.
func (r *rig) pass() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := r.hub.Watch("d:1"); w != nil; w = r.hub.Watch("d:1") {
		r.link.Watch(w)
	}
	for {
		msg, err := r.link.Next(100)
		if err != nil {
			r.t.Fatal(err)
		}
		if msg == nil {
			return
		}
		meta, records, err := stream.SplitBatch(msg)
		var b streampb.Batch
		if err == nil {
			err = stream.UnmarshalMeta(meta, &b)
		}
		if err == nil {
			err = r.hub.Batch("d:1", &b, records)
		}
		if err != nil {
			r.t.Fatal(err)
		}
	}
}

func numbers(from, to int) string {
	var list []string
	for i := from; i < to; i++ {
		list = append(list, fmt.Sprint(i))
	}
	return strings.Join(list, " ")
}

func (c *memConn) want(t *testing.T, ids string) {
	t.Helper()
	synctest.Wait()
	if got, _, _ := c.snapshot(); strings.Join(got, " ") != ids {
		t.Fatalf("got %v, want %s", got, ids)
	}
}

func TestTailIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		r.connect()
		c := newMemConn()
		tail := r.hub.Open(c, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil)})
		defer tail.Close()
		r.pass()
		r.emit("app", 3)
		r.emit("other", 3)
		r.pass()
		time.Sleep(maxPace)
		c.want(t, "0 1 2")
		synctest.Wait()
		if r.pump.running != 0 {
			t.Error("an idle tail keeps a goroutine")
		}
		row := tail.Row()
		if row.Sent != 3 || row.Lag.Envelopes != 0 || row.Joining {
			t.Errorf("row %+v", row)
		}
	})
}

func TestQuietTailHearsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		c := newMemConn()
		tail := r.hub.Open(c, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil)})
		defer tail.Close()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		beats := 0
		for _, b := range c.got {
			if b.Heartbeat != nil {
				beats++
			}
		}
		if beats < 6 || beats > 8 {
			t.Errorf("%d heartbeats in 30 s", beats)
		}
	})
}

func TestHistoryIsMergedWithWhatComes(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		fails   int
		want    string
	}{
		"live":             {Options{}, 0, numbers(20, 25)},
		"recent":           {Options{Newest: 4}, 0, numbers(16, 25)},
		"more than held":   {Options{Newest: 100}, 0, numbers(0, 25)},
		"since":            {Options{Newest: 100, Since: 11}, 0, numbers(10, 25)},
		"cursor":           {Options{Cursor: cursor("d", 1, 7, 7)}, 0, numbers(7, 25)},
		"cursor of nobody": {Options{Cursor: cursor("x", 1, 7, 7)}, 0, numbers(0, 25)},
		"read again":       {Options{Newest: 4}, 2, numbers(16, 25)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				fails := test.fails
				r.fetch = func() error {
					if fails > 0 {
						fails--
						return fmt.Errorf("not now")
					}
					return nil
				}
				r.connect()
				r.emit("app", 20)
				r.pass()
				c := newMemConn()
				o := test.options
				o.Source, o.Filter = "app", NewFilter(envelope.AllClasses, nil)
				tail := r.hub.Open(c, o)
				defer tail.Close()
				r.pass()
				r.emit("app", 5)
				r.pass()
				time.Sleep(5 * time.Second)
				c.want(t, test.want)
			})
		})
	}
}

func cursor(doppler string, epoch, offset, matched uint64) *streampb.Cursor {
	return &streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{{
		Doppler: doppler, Epoch: epoch, Offset: offset, Matched: matched,
	}}}
}

// A Doppler that is down does not hold up the history of the others, nor what
// comes now.
func TestHistoryDoesNotWaitForADopplerThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		if err := r.hub.Connected("e:1", &streampb.Hello{Server: "e", Epoch: 9, Version: 1}, func() {}); err != nil {
			t.Fatal(err)
		}
		r.hub.Disconnected("e:1")
		r.connect()
		r.emit("app", 10)
		r.pass()
		c := newMemConn()
		tail := r.hub.Open(c, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil), Newest: 3})
		defer tail.Close()
		r.pass()
		r.emit("app", 2)
		r.pass()
		time.Sleep(2 * time.Second)
		c.want(t, "")
		time.Sleep(2 * time.Second)
		c.want(t, numbers(7, 12))
	})
}

func TestSlowReadersDoNotHoldUpOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(h *Config, _ *PumpConfig) { h.TailBytes = 64 << 10 })
		r.connect()
		gate := make(chan struct{})
		var held []*memConn
		open := func(c *memConn) {
			tail := r.hub.Open(c, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil)})
			t.Cleanup(tail.Close)
		}
		for range 3 * r.pump.workers {
			c := newMemConn()
			c.gate = gate
			held = append(held, c)
			open(c)
		}
		fast := newMemConn()
		open(fast)
		r.pass()
		const total = 4000
		for range total / 100 {
			r.emit("app", 100)
			r.pass()
			time.Sleep(20 * time.Millisecond)
		}
		fast.want(t, numbers(0, total))
		for _, c := range held {
			c.mu.Lock()
			c.gate = nil
			c.mu.Unlock()
		}
		close(gate)
		time.Sleep(time.Second)
		synctest.Wait()
		if r.hub.Stats().Dropped == 0 {
			t.Error("no drops are counted")
		}
		for _, c := range held {
			ids, gaps, closed := c.snapshot()
			if closed != nil || gaps == 0 || len(ids)+int(gaps) != total {
				t.Errorf("%d envelopes, %d in gaps, closed %v", len(ids), gaps, closed)
			}
		}
	})
}

func TestStuckReaderIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(h *Config, _ *PumpConfig) { h.TailBytes = 2 << 10 })
		r.connect()
		c := newMemConn()
		tail := r.hub.Open(c, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil)})
		defer tail.Close()
		r.pass()
		c.gate = make(chan struct{})
		for range 20 {
			r.emit("app", 10)
			r.pass()
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		_, _, closed := c.snapshot()
		if closed == nil || closed.Code != stream.CloseStuck || !strings.Contains(closed.Reason, "took nothing for 1m0s") ||
			!strings.Contains(closed.Reason, "dropped") {
			t.Errorf("closed with %v", closed)
		}
		if row := tail.Row(); row.Cut != slow.Stuck || row.Lag.Envelopes == 0 || row.Lag.Dropped == 0 || row.Lag.Age < time.Minute {
			t.Errorf("row %+v", row)
		}
		if why := tail.Ended(); why == nil || *why != *closed {
			t.Errorf("ended says %v", why)
		}
	})
}

// All tails together hold no more than they may, also with sockets that take
// nothing, and every envelope is told for.
func TestAllTailsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const all = 300 << 10
		r := newRig(t, func(h *Config, _ *PumpConfig) { h.AllBytes = all })
		r.connect()
		gate := make(chan struct{})
		const tails, total = 20, 3000
		var conns []*memConn
		for i := range tails {
			c := newMemConn()
			conns = append(conns, c)
			tail := r.hub.Open(c, Options{Source: fmt.Sprintf("app%d", i%4), Filter: NewFilter(envelope.AllClasses, nil)})
			t.Cleanup(tail.Close)
		}
		r.pass()
		time.Sleep(time.Second)
		synctest.Wait()
		for _, c := range conns {
			c.gate = gate
		}
		for i := range total / 4 {
			for k := range 4 {
				r.emit(fmt.Sprintf("app%d", k), 1)
			}
			r.pass()
			if used := r.hub.Stats().Bytes; used > all+tails*(slowChunk+chunk) {
				t.Fatalf("%d bytes are held after %d envelopes", used, 4*i)
			}
			time.Sleep(time.Millisecond)
		}
		for _, c := range conns {
			c.mu.Lock()
			c.gate = nil
			c.mu.Unlock()
		}
		close(gate)
		time.Sleep(time.Second)
		synctest.Wait()
		for i, c := range conns {
			ids, gaps, _ := c.snapshot()
			if len(ids)+int(gaps) != total/4 {
				t.Errorf("tail %d: %d envelopes, %d in gaps", i, len(ids), gaps)
			}
		}
	})
}

func (c *memConn) answers() (list []*streampb.Access) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range c.got {
		if b.Access != nil {
			list = append(list, b.Access)
		}
	}
	return list
}

// A client that sends tokens and reads nothing costs no more than one answer
// that waits. When it reads, it gets the answer to its last token.
func TestAnswersToTokensDoNotPileUp(t *testing.T) {
	const tokens = 10_000
	for name, test := range map[string]struct {
		lines   int // that come meanwhile
		refused bool
	}{
		"quiet source": {},
		"busy source":  {lines: 20},
		"refused":      {refused: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, nil)
				r.connect()
				c := newMemConn()
				tail := r.hub.Open(c, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil)})
				defer tail.Close()
				r.pass()
				time.Sleep(time.Second)
				synctest.Wait()
				c.gate = make(chan struct{})
				for i := range tokens {
					a := &streampb.Access{ExpiresInMillis: int64(i + 1)}
					if test.refused {
						a.Error = strings.Repeat("no", 100)
					}
					tail.Tell(a)
					if test.lines > 0 && i%(tokens/test.lines) == 0 {
						r.emit("app", 1)
						r.pass()
						time.Sleep(maxPace)
					}
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if n, held := len(tail.q.entries), r.hub.Stats().Bytes; n > test.lines || held > int64(test.lines+10)*1024 {
					t.Errorf("%d frames wait, %d bytes are held", n, held)
				}
				close(c.gate)
				time.Sleep(time.Second)
				c.want(t, numbers(0, test.lines))
				got := c.answers()
				if len(got) == 0 || len(got) > test.lines+3 || got[len(got)-1].ExpiresInMillis != tokens {
					t.Errorf("%d answers, the last %v", len(got), got[max(len(got)-1, 0):])
				}
			})
		})
	}
}

// What is told comes after hello, and nothing is told in the old framing or to
// one that has left.
func TestTell(t *testing.T) {
	for name, test := range map[string]struct {
		options Options
		left    bool
		want    string
	}{
		"at once": {want: "hello access "},
		"old":     {options: Options{Old: true}},
		"left":    {left: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(1, "")
			test.options.Source, test.options.Filter = "app", NewFilter(envelope.AllClasses, nil)
			tail := w.hub.Open(nil, test.options)
			defer tail.Close()
			if test.left {
				tail.Close()
			}
			tail.Tell(&streampb.Access{ExpiresInMillis: 1})
			tail.Tell(&streampb.Access{ExpiresInMillis: 2})
			got := ""
			for _, e := range tail.q.take(nil, 1) {
				switch {
				case e.access.GetExpiresInMillis() == 2:
					got += "access "
				case e.f == w.hub.hello:
					got += "hello "
					e.f.release()
				default:
					t.Errorf("entry %+v", e)
				}
			}
			if got != test.want {
				t.Errorf("takes %q, not %q", got, test.want)
			}
			if tail.q.flushed() != queueEmpty {
				t.Error("something is left")
			}
		})
	}
}
