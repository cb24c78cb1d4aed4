package integration

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/api/stream"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// grpcTo connects to a Doppler as an agent or a Traffic Controller would.
func grpcTo(t *testing.T, doppler *pipeline.Service) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(doppler.Addrs[pipeline.GRPC], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// oldFirehose opens a reader of the old framing and waits until it is a member
// at the Doppler.
func oldFirehose(ctx context.Context, t *testing.T, p *pipeline.Pipeline, path string) *stream.Conn {
	t.Helper()
	before := metric(ctx, t, p.Dopplers[0], "doppler_subscriptions")
	conn, err := stream.Dial(ctx, p.URL(0)+path, stream.DialOptions{SocketBuffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.CloseNow)
	poll(ctx, t, "membership", func() bool { return metric(ctx, t, p.Dopplers[0], "doppler_subscriptions") > before })
	return conn
}

// nextOld reads an envelope of the old protocol.
func nextOld(ctx context.Context, t *testing.T, conn *stream.Conn) *events.Envelope {
	t.Helper()
	b, err := conn.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	e := &events.Envelope{}
	if err := proto.Unmarshal(b.Bytes(), e); err != nil {
		t.Fatalf("%x: %v", b.Bytes(), err)
	}
	return e
}

// oldEnvelopes has every kind of the old protocol, each with all it can hold.
func oldEnvelopes() []*events.Envelope {
	app := &events.UUID{Low: proto.Uint64(0x7243cc580bc17af4), High: proto.Uint64(0x79d4c3b2020e67a5)}
	const appID = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	list := []*events.Envelope{
		{EventType: events.Envelope_LogMessage.Enum(), LogMessage: &events.LogMessage{
			Message: []byte("a line\xff"), MessageType: events.LogMessage_ERR.Enum(), Timestamp: proto.Int64(7), AppId: proto.String(appID),
			SourceType: proto.String("APP/PROC/WEB"), SourceInstance: proto.String("3"),
		}},
		{EventType: events.Envelope_ContainerMetric.Enum(), ContainerMetric: &events.ContainerMetric{
			ApplicationId: proto.String(appID), InstanceIndex: proto.Int32(3), CpuPercentage: proto.Float64(1.5), MemoryBytes: proto.Uint64(1),
			DiskBytes: proto.Uint64(2), MemoryBytesQuota: proto.Uint64(3), DiskBytesQuota: proto.Uint64(4),
		}},
		{EventType: events.Envelope_HttpStartStop.Enum(), HttpStartStop: &events.HttpStartStop{
			StartTimestamp: proto.Int64(1), StopTimestamp: proto.Int64(2), RequestId: app, PeerType: events.PeerType_Server.Enum(),
			Method: events.Method_VERSION_CONTROL.Enum(), Uri: proto.String("https://x/?q=1"), RemoteAddress: proto.String("10.0.0.1:99"),
			UserAgent: proto.String("agent"), StatusCode: proto.Int32(418), ContentLength: proto.Int64(-1), ApplicationId: app,
			InstanceIndex: proto.Int32(3), InstanceId: proto.String("instance"), Forwarded: []string{"10.0.0.2", "10.0.0.3"},
		}},
		{EventType: events.Envelope_ValueMetric.Enum(), ValueMetric: &events.ValueMetric{
			Name: proto.String("latency"), Value: proto.Float64(-0.25), Unit: proto.String("ms"),
		}},
		{EventType: events.Envelope_CounterEvent.Enum(), CounterEvent: &events.CounterEvent{
			Name: proto.String("requests"), Delta: proto.Uint64(5), Total: proto.Uint64(1 << 63),
		}},
		{EventType: events.Envelope_Error.Enum(), Error: &events.Error{
			Source: proto.String("router"), Code: proto.Int32(-502), Message: proto.String("no backend"),
		}},
	}
	for i, e := range list {
		e.Origin, e.Timestamp = proto.String("rep"), proto.Int64(7)
		e.Deployment, e.Job, e.Index, e.Ip = proto.String("cf"), proto.String("diego-cell"), proto.String("0"), proto.String("10.0.0.9")
		e.Tags = map[string]string{"source_id": appID, "colour": "bl\u00fc", "empty": ""}
		if i > 2 {
			e.Tags["source_id"], e.Tags["instance_id"] = "rep", "7"
		}
	}
	return list
}

// What an old agent pushes is what an old nozzle reads, field by field.
func TestOldAgentsEnvelopesComeOutUnchanged(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	conn := oldFirehose(ctx, t, p, "/firehose/old")
	pusher, err := plumbingpb.NewDopplerIngestorClient(grpcTo(t, p.Dopplers[0])).Pusher(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range oldEnvelopes() {
		payload, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, payload := range [][]byte{[]byte("\xff\xffgarbage"), payload} {
			if err := pusher.Send(&plumbingpb.EnvelopeData{Payload: payload}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := pusher.CloseAndRecv(); err != nil {
		t.Error(err)
	}
	for _, want := range oldEnvelopes() {
		if got := nextOld(ctx, t, conn); !proto.Equal(got, want) {
			t.Errorf("got\n%v\nwant\n%v", got, want)
		}
	}
	if dropped := metric(ctx, t, p.Dopplers[0], `doppler_ingress_dropped_total{cause="malformed"}`); dropped != 6 {
		t.Errorf("%v malformed, want 6", dropped)
	}
}

// An old reader that is behind gets, and is told it misses, together what it
// would have got: events and empty envelopes, which are not for it, in neither.
func TestOldFirehoseAccountsForWhatItWouldGet(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{
		Dopplers: 1, Controllers: 1, DopplerArgs: []string{"--ring-bytes", "16MiB"}, ControllerArgs: []string{"--slow-timeout", "10m"},
	})
	conn := oldFirehose(ctx, t, p, "/firehose/behind")
	sent := sendMixed(ctx, t, p.Dopplers[0], 1000)
	received, missed := uint64(0), uint64(0)
	for last := false; !last; {
		e := nextOld(ctx, t, conn)
		if c := e.GetCounterEvent(); c.GetName() == "TruncatingBuffer.DroppedMessages" && e.GetOrigin() == "doppler" {
			if missed += c.GetDelta(); c.GetTotal() != missed {
				t.Errorf("total %d, want %d", c.GetTotal(), missed)
			}
			continue
		}
		received++
		last = string(e.GetLogMessage().GetMessage()) == lastLine
	}
	if missed == 0 {
		t.Error("nothing was missed: the test shows nothing")
	}
	if received+missed != sent {
		t.Errorf("received %d and missed %d of %d", received, missed, sent)
	}
}

const lastLine = "that is all"

// sendMixed sends batches of envelopes of many kinds and returns how many of
// them an old reader would get.
func sendMixed(ctx context.Context, t *testing.T, doppler *pipeline.Service, batches int) uint64 {
	t.Helper()
	sender, err := loggregatorv2.NewIngressClient(grpcTo(t, doppler)).BatchSender(ctx)
	if err != nil {
		t.Fatal(err)
	}
	line := func(text string) *loggregatorv2.Envelope_Log {
		return &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}}
	}
	tags := map[string]string{"filler": strings.Repeat("x", 500)}
	kinds := []*loggregatorv2.Envelope{
		{SourceId: "a", Tags: tags, Message: line("a line")},
		{SourceId: "b", Tags: tags, Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "an event"}}},
		{SourceId: "a", Tags: tags, Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "a counter"}}},
		{SourceId: "b", Tags: tags},
		{SourceId: "b", Tags: tags, Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "another"}}},
	}
	batch := &loggregatorv2.EnvelopeBatch{Batch: slices.Repeat(kinds, 20)}
	for range batches {
		if err := sender.Send(batch); err != nil {
			t.Fatal(err)
		}
	}
	last := &loggregatorv2.Envelope{Message: line(lastLine)}
	if err := sender.Send(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{last}}); err != nil {
		t.Fatal(err)
	}
	if _, err := sender.CloseAndRecv(); err != nil {
		t.Fatal(err)
	}
	return uint64(batches)*20*2 + 1
}

