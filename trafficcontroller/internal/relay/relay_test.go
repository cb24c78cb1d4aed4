package relay

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/slow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// fakeDoppler takes members and lets the test speak for it.
type fakeDoppler struct {
	name  string
	epoch uint64
	addr  string
	dials chan fakeMember
}

type fakeMember struct {
	t     *testing.T
	of    *fakeDoppler
	query url.Values
	conn  *stream.Conn
	said  chan *streampb.Control
}

func newFakeDoppler(t *testing.T, name string) *fakeDoppler {
	d := &fakeDoppler{name: name, epoch: 7, dials: make(chan fakeMember, 10)}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := stream.Accept(w, r, stream.AcceptOptions{})
		if err != nil {
			return
		}
		m := fakeMember{t: t, of: d, query: r.URL.Query(), conn: conn, said: make(chan *streampb.Control, 1000)}
		go m.listen()
		d.dials <- m
	}))
	t.Cleanup(srv.Close)
	d.addr = strings.TrimPrefix(srv.URL, "http://")
	return d
}

func (m fakeMember) listen() {
	defer m.conn.CloseNow()
	for {
		b, err := m.conn.Read(context.Background())
		if err != nil {
			close(m.said)
			return
		}
		c, err := stream.DecodeControl(b.Bytes())
		b.Release()
		if err == nil {
			m.said <- c
		}
	}
}

func (d *fakeDoppler) member(t *testing.T) fakeMember {
	t.Helper()
	select {
	case m := <-d.dials:
		m.say(&streampb.Batch{Hello: &streampb.Hello{Version: 1, Server: d.name, Epoch: d.epoch}, Position: d.position(0, 0)})
		return m
	case <-time.After(patience):
		t.Fatalf("%s was not dialed", d.name)
		return fakeMember{}
	}
}

func (d *fakeDoppler) position(first uint64, n int) *streampb.Position {
	return &streampb.Position{
		Doppler: d.name, Epoch: d.epoch, First: first, Count: uint32(n), Next: first + uint64(n),
		Matched: first, Low: first, LowMatched: first,
	}
}

func (m fakeMember) say(b *streampb.Batch, envelopes ...string) {
	m.t.Helper()
	msg, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, e := range envelopes {
		msg = envelope.AppendRecord(msg, []byte("\x12"+string(rune(len(e)))+e)) // field 2: the source id
	}
	frame := append(stream.AppendFrameHeader(nil, len(msg)), msg...)
	if err := m.conn.WriteFrames([][]byte{frame}, nil, patience); err != nil && !errors.Is(err, stream.ErrStuck) {
		m.t.Log("fake Doppler:", err)
	}
}

func (m fakeMember) heard() *streampb.Control {
	m.t.Helper()
	select {
	case c, ok := <-m.said:
		if !ok {
			m.t.Fatal("the member left")
		}
		return c
	case <-time.After(patience):
		m.t.Fatal("the member says nothing")
		return nil
	}
}

// stage is a relay with an HTTP front.
type stage struct {
	*Relay
	t      *testing.T
	front  *httptest.Server
	closed chan error
	rows   chan Row // of those closed, as they are closed
	opts   Options
	wrap   func(*stream.Conn) Conn // nil: connections are served as they are
}

func newStage(t *testing.T, change func(*Config)) *stage {
	cfg := Config{
		Name: "tc", IdleTimeout: patience, StuckTimeout: patience, Heartbeat: 5 * time.Second,
		Dial: func(ctx context.Context, addr, path string, q url.Values) (*stream.Conn, error) {
			return stream.Dial(ctx, "http://"+addr+path+"?"+q.Encode(), stream.DialOptions{})
		},
	}
	if change != nil {
		change(&cfg)
	}
	s := &stage{Relay: New(cfg, daemon.NewQuietEach(slog.New(slog.DiscardHandler), "addr")), t: t, closed: make(chan error, 100), rows: make(chan Row, 100)}
	s.front = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := stream.Accept(w, r, stream.AcceptOptions{SocketBuffer: 16 << 10})
		if err != nil {
			return
		}
		o := s.opts
		o.Subscription, o.Closed = "sub", func(row Row, err error) { s.rows <- row; s.closed <- err }
		served := Conn(conn)
		if s.wrap != nil {
			served = s.wrap(conn)
		}
		if err := s.Open(served, o); err != nil {
			_ = conn.Close(stream.CloseGoingAway, err.Error())
		}
	}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		s.Close(stream.CloseGoingAway, "test over", 0)
		cancel()
		<-done
		s.front.Close()
	})
	return s
}

