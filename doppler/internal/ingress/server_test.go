package ingress

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// memory keeps copies of what is appended, and blocks while gate is set.
type memory struct {
	mu   sync.Mutex
	envs [][]byte
	most int // most envelopes at once
	gate chan struct{}
}

func (m *memory) Append(msg []byte, recs []envelope.Record) uint64 {
	if m.gate != nil {
		<-m.gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	first := uint64(len(m.envs))
	for _, r := range recs {
		m.envs = append(m.envs, bytes.Clone(msg[r.Start:r.End]))
	}
	m.most = max(m.most, len(recs))
	return first
}

func (m *memory) all() [][]byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.envs)
}

// rig is a running server and a client.
type rig struct {
	*Server
	t      *testing.T
	memory *memory
	addr   string
	client *grpc.ClientConn
	cancel context.CancelFunc
	ended  chan error
}

func start(t *testing.T, change func(*Config), to *memory) *rig {
	t.Helper()
	cfg := testConfig()
	if change != nil {
		change(&cfg)
	}
	server, err := New(cfg, to)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &rig{Server: server, t: t, memory: to, addr: l.Addr().String(), cancel: cancel, ended: make(chan error, 1)}
	go func() { r.ended <- run(ctx, server, l) }()
	r.client = r.dial()
	t.Cleanup(func() {
		_ = r.client.Close()
		r.stop()
	})
	return r
}

// run is a server's life.
func run(ctx context.Context, s *Server, l net.Listener) error {
	defer s.Stop()
	return s.Run(ctx, l)
}

func (r *rig) dial() *grpc.ClientConn {
	r.t.Helper()
	client, err := grpc.NewClient(r.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	return client
}

func (r *rig) stop() {
	r.t.Helper()
	r.cancel()
	if err, ok := <-r.ended; ok && err != nil {
		r.t.Error(err)
	}
	select {
	case <-r.ended:
	default:
		close(r.ended)
	}
}

// service is where a method is.
func service(method string) string {
	if method == "Pusher" {
		return "/plumbing.DopplerIngestor/"
	}
	return "/loggregator.v2.Ingress/"
}

// open opens a raw stream: messages are byte slices.
func (r *rig) open(method string) grpc.ClientStream {
	r.t.Helper()
	s, err := r.client.NewStream(r.t.Context(), &grpc.StreamDesc{ClientStreams: true},
		service(method)+method, grpc.ForceCodecV2(rawCodec{}))
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

func (r *rig) sendAll(s grpc.ClientStream, messages ...[]byte) {
	r.t.Helper()
	for _, m := range messages {
		if err := s.SendMsg(m); err != nil {
			r.t.Fatal(err)
		}
	}
}

func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("never happened: %s", what)
			return
		}
	}
}

