package nozzle_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
)

func TestRecvInOrderWithIdentity(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(7)
	s.Push(lines("a", 0, 100)...)
	n := open(t, s, nil)
	next := uint64(0)
	for next < 100 {
		b := recv(t, n)
		if b.Redelivered || len(b.Gaps) != 0 {
			t.Fatalf("redelivered %v, gaps %v", b.Redelivered, b.Gaps)
		}
		envelopes, err := b.Decode()
		if err != nil || len(envelopes) != b.Len() {
			t.Fatalf("%d envelopes of %d, %v", len(envelopes), b.Len(), err)
		}
		i := 0
		for id, raw := range b.All() {
			if want := (nozzle.ID{Doppler: "doppler-0", Epoch: 1, Offset: next}); id != want || len(raw) == 0 {
				t.Fatalf("got %v, want %v", id, want)
			}
			if envelopes[i].GetTimestamp() != int64(next) {
				t.Fatalf("envelope %d has time %d", next, envelopes[i].GetTimestamp())
			}
			next++
			i++
		}
		b.Ack()
		b.Ack()
		b.Release()
	}
	waitAcked(t, s, 100)
	eventually(t, "nothing unacked", func() bool { return n.Status().Unacked == 0 })
}

func TestSelectors(t *testing.T) {
	s := newServer(t)
	counter := &loggregatorv2.Envelope{SourceId: "b", Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "hits"}}}
	s.Push(line("a", 0), counter, line("b", 1), line("a", 2))
	logs := open(t, s, func(c *nozzle.Config) { c.Types = []string{"log"}; c.SourceIDs = []string{"a"} })
	b := recv(t, logs)
	if got := payloads(t, b); !slices.Equal(got, []string{"line 0", "line 2"}) {
		t.Fatalf("got %q", got)
	}
	var offsets []uint64
	for id := range b.All() {
		offsets = append(offsets, id.Offset)
	}
	if !slices.Equal(offsets, []uint64{0, 3}) {
		t.Fatalf("got offsets %v", offsets)
	}
	named := open(t, s, func(c *nozzle.Config) { c.Names = []string{"hits"} })
	if b := recv(t, named); b.Len() != 1 {
		t.Fatalf("got %d envelopes", b.Len())
	}
	q := s.Requests()[0]
	if q.Path != "/firehose/sub" || q.Query.Get("ack") != "client" || q.Header.Get("User-Agent") == "" {
		t.Fatalf("asked for %+v", q)
	}
}

func TestPartialAck(t *testing.T) {
	s := newServer(t)
	s.Push(lines("a", 0, 10)...)
	n := open(t, s, nil)
	b := recv(t, n)
	b.AckRange(8, 100)
	b.AckRange(0, 2)
	b.AckRange(5, 5)
	b.AckRange(20, 30)
	waitAcked(t, s, 6)
	s.Cut()
	again := recv(t, n)
	if got := payloads(t, again); !again.Redelivered || !slices.Equal(got, []string{"line 3", "line 4", "line 6", "line 7"}) {
		t.Fatalf("redelivered %v: %q", again.Redelivered, got)
	}
	b.AckRange(3, 6) // the old batch still counts
	again.AckRange(7, 7)
	waitAcked(t, s, 10)
	b.Ack()
	again.Ack()
	eventually(t, "nothing unacked", func() bool { return n.Status().Unacked == 0 })
}