func (s *stage) dial() *stream.Conn {
	s.t.Helper()
	c, err := stream.Dial(s.t.Context(), s.front.URL, stream.DialOptions{SocketBuffer: 16 << 10})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.CloseNow)
	return c
}

// next returns the next batch and the number of its envelopes.
func next(t *testing.T, c *stream.Conn) (*streampb.Batch, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	buf, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer buf.Release()
	meta, records, err := stream.SplitBatch(buf.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	b := &streampb.Batch{}
	if err := stream.UnmarshalMeta(meta, b); err != nil {
		t.Fatal(err)
	}
	n, err := stream.CountRecords(records)
	if err != nil {
		t.Fatal(err)
	}
	return b, n
}

func lease(id uint64) *streampb.Lease { return &streampb.Lease{Id: id} }

func TestBatchesPassAndSentComesBack(t *testing.T) {
	s := newStage(t, nil)
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	if b, _ := next(t, c); b.GetHello().GetServer() != "tc" {
		t.Fatalf("first message %v", b)
	}
	m := d.member(t)
	if m.query.Get("shard_id") != "sub" || m.query.Has("start") || m.query.Has("ack") {
		t.Errorf("query %v", m.query)
	}
	if b, n := next(t, c); b.GetHello() != nil || b.GetPosition().GetDoppler() != "d0" || n != 0 {
		t.Fatalf("place %v", b)
	}
	m.say(&streampb.Batch{Position: d.position(0, 2), Lease: lease(1)}, "a", "b")
	if b, n := next(t, c); n != 2 || b.GetLease().GetId() != 1 {
		t.Fatalf("%d envelopes, %v", n, b)
	}
	if got := m.heard().GetSent().GetLease(); got != 1 {
		t.Errorf("sent %d", got)
	}
	m.say(&streampb.Batch{Heartbeat: &streampb.Heartbeat{Lag: 17}})
	m.say(&streampb.Batch{Fins: []*streampb.Fin{{Doppler: "d0", Epoch: 7, End: 2}}})
	if b, _ := next(t, c); len(b.GetFins()) != 1 {
		t.Fatalf("fin %v", b)
	}
	if row := s.Rows()[0]; row.Sent != 2 || row.Lag.Envelopes != 17 || row.Dopplers != 1 {
		t.Errorf("row %+v", row)
	}
}

func TestAcksGoToTheirDoppler(t *testing.T) {
	s := newStage(t, nil)
	cursor := stream.EncodeCursor(&streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{{Doppler: "d9", Epoch: 1, Offset: 4}}})
	s.opts = Options{Acking: true, Cursor: cursor, Query: url.Values{"type": {"log"}}}
	ds := []*fakeDoppler{newFakeDoppler(t, "d0"), newFakeDoppler(t, "d1")}
	for _, d := range ds {
		s.Added(d.addr)
	}
	c := s.dial()
	next(t, c)
	ms := make([]fakeMember, len(ds))
	for i, d := range ds {
		ms[i] = d.member(t)
		if q := ms[i].query; q.Get("ack") != "client" || q.Get("cursor") == "" || q.Get("type") != "log" {
			t.Errorf("query %v", q)
		}
		next(t, c)
	}
	for i := len(ms) - 1; i >= 0; i-- {
		ack := stream.AppendAck(nil, ds[i].name, 7, stream.OffsetRange{First: 3, Last: 9})
		if err := c.Send(t.Context(), ack); err != nil {
			t.Fatal(err)
		}
		got := ms[i].heard().GetAck()
		if got.GetDoppler() != ds[i].name || got.GetRanges()[0].GetLast() != 9 {
			t.Errorf("%s got %v", ds[i].name, got)
		}
	}
}

func TestMemberComesBackFromItsPlace(t *testing.T) {
	s := newStage(t, nil)
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	next(t, c)
	m := d.member(t)
	next(t, c)
	m.say(&streampb.Batch{Position: d.position(5, 1), Lease: lease(1)}, "a")
	next(t, c)
	m.conn.CloseNow()
	m = d.member(t)
	cursor, err := stream.DecodeCursor(m.query.Get("cursor"))
	if err != nil || len(cursor.GetEntries()) != 1 {
		t.Fatalf("cursor %v %v", cursor, err)
	}
	if e := cursor.GetEntries()[0]; e.GetOffset() != 5 || e.GetSeen() != 6 || e.GetEpoch() != 7 || e.GetFinished() {
		t.Errorf("entry %v", e)
	}
}