func env(t *testing.T, source string, n int) []byte {
	t.Helper()
	data, err := proto.Marshal(&loggregatorv2.Envelope{
		Timestamp: int64(n), SourceId: source,
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: fmt.Appendf(nil, "line %d", n)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func batch(envs ...[]byte) []byte {
	var b []byte
	for _, e := range envs {
		b = envelope.AppendRecord(b, e)
	}
	return b
}

// TestCalls uses the generated client of each call, as real producers do.
func TestCalls(t *testing.T) {
	r := start(t, nil, &memory{})
	client := loggregatorv2.NewIngressClient(r.client)
	one := func(n int64) *loggregatorv2.Envelope { return &loggregatorv2.Envelope{Timestamp: n, SourceId: "a"} }

	singles, err := client.Sender(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	batches, err := client.BatchSender(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(singles.Send(one(1)), singles.Send(one(2)),
		batches.Send(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{one(3), one(4)}}),
		batches.Send(&loggregatorv2.EnvelopeBatch{})); err != nil {
		t.Fatal(err)
	}
	// The answer to the end of a stream says that all of it was taken.
	if _, err := singles.CloseAndRecv(); err != nil {
		t.Error(err)
	}
	if _, err := batches.CloseAndRecv(); err != nil {
		t.Error(err)
	}
	if _, err := client.Send(t.Context(), &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{one(5)}}); err != nil {
		t.Error(err)
	}
	var got []int64
	for _, e := range r.memory.all() {
		var decoded loggregatorv2.Envelope
		if err := proto.Unmarshal(e, &decoded); err != nil {
			t.Fatal(err)
		}
		got = append(got, decoded.GetTimestamp())
	}
	slices.Sort(got)
	if !slices.Equal(got, []int64{1, 2, 3, 4, 5}) {
		t.Errorf("appended %v", got)
	}
	stats := r.Stats()
	if stats.Accepted != 5 || stats.AcceptedBy != [numFramings]uint64{Batched: 3, Single: 2} || stats.Messages != 5 || stats.Dropped.Total() != 0 || stats.StreamsOpened != 3 || stats.Streams != 0 {
		t.Errorf("%+v", stats)
	}
}

func TestBadInputIsDroppedAndCounted(t *testing.T) {
	good := env(t, "good", 1)
	badText := bytes.Replace(env(t, "bad!", 2), []byte("bad!"), []byte("ba\xff!"), 1)
	longSource := env(t, strings.Repeat("s", 300), 3)
	large := env(t, "large", 4)
	large = append(large, bytes.Repeat([]byte{0xa2, 1, 1, 0}, 1<<18)...) // unknown fields, over 1 MiB
	unknown := append([]byte{0x10, 5}, batch(good)...)
	v1 := v1Line("good", "line")
	for _, test := range []struct {
		name, method string
		message      []byte
		accepted     uint64
		dropped      Dropped
		unknown      uint64
	}{
		{"neighbours are kept", "BatchSender", batch(good, badText, good), 2, Dropped{Malformed: 1}, 0},
		{"garbage", "BatchSender", []byte("\xff\xff\xffgarbage"), 0, Dropped{Truncated: 1}, 0},
		{"broken framing keeps what came before", "BatchSender", append(batch(good, good), 0x0a, 0x7f, 1), 2, Dropped{Truncated: 1}, 0},
		{"unknown batch field", "BatchSender", unknown, 1, Dropped{}, 1},
		{"long source id", "BatchSender", batch(longSource, good), 1, Dropped{SourceTooLong: 1}, 0},
		{"large envelope", "BatchSender", batch(good, large), 1, Dropped{TooLarge: 1}, 0},
		{"single", "Sender", good, 1, Dropped{}, 0},
		{"empty single", "Sender", nil, 1, Dropped{}, 0},
		{"single garbage", "Sender", []byte("\xff\xffgarbage"), 0, Dropped{Malformed: 1}, 0},
		{"single not UTF-8", "Sender", badText, 0, Dropped{Malformed: 1}, 0},
		{"single long source id", "Sender", longSource, 0, Dropped{SourceTooLong: 1}, 0},
		{"single large", "Sender", large, 0, Dropped{TooLarge: 1}, 0},
		{"pushed", "Pusher", pushed(v1), 1, Dropped{}, 0},
		{"pushed, not UTF-8", "Pusher", pushed(v1Line("ba\xff!", "\xff")), 1, Dropped{}, 0},
		{"pushed garbage", "Pusher", []byte("\xff\xffgarbage"), 0, Dropped{Malformed: 1}, 0},
		{"pushed nothing", "Pusher", nil, 0, Dropped{Malformed: 1}, 0},
		{"pushed payload garbage", "Pusher", pushed([]byte("\xff\xffgarbage")), 0, Dropped{Malformed: 1}, 0},
		{"pushed without event type", "Pusher", pushed([]byte("\x0a\x01o")), 0, Dropped{Malformed: 1}, 0},
		{"pushed, broken off", "Pusher", pushed(v1)[:len(v1)], 0, Dropped{Malformed: 1}, 0},
		{"pushed long source id", "Pusher", pushed(v1Line(strings.Repeat("s", 300), "line")), 0, Dropped{SourceTooLong: 1}, 0},
		{"pushed large", "Pusher", pushed(v1Line("large", strings.Repeat("x", 1<<20))), 0, Dropped{TooLarge: 1}, 0},
		{"pushed, too large in its new form", "Pusher", pushed(v1Line("large", strings.Repeat("x", 1<<20-64))), 0, Dropped{TooLarge: 1}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := start(t, nil, &memory{})
			s := r.open(test.method)
			r.sendAll(s, test.message)
			eventually(t, "message taken", func() bool { return r.Stats().Messages == 1 })
			stats := r.Stats()
			if stats.Accepted != test.accepted || stats.Dropped != test.dropped || stats.UnknownFields != test.unknown {
				t.Errorf("accepted %d, dropped %+v, unknown fields %d", stats.Accepted, stats.Dropped, stats.UnknownFields)
			}
			// The stream lives on.
			r.sendAll(s, nil)
			eventually(t, "next message taken", func() bool { return r.Stats().Messages == 2 })
		})
	}
}

func TestMessageOverLimit(t *testing.T) {
	r := start(t, nil, &memory{})
	other := r.open("Sender")
	s := r.open("BatchSender")
	// The server may end the stream before all is sent.
	if err := s.SendMsg(make([]byte, 11<<20)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	err := s.RecvMsg(nil)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max (11534336 vs. 10485760)") {
		t.Errorf("got %v", err)
	}
	client := loggregatorv2.NewIngressClient(r.client)
	_, err = client.Send(t.Context(), &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{{
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: make([]byte, 11<<20)}},
	}}})
	if status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	eventually(t, "both counted", func() bool { return r.Stats().Dropped.MessageTooLarge == 2 })
	r.sendAll(other, env(t, "other", 1))
	eventually(t, "other stream lives on", func() bool { return r.Stats().Accepted == 1 })
}