func TestReconnectRedeliversWhatIsNotAcked(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(10)
	s.Push(lines("a", 0, 30)...)
	var mu sync.Mutex
	var notices []nozzle.Notice
	n := open(t, s, func(c *nozzle.Config) {
		c.Notify = func(x nozzle.Notice) { mu.Lock(); notices = append(notices, x); mu.Unlock() }
	})
	first, second := recv(t, n), recv(t, n)
	second.Ack()
	waitAcked(t, s, 10)
	s.Cut()
	first.Ack() // of a connection that is no more
	seen := map[string]int{}
	for len(seen) < 10 || s.Acked() < 30 {
		b := recv(t, n)
		for _, p := range payloads(t, b) {
			seen[p]++
		}
		b.Ack()
		if b.Len() == 10 && payloads(t, b)[0] == "line 20" {
			waitAcked(t, s, 30)
		}
	}
	for i, p := range []string{"line 10", "line 15"} {
		if seen[p] != 0 {
			t.Fatalf("%d: %s came again", i, p)
		}
	}
	eventually(t, "three notices", func() bool { mu.Lock(); defer mu.Unlock(); return len(notices) >= 3 })
	mu.Lock()
	defer mu.Unlock()
	kinds := make([]nozzle.NoticeKind, len(notices))
	for i, x := range notices {
		kinds[i] = x.Kind
	}
	if !slices.Equal(kinds, []nozzle.NoticeKind{nozzle.Connected, nozzle.Disconnected, nozzle.Connected}) {
		t.Fatalf("got %v", kinds)
	}
	if notices[0].Server != "nozzletest" || notices[1].Err == nil || notices[1].Attempt != 1 || notices[1].Wait <= 0 {
		t.Fatalf("got %+v", notices)
	}
}

func TestLostAcksAreSentAgain(t *testing.T) {
	s := newServer(t)
	s.Push(lines("a", 0, 5)...)
	n := open(t, s, nil)
	b := recv(t, n)
	s.Refuse(3, http.StatusServiceUnavailable, "not now")
	s.Cut()
	b.Ack() // there is nobody to tell
	waitAcked(t, s, 5)
}

func TestGaps(t *testing.T) {
	s := newServer(t)
	s.Push(line("a", 0))
	s.Gap(41, streampb.Gap_EVICTED)
	s.Push(line("a", 1))
	n := open(t, s, nil)
	if b := recv(t, n); b.Len() != 1 || len(b.Gaps) != 0 {
		t.Fatalf("got %d envelopes, gaps %v", b.Len(), b.Gaps)
	}
	b := recv(t, n)
	if len(b.Gaps) != 1 || b.Gaps[0].GetCount() != 41 || b.Len() != 1 || b.Position.GetFirst() != 42 {
		t.Fatalf("got %v at %v", b.Gaps, b.Position)
	}
	b.Ack()
	waitAcked(t, s, 1)
	if got := s.AckedGaps(); got != 1 {
		t.Fatalf("%d gaps acked", got)
	}
	s.Gap(7, streampb.Gap_UNCONFIRMED)
	alone := recv(t, n)
	if alone.Len() != 0 || len(alone.Gaps) != 1 || alone.Envelopes != nil {
		t.Fatalf("got %d envelopes, gaps %v", alone.Len(), alone.Gaps)
	}
	alone.Ack()
	eventually(t, "gap acked", func() bool { return s.AckedGaps() == 2 })
	s.Doppler("doppler-0").GapUnknown(streampb.Gap_CURSOR_UNKNOWN)
	if b := recv(t, n); len(b.Gaps) != 1 || b.Gaps[0].GetPrecision() != streampb.Gap_UNKNOWN {
		t.Fatalf("got %v", b.Gaps)
	}
}

func TestRedeliveryAfterAckTimeout(t *testing.T) {
	s := newServer(t)
	s.Push(lines("a", 0, 3)...)
	n := open(t, s, nil)
	first := recv(t, n)
	s.Redeliver()
	again := recv(t, n)
	if first.Redelivered || !again.Redelivered || again.Len() != 3 {
		t.Fatalf("redelivered %v, then %v with %d", first.Redelivered, again.Redelivered, again.Len())
	}
	again.Ack()
	waitAcked(t, s, 3)
}