// tally is what readers that share have got: each line of a producer once.
type tally struct {
	mu     sync.Mutex
	lines  map[string]int
	others int // what is no line, gaps above all
}

func (y *tally) take(text string, line bool) {
	y.mu.Lock()
	defer y.mu.Unlock()
	if !line {
		y.others++
		return
	}
	if y.lines == nil {
		y.lines = map[string]int{}
	}
	y.lines[text]++
}

func (y *tally) takeOld(payload []byte) {
	e := &events.Envelope{}
	err := proto.Unmarshal(payload, e)
	y.take(string(e.GetLogMessage().GetMessage()), err == nil && e.GetLogMessage().GetAppId() == fleetApp)
}

func (y *tally) count() (different, all, others int) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for _, n := range y.lines {
		all += n
	}
	return len(y.lines), all, y.others
}

// Producers of every generation, calls and WebSockets: each subscription, whoever
// shares it, gets each envelope of every Doppler once.
func TestOldCallsReadBesideWebSockets(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 2, Controllers: 1})
	tallies := map[string]*tally{}
	reading := func(name string) *tally {
		if tallies[name] == nil {
			tallies[name] = &tally{}
		}
		return tallies[name]
	}
	readBatches(ctx, t, p, "batches", reading("batches").take)
	readOld(ctx, t, p, "/firehose/old", reading("old").takeOld)
	readOld(ctx, t, p, "/firehose/shared", reading("shared").takeOld)
	readOld(ctx, t, p, "/apps/"+fleetApp+"/stream", reading("tail").takeOld)
	for _, d := range p.Dopplers {
		readCall(ctx, t, d, &plumbingpb.SubscriptionRequest{ShardId: "shared"}, reading("shared").takeOld)
		readCall(ctx, t, d, &plumbingpb.SubscriptionRequest{Filter: &plumbingpb.Filter{AppId: fleetApp}}, reading("calls of an app").takeOld)
		readCall(ctx, t, d, &plumbingpb.SubscriptionRequest{
			ShardId: "logs", Filter: &plumbingpb.Filter{Message: &plumbingpb.Filter_Log{}},
		}, reading("calls for logs").takeOld)
	}
	for _, d := range p.Dopplers {
		poll(ctx, t, "subscriptions", func() bool { return metric(ctx, t, d, "doppler_subscriptions") == 7 })
	}
	const lines = 5_000
	var all sync.WaitGroup
	for i, d := range p.Dopplers {
		conn := grpcTo(t, d)
		for kind, produce := range map[string]func(context.Context, *grpc.ClientConn, string, int) error{
			"pushed": pushLines, "single": sendLines, "batched": sendBatches,
		} {
			all.Go(func() {
				if err := produce(ctx, conn, fmt.Sprint(kind, i, " "), lines); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	total := 3 * lines * len(p.Dopplers)
	for name, y := range tallies {
		poll(ctx, t, name, func() bool {
			different, all, others := y.count()
			return different == total || all+others > total
		})
		if different, all, others := y.count(); different != total || all != total || others != 0 {
			t.Errorf("%s: %d different lines and %d in all, want %d; %d others", name, different, all, total, others)
		}
	}
	for _, d := range p.Dopplers {
		for _, framing := range []string{"v1", "v2", "v2_batch"} {
			if n := metric(ctx, t, d, `doppler_ingress_framing_envelopes_total{framing="`+framing+`"}`); n != lines {
				t.Errorf("%s says that %v envelopes came as %s, want %d", d.Name, n, framing, lines)
			}
		}
	}
}

const fleetApp = "f47ac10b-58cc-4372-a567-0e02b2c3d479"

// reader runs until the test ends.
func reader(t *testing.T, run func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		run()
	}()
	t.Cleanup(func() { <-done })
}

func readBatches(ctx context.Context, t *testing.T, p *pipeline.Pipeline, subscription string, take func(text string, line bool)) {
	t.Helper()
	s, err := nozzle.Open(ctx, nozzle.Config{Addr: p.URL(0), Subscription: subscription})
	if err != nil {
		t.Fatal(err)
	}
	reader(t, func() {
		for {
			b, err := s.Recv(ctx)
			if err != nil {
				return
			}
			for range b.Gaps {
				take("", false)
			}
			for env := range envelope.Walk(b.Envelopes) {
				e := &loggregatorv2.Envelope{}
				err := proto.Unmarshal(env, e)
				take(string(e.GetLog().GetPayload()), err == nil && e.GetSourceId() == fleetApp)
			}
			b.Ack()
		}
	})
	t.Cleanup(func() { _ = s.Close() })
}

func readOld(ctx context.Context, t *testing.T, p *pipeline.Pipeline, path string, take func(v1 []byte)) {
	t.Helper()
	conn, err := stream.Dial(ctx, p.URL(0)+path, stream.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	reader(t, func() {
		for {
			b, err := conn.Read(ctx)
			if err != nil {
				return
			}
			take(b.Bytes())
			b.Release()
		}
	})
	t.Cleanup(conn.CloseNow)
}

func readCall(ctx context.Context, t *testing.T, doppler *pipeline.Service, q *plumbingpb.SubscriptionRequest, take func(v1 []byte)) {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	calls, err := plumbingpb.NewDopplerClient(grpcTo(t, doppler)).BatchSubscribe(ctx, q)
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	reader(t, func() {
		for {
			m, err := calls.Recv()
			if err != nil {
				return
			}
			for _, v1 := range m.GetPayload() {
				take(v1)
			}
		}
	})
	t.Cleanup(cancel)
}

func fleetLine(text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		SourceId: fleetApp, Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}},
	}
}