// TestLargeMessages come in many frames and with more envelopes than are
// appended at once.
func TestLargeMessages(t *testing.T) {
	r := start(t, nil, &memory{})
	stamp, err := envelopetest.NewStamp("source")
	if err != nil {
		t.Fatal(err)
	}
	var message []byte
	var want [][]byte
	for i := range 2000 {
		want = append(want, stamp.Append(nil, uint64(i), time.Unix(int64(i), 0)))
		message = envelope.AppendRecord(message, want[i])
	}
	batches, singles := r.open("BatchSender"), r.open("Sender")
	large := env(t, "large", 1)
	large = append(large, bytes.Repeat([]byte{0xa2, 1, 1, 0}, 1<<16)...)
	r.sendAll(batches, message)
	eventually(t, "batch taken", func() bool { return r.Stats().Messages == 1 })
	r.sendAll(singles, large, large)
	eventually(t, "singles taken", func() bool { return r.Stats().Messages == 3 })
	want = append(want, large, large)
	if got := r.memory.all(); !slices.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("%d envelopes appended, want %d, or other ones", len(got), len(want))
	}
	if r.memory.most > recordsPerAppend {
		t.Errorf("%d envelopes appended at once", r.memory.most)
	}
	eventually(t, "all buffers back", func() bool { return r.Stats().BufferBytes == 0 })
}