func TestCloseFlushesAcks(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(1)
	s.Push(lines("a", 0, 200)...)
	n := open(t, s, nil)
	for range 200 {
		recv(t, n).Ack()
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	waitAcked(t, s, 200)
	if err := s.WaitConnections(within(t), 0); err != nil {
		t.Fatal(err)
	}
	_, err := n.Recv(t.Context())
	wantCode(t, err, nozzle.CodeClosed)
}

func TestCloseTellsOfAcksThatCannotBeSent(t *testing.T) {
	s := newServer(t)
	s.Push(line("a", 0))
	n := open(t, s, nil)
	b := recv(t, n)
	s.Refuse(1000, http.StatusServiceUnavailable, "not now")
	s.Cut()
	eventually(t, "disconnected", func() bool { return !n.Status().Connected })
	b.Ack()
	wantCode(t, n.Close(), nozzle.CodeUnavailable)
	wantCode(t, n.Close(), nozzle.CodeUnavailable)
}

func TestEndOfContextCloses(t *testing.T) {
	s := newServer(t)
	s.Push(line("a", 0))
	ctx, cancel := context.WithCancel(t.Context())
	n, err := nozzle.Open(ctx, nozzle.Config{Addr: s.Addr(), Subscription: "sub"})
	if err != nil {
		t.Fatal(err)
	}
	recv(t, n).Ack()
	cancel()
	_, err = n.Recv(within(t))
	wantCode(t, err, nozzle.CodeClosed)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	waitAcked(t, s, 1)
}

func TestRecvContext(t *testing.T) {
	s := newServer(t)
	n := open(t, s, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := n.Recv(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	s.Push(line("a", 0))
	recv(t, n)
}

func TestPermanentErrors(t *testing.T) {
	for status, want := range map[int]nozzle.Code{
		http.StatusBadRequest:      nozzle.CodeInvalidArgument,
		http.StatusUnauthorized:    nozzle.CodeUnauthenticated,
		http.StatusForbidden:       nozzle.CodeForbidden,
		http.StatusNotFound:        nozzle.CodeNotFound,
		http.StatusUpgradeRequired: nozzle.CodeProtocol,
	} {
		s := newServer(t)
		s.Refuse(1, status, "in plain words")
		n := open(t, s, nil)
		for range 2 {
			_, err := n.Recv(within(t))
			if e := wantCode(t, err, want); e.Status != status || !strings.Contains(err.Error(), "in plain words") {
				t.Fatalf("got %v", err)
			}
		}
	}
}

func TestClosedForGood(t *testing.T) {
	for code, want := range map[stream.CloseCode]nozzle.Code{
		stream.CloseBadMessage: nozzle.CodeProtocol,
		stream.CloseTooBig:     nozzle.CodeLimit,
	} {
		s := newServer(t)
		n := open(t, s, nil)
		if err := s.WaitConnections(within(t), 1); err != nil {
			t.Fatal(err)
		}
		s.Disconnect(code, "for a reason")
		_, err := n.Recv(within(t))
		wantCode(t, err, want)
	}
}

func TestClosedToComeBack(t *testing.T) {
	for _, code := range []stream.CloseCode{
		stream.CloseNormal, stream.CloseGoingAway, stream.CloseStuck, stream.CloseOverLimit, stream.CloseDraining, stream.ClosePolicy,
	} {
		s := newServer(t)
		n := open(t, s, nil)
		if err := s.WaitConnections(within(t), 1); err != nil {
			t.Fatal(err)
		}
		s.Disconnect(code, "for a while")
		s.Push(line("a", 0))
		recv(t, n)
	}
}

func TestRetriesUsedUp(t *testing.T) {
	for _, test := range []struct {
		change func(*nozzle.Config)
		dials  int
	}{
		{func(c *nozzle.Config) { c.MaxRetries = -1 }, 1},
		{func(c *nozzle.Config) { c.MaxRetries = 2 }, 3},
		{func(c *nozzle.Config) { c.MaxElapsed = time.Millisecond }, 2},
	} {
		s := newServer(t)
		s.Refuse(10, http.StatusInternalServerError, "broken")
		n := open(t, s, test.change)
		_, err := n.Recv(within(t))
		wantCode(t, err, nozzle.CodeUnavailable)
		if got := len(s.Requests()); got != test.dials {
			t.Errorf("dialled %d times, want %d: %v", got, test.dials, err)
		}
	}
}

func TestHeader(t *testing.T) {
	s := newServer(t)
	s.Refuse(1, http.StatusUnauthorized, "token has run out")
	calls := 0
	n := open(t, s, func(c *nozzle.Config) {
		c.Header = func(context.Context) (http.Header, error) {
			if calls++; calls == 1 {
				return nil, errors.New("no token yet")
			}
			return http.Header{"Authorization": {"bearer x"}}, nil
		}
	})
	s.Push(line("a", 0))
	recv(t, n)
	requests := s.Requests()
	if got := requests[len(requests)-1].Header.Get("Authorization"); got != "bearer x" || len(requests) != 2 {
		t.Fatalf("got %q after %d requests", got, len(requests))
	}
	s.Refuse(2, http.StatusUnauthorized, "go away")
	s.Cut()
	_, err := n.Recv(within(t))
	wantCode(t, err, nozzle.CodeUnauthenticated)
}

func TestDeadPathIsDialledAgain(t *testing.T) {
	s := newServer(t)
	s.SetHeartbeat(50 * time.Millisecond)
	lost := make(chan error, 10)
	n := open(t, s, func(c *nozzle.Config) {
		c.Notify = func(x nozzle.Notice) {
			if x.Kind == nozzle.Disconnected {
				lost <- x.Err
			}
		}
	})
	eventually(t, "heartbeat", func() bool { return n.Status().Heartbeat != nil })
	if st := n.Status(); !st.Connected || st.Server != "nozzletest" || st.Connects != 1 || st.LastMessage.IsZero() {
		t.Fatalf("got %+v", st)
	}
	s.SetSilent(true)
	select {
	case err := <-lost:
		if !strings.Contains(err.Error(), "heartbeat") {
			t.Fatal(err)
		}
	case <-within(t).Done():
		t.Fatal("path was never taken for dead")
	}
	s.SetSilent(false)
	s.Push(line("a", 0))
	recv(t, n)
}

// Clients of a server that is lost do not come back all at once, if it asked for that.
func TestSpreadOfReconnects(t *testing.T) {
	const spread, clients = 10 * time.Second, 16
	s := newServer(t)
	s.SetSpread(spread)
	waits := make(chan time.Duration, clients)
	for range clients {
		n := open(t, s, func(c *nozzle.Config) {
			c.Notify = func(x nozzle.Notice) {
				if x.Kind == nozzle.Disconnected {
					waits <- x.Wait
				}
			}
		})
		eventually(t, "connection", func() bool { return n.Status().Connected })
	}
	s.Cut()
	late := 0
	for range clients {
		select {
		case wait := <-waits:
			if wait > spread+time.Second {
				t.Errorf("waits %v", wait)
			}
			if wait > spread/4 {
				late++
			}
		case <-within(t).Done():
			t.Fatal("a client did not see the cut")
		}
	}
	if late == 0 {
		t.Error("all come back in the first quarter")
	}
}

// A consumer that takes its time is no dead path.
func TestSlowConsumerKeepsItsConnection(t *testing.T) {
	s := newServer(t)
	s.SetHeartbeat(20 * time.Millisecond)
	s.SetBatchSize(1)
	s.Push(lines("a", 0, 10)...)
	for _, readAhead := range []int{0, 1} { // all of it, or nothing
		n := open(t, s, func(c *nozzle.Config) { c.ReadAhead = readAhead; c.Subscription = fmt.Sprint(readAhead) })
		recv(t, n)
		<-time.After(200 * time.Millisecond) // ten heartbeats
		if heard := n.Status().Heartbeat != nil; heard != (readAhead == 0) {
			t.Fatalf("heartbeat read: %v", heard)
		}
		for range 9 {
			recv(t, n)
		}
		if got := n.Status().Connects; got != 1 {
			t.Fatalf("connected %d times", got)
		}
	}
}

// What was received before the end is returned, unless the owner has closed.
func TestEndComesAfterWhatWasReceived(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(10)
	s.Push(lines("a", 0, 100)...)
	n := open(t, s, func(c *nozzle.Config) { c.AutoAck = true })
	recv(t, n)
	waitAcked(t, s, 100)
	s.Send([]byte{0xff})
	for range 9 {
		recv(t, n)
	}
	_, err := n.Recv(within(t))
	wantCode(t, err, nozzle.CodeProtocol)
}

func TestGarbageEndsTheStream(t *testing.T) {
	for name, message := range map[string][]byte{
		"no batch":           {0xff, 0xff, 0xff},
		"no position":        {0x0a, 0x00},
		"envelopes cut":      {0x0a, 0x05, 0x00},
		"position too large": mustMeta(t, &streampb.Batch{Position: &streampb.Position{Doppler: "d", Count: 3}}),
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			n := open(t, s, nil)
			if err := s.WaitConnections(within(t), 1); err != nil {
				t.Fatal(err)
			}
			s.Send(message)
			_, err := n.Recv(within(t))
			wantCode(t, err, nozzle.CodeProtocol)
		})
	}
}

func mustMeta(t *testing.T, b *streampb.Batch) []byte {
	t.Helper()
	meta, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		t.Fatal(err)
	}
	return meta
}