func pushLines(ctx context.Context, conn *grpc.ClientConn, prefix string, n int) error {
	s, err := plumbingpb.NewDopplerIngestorClient(conn).Pusher(ctx)
	for i := 0; i < n && err == nil; i++ {
		v1 := dropsonde.AppendLogMessage(nil, "rep", prefix+strconv.Itoa(i), fleetApp, "APP", "0", false, int64(i))
		err = s.Send(&plumbingpb.EnvelopeData{Payload: v1})
	}
	if err == nil {
		_, err = s.CloseAndRecv()
	}
	return err
}

func sendLines(ctx context.Context, conn *grpc.ClientConn, prefix string, n int) error {
	s, err := loggregatorv2.NewIngressClient(conn).Sender(ctx)
	for i := 0; i < n && err == nil; i++ {
		err = s.Send(fleetLine(prefix + strconv.Itoa(i)))
	}
	if err == nil {
		_, err = s.CloseAndRecv()
	}
	return err
}

func sendBatches(ctx context.Context, conn *grpc.ClientConn, prefix string, n int) error {
	s, err := loggregatorv2.NewIngressClient(conn).BatchSender(ctx)
	for i := 0; i < n && err == nil; i += 2 {
		err = s.Send(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{
			fleetLine(prefix + strconv.Itoa(i)), fleetLine(prefix + strconv.Itoa(i+1)),
		}})
	}
	if err == nil {
		_, err = s.CloseAndRecv()
	}
	return err
}
