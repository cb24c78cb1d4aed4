package nozzle_test

import (
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

func entries(t *testing.T, cursor string) []*streampb.CursorEntry {
	t.Helper()
	if cursor == "" {
		return nil
	}
	c, err := stream.DecodeCursor(cursor)
	if err != nil {
		t.Fatal(err)
	}
	return c.GetEntries()
}

func TestCursorContinues(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(10)
	s.Push(lines("a", 0, 40)...)
	s.Doppler("doppler-1").Push(lines("b", 0, 5)...)
	n := open(t, s, nil)
	var held *nozzle.Batch
	for got := 0; got < 35; {
		b := recv(t, n)
		if b.Position.GetDoppler() == "doppler-0" {
			got += b.Len()
		}
		if b.Position.GetFirst() == 20 && b.Position.GetDoppler() == "doppler-0" {
			held = b
			continue
		}
		b.Ack()
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cursor := n.Cursor()
	if e := entries(t, cursor); len(e) == 0 || e[0].GetOffset() != 20 || e[0].GetMatched() != 20 || e[0].GetSeen() != 40 {
		t.Fatalf("got %v", e)
	}
	held.Ack() // too late for the server, not for the cursor
	if e := entries(t, n.Cursor()); e[0].GetOffset() != 40 {
		t.Fatalf("got %v", e)
	}

	// As if the subscription had long been forgotten.
	other := open(t, s, func(c *nozzle.Config) { c.Subscription = "other"; c.Cursor = cursor })
	b := recv(t, other)
	if got := payloads(t, b); !b.Redelivered || got[0] != "line 20" {
		t.Fatalf("redelivered %v: %q", b.Redelivered, got)
	}
}

func TestCursorOfAnEpochThatIsOver(t *testing.T) {
	for _, fin := range []bool{false, true} {
		s := newServer(t)
		s.Push(lines("a", 0, 3)...)
		left := make(chan string, 1)
		n := open(t, s, func(c *nozzle.Config) {
			c.Notify = func(x nozzle.Notice) {
				if x.Kind == nozzle.DopplerLeft {
					left <- x.Doppler
				}
			}
		})
		recv(t, n).Ack()
		waitAcked(t, s, 3)
		d := s.Doppler("doppler-0")
		if fin {
			d.Fin()
			if got := <-left; got != "doppler-0" {
				t.Fatalf("%q left", got)
			}
			eventually(t, "finished", func() bool { return entries(t, n.Cursor())[0].GetFinished() })
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		d.Restart()
		d.Push(lines("a", 3, 5)...)
		other := open(t, s, func(c *nozzle.Config) { c.Subscription = "other"; c.Cursor = n.Cursor() })
		b := recv(t, other)
		if got := payloads(t, b); !slices.Equal(got, []string{"line 3", "line 4"}) {
			t.Fatalf("got %q", got)
		}
		lost := len(b.Gaps) == 1 && b.Gaps[0].GetReason() == streampb.Gap_DOPPLER_LOST
		if lost == fin {
			t.Fatalf("fin %v, gaps %v", fin, b.Gaps)
		}
	}
}

func TestEpochChange(t *testing.T) {
	s := newServer(t)
	s.Push(lines("a", 0, 3)...)
	n := open(t, s, nil)
	old := recv(t, n)
	d := s.Doppler("doppler-0")
	d.Restart()
	b := recv(t, n)
	if b.Position.GetEpoch() != 2 || len(b.Gaps) != 1 || b.Gaps[0].GetReason() != streampb.Gap_DOPPLER_LOST {
		t.Fatalf("got %v, %v", b.Position, b.Gaps)
	}
	b.Ack()
	d.Push(lines("a", 3, 5)...)
	recv(t, n).Ack()
	waitAcked(t, s, 2)
	if e := entries(t, n.Cursor()); e[0].GetEpoch() != 1 {
		t.Fatalf("the cursor forgets what is not acked: %v", e)
	}
	old.Ack()
	if e := entries(t, n.Cursor()); e[0].GetEpoch() != 2 || e[0].GetOffset() != 2 {
		t.Fatalf("got %v", e)
	}
}

func TestAutoAck(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(10)
	s.Push(lines("a", 0, 30)...)
	n := open(t, s, func(c *nozzle.Config) { c.AutoAck = true })
	first := recv(t, n)
	if got := s.Requests()[0].Query.Get("ack"); got != "auto" {
		t.Fatalf("asked for ack %q", got)
	}
	waitAcked(t, s, 20) // without us
	if e := entries(t, n.Cursor()); len(e) != 1 || e[0].GetOffset() != 0 {
		t.Fatalf("the cursor is beyond what is consumed: %v", e)
	}
	first.AckRange(0, 3) // says nothing
	recv(t, n)
	if e := entries(t, n.Cursor()); e[0].GetOffset() != 10 {
		t.Fatalf("got %v", e)
	}
	recv(t, n).Ack()
	if e := entries(t, n.Cursor()); e[0].GetOffset() != 30 {
		t.Fatalf("got %v", e)
	}
	if got := n.Status().Unacked; got != 0 {
		t.Fatalf("%d unacked", got)
	}
}

// What is read ahead counts when Recv gets there, an epoch's end too.
func TestReadAheadIsNotConsumed(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(10)
	s.SetHeartbeat(10 * time.Millisecond)
	s.Push(lines("a", 0, 20)...)
	n := open(t, s, func(c *nozzle.Config) { c.AutoAck = true })
	recv(t, n)
	waitAcked(t, s, 20)
	s.Doppler("doppler-0").Restart()
	before := time.Now()
	eventually(t, "heartbeat after the restart", func() bool {
		h := n.Status().Heartbeat
		return h != nil && h.GetTimestamp() > before.Add(50*time.Millisecond).UnixNano()
	})
	if b := recv(t, n); b.Position.GetEpoch() != 1 {
		t.Fatalf("got %v", b.Position)
	}
	if e := entries(t, n.Cursor()); len(e) != 1 || e[0].GetEpoch() != 1 || e[0].GetOffset() != 10 {
		t.Fatalf("got %v", e)
	}
	if b := recv(t, n); len(b.Gaps) != 1 {
		t.Fatalf("got %v", b.Gaps)
	}
	if e := entries(t, n.Cursor()); e[0].GetEpoch() != 2 {
		t.Fatalf("got %v", e)
	}
}

func TestTail(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(2)
	s.Push(line("a/b", 0), line("b", 0), line("a/b", 1), line("a/b", 2), line("a/b", 3), line("b", 1))
	n := open(t, s, func(c *nozzle.Config) { c.Source = "a/b"; c.Recent = 3 })
	if got := payloads(t, recv(t, n)); !slices.Equal(got, []string{"line 1", "line 2"}) {
		t.Fatalf("got %q", got)
	}
	if got := payloads(t, recv(t, n)); !slices.Equal(got, []string{"line 3"}) {
		t.Fatalf("got %q", got)
	}
	s.Refuse(1, http.StatusServiceUnavailable, "not now")
	s.Cut()
	s.Push(line("a/b", 4))
	if got := payloads(t, recv(t, n)); !slices.Equal(got, []string{"line 4"}) {
		t.Fatalf("after a reconnect: %q", got)
	}
	r := s.Requests()
	if r[0].Path != "/apps/a%2Fb/stream" || r[0].Query.Get("recent") != "3" || r[0].Query.Has("cursor") {
		t.Fatalf("asked for %+v", r[0])
	}
	if last := r[len(r)-1]; last.Query.Has("recent") || !last.Query.Has("cursor") {
		t.Fatalf("came back with %+v", last)
	}
	_ = n.Close()
	cursor := n.Cursor()

	// Line 4 was returned, but not consumed.
	again := open(t, s, func(c *nozzle.Config) { c.Source = "a/b"; c.Cursor = cursor })
	if got := payloads(t, recv(t, again)); !slices.Equal(got, []string{"line 4"}) {
		t.Fatalf("got %q", got)
	}
}

// Live is told in order with what Recv returns, by Recv.
func TestTailTellsWhereHistoryEnds(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(2)
	s.Push(lines("a", 0, 5)...)
	var got []string
	live := false
	n := open(t, s, func(c *nozzle.Config) {
		c.Source, c.Recent = "a", 5
		c.Notify = func(n nozzle.Notice) {
			if n.Kind == nozzle.Live {
				live = true
				if len(got) != 5 {
					t.Errorf("live after %q", got)
				}
				s.Push(line("a", 5))
			}
		}
	})
	for len(got) < 6 {
		got = append(got, payloads(t, recv(t, n))...)
	}
	if !live || got[5] != "line 5" {
		t.Errorf("live %v, got %q", live, got)
	}
}

func TestTailSince(t *testing.T) {
	s := newServer(t)
	s.Push(lines("a", 0, 10)...)
	n := open(t, s, func(c *nozzle.Config) { c.Source = "a"; c.Since = unix(7) })
	if got := payloads(t, recv(t, n)); !slices.Equal(got, []string{"line 7", "line 8", "line 9"}) {
		t.Fatalf("got %q", got)
	}
}

func TestMembersShare(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(5)
	one, two := open(t, s, nil), open(t, s, nil)
	if err := s.WaitConnections(within(t), 2); err != nil {
		t.Fatal(err)
	}
	s.Push(lines("a", 0, 1000)...)
	seen := map[string]bool{}
	for range 4 {
		for _, n := range []*nozzle.Stream{one, two} {
			b := recv(t, n)
			for _, p := range payloads(t, b) {
				if seen[p] {
					t.Fatalf("%s came twice", p)
				}
				seen[p] = true
			}
			b.Ack()
		}
	}
	_ = one.Close()
	for len(seen) < 1000 {
		b := recv(t, two)
		for _, p := range payloads(t, b) {
			seen[p] = true
		}
		b.Ack()
	}
	waitAcked(t, s, 1000)
}

func TestCursorBeforeAnythingIsKnown(t *testing.T) {
	for _, cursor := range []string{"", stream.EncodeCursor(&streampb.Cursor{Entries: []*streampb.CursorEntry{{Doppler: "d", Offset: 1}}})} {
		n, err := nozzle.Open(t.Context(), nozzle.Config{Addr: "127.0.0.1:1", Subscription: "x", Cursor: cursor})
		if err != nil {
			t.Fatal(err)
		}
		if got := n.Cursor(); (got == "") != (cursor == "") {
			t.Fatalf("%q became %q", cursor, got)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConfigFaults(t *testing.T) {
	tail := func(c nozzle.Config) error { _, err := nozzle.Tail(t.Context(), c); return err }
	hose := func(c nozzle.Config) error { _, err := nozzle.Open(t.Context(), c); return err }
	for name, err := range map[string]error{
		"nothing":              hose(nozzle.Config{}),
		"no subscription":      hose(nozzle.Config{Addr: "localhost:1"}),
		"scheme":               hose(nozzle.Config{Addr: "ftp://localhost:1", Subscription: "x"}),
		"no host":              hose(nozzle.Config{Addr: "ws:///x", Subscription: "x"}),
		"query":                hose(nozzle.Config{Addr: "ws://localhost?x=y", Subscription: "x"}),
		"not an URL":           hose(nozzle.Config{Addr: "ws://local host\x7f", Subscription: "x"}),
		"unknown type":         hose(nozzle.Config{Addr: "localhost:1", Subscription: "x", Types: []string{"logs"}}),
		"cursor":               hose(nozzle.Config{Addr: "localhost:1", Subscription: "x", Cursor: "nonsense"}),
		"source with Open":     hose(nozzle.Config{Addr: "localhost:1", Subscription: "x", Source: "a"}),
		"no source":            tail(nozzle.Config{Addr: "localhost:1"}),
		"subscription in Tail": tail(nozzle.Config{Addr: "localhost:1", Source: "a", Subscription: "x"}),
		"negative":             tail(nozzle.Config{Addr: "localhost:1", Source: "a", Recent: -1}),
	} {
		if nozzle.CodeOf(err) != nozzle.CodeInvalidArgument {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestPathPrefix(t *testing.T) {
	s := newServer(t)
	n := open(t, s, func(c *nozzle.Config) { c.Addr += "/base"; c.Subscription = "a b/c" })
	_, err := n.Recv(within(t))
	wantCode(t, err, nozzle.CodeNotFound)
	if got := s.Requests()[0].Path; got != "/base/firehose/a%20b%2Fc" {
		t.Fatalf("asked for %s", got)
	}
}