func TestMessageOverLimit(t *testing.T) {
	s := newServer(t)
	s.Push(&loggregatorv2.Envelope{SourceId: strings.Repeat("x", 3000)})
	n := open(t, s, func(c *nozzle.Config) { c.MaxMessageBytes = 2000 })
	_, err := n.Recv(within(t))
	wantCode(t, err, nozzle.CodeLimit)
}

func TestTLS(t *testing.T) {
	s := nozzletest.NewTLSServer()
	t.Cleanup(s.Close)
	s.Push(line("a", 0))
	n := open(t, s, func(c *nozzle.Config) { c.TLS = s.TLS() })
	recv(t, n).Ack()
	waitAcked(t, s, 1)
}

func TestNothingIsReadUnlessTaken(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(1)
	big := &loggregatorv2.Envelope{SourceId: "a", InstanceId: strings.Repeat("x", 60<<10)}
	for range 1000 { // 60 MB
		s.Push(big)
	}
	n := open(t, s, func(c *nozzle.Config) { c.AutoAck = true; c.ReadAhead = 1 })
	recv(t, n)
	// What the server calls acked is in our socket at least.
	held := 0
	eventually(t, "standstill", func() bool {
		before := held
		held = s.Acked()
		<-time.After(100 * time.Millisecond)
		return held > 0 && held == before
	})
	if held > 200 { // 12 MB: the sockets' buffers and a batch
		t.Fatalf("%d batches of 60 KiB were taken from the server, though one was from the stream", held)
	}
	for range 999 {
		recv(t, n)
	}
}

func TestConcurrentAcks(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(3)
	s.Push(lines("a", 0, 3000)...)
	n := open(t, s, nil)
	var wg sync.WaitGroup
	for range 1000 {
		b := recv(t, n)
		wg.Go(func() { b.AckRange(b.Position.GetFirst(), b.Position.GetFirst()+1) })
		wg.Go(func() { b.Ack(); _ = n.Cursor(); _ = n.Status() })
	}
	wg.Wait()
	waitAcked(t, s, 3000)
}

func TestBatchMadeByHand(t *testing.T) {
	b := nozzle.Batch{Position: &streampb.Position{Doppler: "d", First: 3, Count: 1}, Envelopes: []byte{0x0a, 0x00}}
	b.Ack()
	b.AckRange(0, 10)
	if all, err := b.Decode(); err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	for id := range b.All() {
		if id.String() != "d/0/3" {
			t.Fatal(id)
		}
	}
	b.Release()
	bad := nozzle.Batch{Envelopes: []byte{0xff}}
	_, err := bad.Decode()
	wantCode(t, err, nozzle.CodeProtocol)
}