func TestDopplersComeAndGo(t *testing.T) {
	s := newStage(t, nil)
	c := s.dial()
	next(t, c)
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	m := d.member(t)
	if m.query.Get("start") != "origin" {
		t.Errorf("a Doppler found later was asked for %v", m.query)
	}
	next(t, c)
	s.Removed(d.addr)
	b, _ := next(t, c)
	if len(b.GetGaps()) != 1 || b.GetGaps()[0].GetReason() != streampb.Gap_DOPPLER_LOST || b.GetGaps()[0].GetPrecision() != streampb.Gap_UNKNOWN {
		t.Errorf("told %v", b)
	}
}

func TestStuckClientIsCutWithReason(t *testing.T) {
	s := newStage(t, func(c *Config) { c.StuckTimeout = 200 * time.Millisecond })
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	next(t, c)
	m := d.member(t)
	next(t, c)
	big := strings.Repeat("x", 100)
	many := make([]string, 2000)
	for i := range many {
		many[i] = big
	}
	for i := range 50 {
		m.say(&streampb.Batch{Position: d.position(uint64(i*len(many)), len(many)), Lease: lease(uint64(i + 1))}, many...)
	}
	select {
	case err := <-s.closed:
		var ce *stream.CloseError
		if !errors.As(err, &ce) || ce.Code != stream.CloseStuck || !strings.Contains(ce.Reason, "behind") {
			t.Errorf("closed with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it was not cut")
	}
	if row := <-s.rows; row.Cut != slow.Stuck || row.Lag.Envelopes == 0 {
		t.Errorf("row %+v", row)
	}
}

// A client that came back elsewhere is told so here, should it listen yet.
func TestSupersededClient(t *testing.T) {
	s := newStage(t, nil)
	s.opts.Session = stream.Session{ID: "me", Turn: 3}
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	next(t, c)
	m := d.member(t)
	first, err := stream.ParseSession(m.query.Get("session"))
	if err != nil || first.ID != "me" {
		t.Fatalf("dialed as %v: %v", first, err)
	}
	next(t, c)
	m.conn.CloseNow()
	m = d.member(t)
	if again, err := stream.ParseSession(m.query.Get("session")); err != nil || again.ID != "me" || again.Turn <= first.Turn {
		t.Fatalf("dialed as %v after %v: %v", again, first, err)
	}
	next(t, c)
	_ = m.conn.Close(stream.CloseSuperseded, "elsewhere")
	_, err = c.Read(t.Context())
	var ce *stream.CloseError
	if !errors.As(err, &ce) || ce.Code != stream.CloseSuperseded {
		t.Errorf("closed with %v", err)
	}
}

func TestBadClientMessage(t *testing.T) {
	s := newStage(t, nil)
	c := s.dial()
	next(t, c)
	if err := c.Send(t.Context(), stream.AppendSent(nil, 1)); err != nil {
		t.Fatal(err)
	}
	_, err := c.Read(t.Context())
	var ce *stream.CloseError
	if !errors.As(err, &ce) || ce.Code != stream.CloseBadMessage {
		t.Errorf("closed with %v", err)
	}
}

func TestHeartbeat(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Heartbeat = 50 * time.Millisecond })
	c := s.dial()
	next(t, c)
	if b, _ := next(t, c); b.GetHeartbeat() == nil {
		t.Errorf("not a heartbeat: %v", b)
	}
}

// While a client takes nothing, heartbeats do not pile up.
func TestHeartbeatsDoNotPileUp(t *testing.T) {
	for name, queue := range map[string][]item{
		"all is being written": nil,
		"something is queued":  {{buf: stream.NewBuffer(1)}},
	} {
		t.Run(name, func(t *testing.T) {
			r := New(Config{Heartbeat: time.Second}, daemon.NewQuietEach(slog.New(slog.DiscardHandler), "addr"))
			c := &Client{relay: r, queue: queue}
			c.writing.Lock() // as the writer does that waits for the socket
			r.clients[c] = struct{}{}
			for i := range 100 {
				r.heartbeat(time.Unix(int64(i+1), 0))
			}
			if len(c.queue) != 1 {
				t.Errorf("%d messages are queued", len(c.queue))
			}
			c.dropQueue()
		})
	}
}

func TestCloseSaysWhy(t *testing.T) {
	s := newStage(t, nil)
	c := s.dial()
	next(t, c)
	s.Close(stream.CloseGoingAway, "stopping", 0)
	_, err := c.Read(t.Context())
	var ce *stream.CloseError
	if !errors.As(err, &ce) || ce.Code != stream.CloseGoingAway || ce.Reason != "stopping" {
		t.Errorf("closed with %v", err)
	}
}