func TestStreamsAreBounded(t *testing.T) {
	r := start(t, func(c *Config) { c.Bytes = MinBytes }, &memory{})
	if r.MaxStreams() != 8 {
		t.Fatalf("%d streams", r.MaxStreams())
	}
	var first grpc.ClientStream
	for range r.MaxStreams() {
		first = r.open("Sender")
	}
	eventually(t, "all admitted", func() bool { return r.Stats().Streams == 8 })
	err := r.open("BatchSender").RecvMsg(nil)
	if status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "8 ingress streams are open") ||
		!strings.Contains(err.Error(), "1835008 bytes") {
		t.Errorf("got %v", err)
	}
	if _, err := loggregatorv2.NewIngressClient(r.client).Send(t.Context(), &loggregatorv2.EnvelopeBatch{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v", err)
	}
	if stats := r.Stats(); stats.StreamsRefused != 2 {
		t.Errorf("%+v", stats)
	}
	if err := first.CloseSend(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one left", func() bool { return r.Stats().Streams == 7 })
	r.sendAll(r.open("Sender"), env(t, "s", 1))
	eventually(t, "place taken", func() bool { return r.Stats().Accepted == 1 })
}

func TestConnectionsAreBounded(t *testing.T) {
	r := start(t, func(c *Config) { c.Bytes = MinBytes }, &memory{})
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range r.MaxStreams() + 1 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	// The server greets with its settings, or hangs up.
	last := conns[len(conns)-1]
	_ = last.SetDeadline(time.Now().Add(10 * time.Second))
	if n, err := last.Read(make([]byte, 64)); n != 0 || err == nil {
		t.Errorf("connection over the limit was greeted: %d bytes, %v", n, err)
	}
	_ = conns[0].Close()
	eventually(t, "a connection is free", func() bool {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		n, _ := c.Read(make([]byte, 64))
		return n > 0
	})
}

// echo is another service on the same server.
type echo struct {
	loggregatorv2.UnimplementedEgressServer
}

func (echo) BatchedReceiver(q *loggregatorv2.EgressBatchRequest, s grpc.ServerStreamingServer[loggregatorv2.EnvelopeBatch]) error {
	return s.Send(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{{SourceId: q.GetShardId()}}})
}

func TestOtherServicesKeepTheirCodec(t *testing.T) {
	server, err := New(testConfig(), &memory{})
	if err != nil {
		t.Fatal(err)
	}
	loggregatorv2.RegisterEgressServer(server.GRPC(), echo{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, server, l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s, err := loggregatorv2.NewEgressClient(conn).BatchedReceiver(t.Context(), &loggregatorv2.EgressBatchRequest{ShardId: "hello"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Recv(); err != nil || got.GetBatch()[0].GetSourceId() != "hello" {
		t.Errorf("got %v, %v", got, err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestConfigFaults(t *testing.T) {
	for _, cfg := range []Config{{Bytes: MinBytes - 1, MaxMessage: 1, Window: MinWindow}, {Bytes: MinBytes, Window: MinWindow}, {Bytes: MinBytes, MaxMessage: 1}} {
		if s, err := New(cfg, &memory{}); err == nil {
			t.Errorf("%+v made %v", cfg, s)
		}
	}
}

func TestRunTellsABrokenListener(t *testing.T) {
	server, err := New(testConfig(), &memory{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = l.Close()
	if err := run(t.Context(), server, l); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

// evens is a Limiter that leaves out every other envelope there is.
type evens struct{ seen atomic.Uint64 }

func (e *evens) Admit(now int64, _ []byte, recs []envelope.Record) []envelope.Record {
	kept := recs[:0]
	for _, r := range recs {
		if e.seen.Add(1)%2 == 0 && now > 0 {
			kept = append(kept, r)
		}
	}
	return kept
}

// What the Limiter leaves out is counted and not appended, whatever it came in.
func TestLimiterDecides(t *testing.T) {
	for method, messages := range map[string][][]byte{
		"Sender":      {env(t, "a", 0), env(t, "a", 1), env(t, "a", 2), env(t, "a", 3)},
		"BatchSender": {batch(env(t, "a", 0), env(t, "a", 1), env(t, "a", 2)), batch(env(t, "a", 3))},
		"Pusher":      {pushed(v1Line("a", "0")), pushed(v1Line("a", "1")), pushed(v1Line("a", "2")), pushed(v1Line("a", "3"))},
	} {
		t.Run(method, func(t *testing.T) {
			to := &memory{}
			r := start(t, func(c *Config) { c.Limiter = &evens{} }, to)
			r.sendAll(r.open(method), messages...)
			eventually(t, "all are taken", func() bool { return r.Stats().Messages == uint64(len(messages)) })
			stats := r.Stats()
			if stats.Accepted != 2 || stats.Dropped.OverLimit != 2 || stats.Dropped.Total() != 2 || len(to.all()) != 2 {
				t.Errorf("%d accepted, %d over the limit, %d appended", stats.Accepted, stats.Dropped.OverLimit, len(to.all()))
			}
		})
	}
}
