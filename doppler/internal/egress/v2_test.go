package egress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// receiver is one BatchedReceiver call.
type receiver struct {
	t      *testing.T
	calls  grpc.ServerStreamingClient[loggregatorv2.EnvelopeBatch]
	cancel func()
	got    []*loggregatorv2.Envelope
	missed uint64
	most   int // bytes of a message
}

func (d *doppler) receive(client loggregatorv2.EgressClient, q *loggregatorv2.EgressBatchRequest) *receiver {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	d.t.Cleanup(cancel)
	calls, err := client.BatchedReceiver(ctx, q)
	if err != nil {
		d.t.Fatal(err)
	}
	if _, err := calls.Header(); err != nil {
		d.t.Fatal(err)
	}
	return &receiver{t: d.t, calls: calls, cancel: cancel}
}

func (r *receiver) next() error {
	b, err := r.calls.Recv()
	if err != nil {
		return err
	}
	r.most = max(r.most, proto.Size(b))
	for _, e := range b.GetBatch() {
		if e.GetCounter().GetName() == "dropped" && e.GetTags()["origin"] == "loggregator.rlp" {
			r.missed += e.GetCounter().GetDelta()
			continue
		}
		r.got = append(r.got, e)
	}
	return nil
}

func (r *receiver) until(done func() bool) {
	r.t.Helper()
	for !done() {
		if err := r.next(); err != nil {
			r.t.Fatalf("after %d envelopes: %v", len(r.got), err)
		}
	}
}

func (r *receiver) toEnd() error {
	for {
		if err := r.next(); err != nil {
			return err
		}
	}
}

// Selectors as protocol/01 has them.
var (
	anyLog   = &loggregatorv2.Selector{Message: &loggregatorv2.Selector_Log{}}
	anyTimer = &loggregatorv2.Selector{Message: &loggregatorv2.Selector_Timer{}}
	anyEvent = &loggregatorv2.Selector{Message: &loggregatorv2.Selector_Event{}}
)

func counters(name string) *loggregatorv2.Selector {
	return &loggregatorv2.Selector{Message: &loggregatorv2.Selector_Counter{Counter: &loggregatorv2.CounterSelector{Name: name}}}
}

func gauges(names ...string) *loggregatorv2.Selector {
	return &loggregatorv2.Selector{Message: &loggregatorv2.Selector_Gauge{Gauge: &loggregatorv2.GaugeSelector{Names: names}}}
}

func of(source string, s *loggregatorv2.Selector) *loggregatorv2.Selector {
	s = proto.CloneOf(s)
	s.SourceId = source
	return s
}

// kinds counts envelopes by source and type.
func kinds(list []*loggregatorv2.Envelope) string {
	n := map[string]int{}
	for _, e := range list {
		kind := strings.TrimPrefix(strings.TrimPrefix(fmt.Sprintf("%T", e.GetMessage()), "*loggregatorv2.Envelope_"), "<nil>")
		n[e.GetSourceId()+"/"+kind]++
	}
	return fmt.Sprint(n)
}

func TestV2Selectors(t *testing.T) {
	list := func(s ...*loggregatorv2.Selector) *loggregatorv2.EgressBatchRequest {
		return &loggregatorv2.EgressBatchRequest{Selectors: s}
	}
	for name, test := range map[string]struct {
		request *loggregatorv2.EgressBatchRequest
		want    string
	}{
		"none":                      {list(), "map[]"},
		"without a message":         {list(&loggregatorv2.Selector{SourceId: "a"}), "map[]"},
		"one without a message":     {list(&loggregatorv2.Selector{SourceId: "a"}, of("a", anyTimer)), "map[a/Timer:2]"},
		"logs":                      {list(anyLog), "map[a/Log:2 b/Log:2]"},
		"logs of a, events":         {list(of("a", anyLog), anyEvent), "map[a/Event:1 a/Log:2 b/Event:1]"},
		"any counter":               {list(counters("")), "map[a/Counter:1 b/Counter:1]"},
		"counter by name":           {list(counters("c")), "map[a/Counter:1 b/Counter:1]"},
		"counter of another name":   {list(counters("cc")), "map[]"},
		"any gauge":                 {list(gauges()), "map[a/Gauge:2 b/Gauge:2]"},
		"gauge of all its names":    {list(gauges("c", "a", "b")), "map[a/Gauge:1 b/Gauge:1]"},
		"gauge of some of them":     {list(gauges("a", "b")), "map[]"},
		"gauge of more":             {list(gauges("a", "b", "c", "d")), "map[]"},
		"overlapping":               {list(anyLog, of("a", anyLog), anyLog), "map[a/Log:2 b/Log:2]"},
		"legacy":                    {&loggregatorv2.EgressBatchRequest{LegacySelector: anyTimer}, "map[a/Timer:2 b/Timer:2]"},
		"selectors win over legacy": {&loggregatorv2.EgressBatchRequest{LegacySelector: anyTimer, Selectors: []*loggregatorv2.Selector{anyEvent}}, "map[a/Event:1 b/Event:1]"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, 4<<20, notYoung)
			defer d.stop()
			r := d.receive(loggregatorv2.NewEgressClient(d.calls()), test.request)
			d.add(everyKind("a")...)
			d.add(everyKind("b")...)
			ended := d.drain(20 * time.Second)
			if err := r.toEnd(); !errors.Is(err, io.EOF) {
				t.Errorf("ended with %v", err)
			}
			endsWithin(t, ended, 20*time.Second)
			if got := kinds(r.got); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// The same shard id and filter is the same group, whatever the framing.
func TestV2CallsShareGroups(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	logs := &loggregatorv2.EgressBatchRequest{ShardId: "shard", Selectors: []*loggregatorv2.Selector{anyLog}}
	r := d.receive(client, logs)
	ws := d.dial("/v2/firehose?shard_id=shard&type=log")
	defer ws.conn.CloseNow()
	if _, err := ws.next(); err != nil { // hello
		t.Fatal(err)
	}
	if n := d.server.Stats().Groups; n != 1 {
		t.Fatalf("%d groups", n)
	}
	const total = 2000
	got := make(chan string, 2*total)
	go func() {
		for r.next() == nil {
			for _, e := range r.got {
				got <- string(e.GetLog().GetPayload())
			}
			r.got = nil
		}
	}()
	go func() {
		for {
			ws.lines = nil
			b, err := ws.next()
			if err != nil {
				return
			}
			ws.settle(b) // before the last line ends the test
			for _, l := range ws.lines {
				_, line, _ := strings.Cut(l, ": ")
				got <- line
			}
		}
	}()
	d.emit("app", total)
	seen := map[string]bool{}
	for range total {
		seen[<-got] = true
	}
	if len(seen) != total {
		t.Errorf("%d different lines of %d", len(seen), total)
	}
	other := d.receive(client, &loggregatorv2.EgressBatchRequest{Selectors: logs.Selectors})
	if n := d.server.Stats().Groups; n != 2 {
		t.Errorf("without a shard id there are %d groups", n)
	}
	other.cancel()
}

// The bytes are those of the producer, and the tags what it said.
func TestV2CallsGetWhatWasSent(t *testing.T) {
	d := start(t, 4<<20, nil)
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	q := &loggregatorv2.EgressBatchRequest{UsePreferredTags: true, Selectors: []*loggregatorv2.Selector{anyLog}}
	r := d.receive(client, q)
	single, err := client.Receiver(t.Context(), &loggregatorv2.EgressRequest{Selectors: q.Selectors})
	if err == nil {
		_, err = single.Header()
	}
	if err != nil {
		t.Fatal(err)
	}
	sent := logOf("app", "line")
	sent.Tags = map[string]string{"a": "1"}
	sent.DeprecatedTags = map[string]*loggregatorv2.Value{"b": {Data: &loggregatorv2.Value_Integer{Integer: 2}}}
	d.add(sent, sent)
	r.until(func() bool { return len(r.got) == 2 })
	for i := range 2 {
		e, err := single.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(e, sent) || !proto.Equal(r.got[i], sent) {
			t.Errorf("got %v and %v", e, r.got[i])
		}
	}
}

// A client with gRPC's own limit of 4 MiB survives large envelopes, and one that
// is too slow is told what it misses.
func TestV2GapsAndSizes(t *testing.T) {
	d := start(t, 8<<20, func(c *Config) { c.WindowBytes = 64 << 10 })
	defer d.stop()
	r := d.receive(loggregatorv2.NewEgressClient(d.calls()), &loggregatorv2.EgressBatchRequest{Selectors: []*loggregatorv2.Selector{anyLog}})
	const rounds = 200
	for range rounds {
		d.add(logOf("app", strings.Repeat("x", 300<<10)), logOf("app", "short"), everyKind("app")[7])
	}
	r.until(func() bool { return len(r.got)+int(r.missed) >= 2*rounds })
	if r.missed == 0 || len(r.got)+int(r.missed) != 2*rounds || r.most > v2BatchBytes+1<<10 {
		t.Errorf("got %d and missed %d of %d, at most %d bytes at a time", len(r.got), r.missed, 2*rounds, r.most)
	}
}

func TestV2GapOfUnknownSize(t *testing.T) {
	f := &v2Framing{single: true}
	f.Take([]*streampb.Gap{{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST}}, nil)
	var sent []*loggregatorv2.Envelope
	err := f.Send(func(m *callMessage) error {
		e := &loggregatorv2.Envelope{}
		sent = append(sent, e)
		return proto.Unmarshal(m.bytes, e)
	})
	if err != nil || len(sent) != 1 || sent[0].GetCounter().GetDelta() != 1 || sent[0].GetTags()["precision"] != "UNKNOWN" {
		t.Errorf("%v, %v", sent, err)
	}
}

func TestV2Refusals(t *testing.T) {
	d := start(t, 4<<20, func(c *Config) { c.MaxSubscriptions = 1 })
	defer d.stop()
	client := loggregatorv2.NewEgressClient(d.calls())
	many := slices.Repeat([]*loggregatorv2.Selector{anyLog}, 10_001)
	names := gauges(slices.Repeat([]string{"n"}, 6000)...)
	first := d.receive(client, &loggregatorv2.EgressBatchRequest{})
	defer first.cancel()
	for name, test := range map[string]struct {
		request *loggregatorv2.EgressBatchRequest
		code    codes.Code
		says    string
	}{
		"shard id":  {&loggregatorv2.EgressBatchRequest{ShardId: strings.Repeat("x", 1025)}, codes.InvalidArgument, "shard_id has 1025 bytes, the limit is 1024"},
		"selectors": {&loggregatorv2.EgressBatchRequest{Selectors: many}, codes.InvalidArgument, "10001 selectors, the limit is 10000"},
		"names":     {&loggregatorv2.EgressBatchRequest{Selectors: []*loggregatorv2.Selector{names, names}}, codes.InvalidArgument, "10000 names"},
		"one more":  {&loggregatorv2.EgressBatchRequest{}, codes.ResourceExhausted, "limit is 1"},
	} {
		calls, err := client.BatchedReceiver(t.Context(), test.request)
		if err == nil {
			_, err = calls.Recv()
		}
		if status.Code(err) != test.code || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want %v with %q", name, err, test.code, test.says)
		}
	}
	if got := d.server.Stats().Refused; got != [NumRefusals]uint64{BadRequest: 3, OverLimit: 1} {
		t.Errorf("counted %v", got)
	}
}

// Each framing has its own count; together they are what was sent.
func TestSentIsCountedByFraming(t *testing.T) {
	d := start(t, 16<<20, notYoung)
	defer d.stop()
	conn := d.calls()
	egress, old := loggregatorv2.NewEgressClient(conn), plumbingpb.NewDopplerClient(conn)
	d.receive(egress, &loggregatorv2.EgressBatchRequest{Selectors: []*loggregatorv2.Selector{anyLog}})
	single, err := egress.Receiver(t.Context(), &loggregatorv2.EgressRequest{Selectors: []*loggregatorv2.Selector{anyLog}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := single.Header(); err != nil {
		t.Fatal(err)
	}
	d.subscribe(old, "", nil)
	ws := d.dial("/v2/firehose?type=log")
	defer ws.conn.CloseNow()
	eventually(t, func() bool { return d.server.readers.Load() == 4 }) // they have joined
	d.emit("app", 10)
	want := [NumFramings]uint64{ByWebSocket: 10, ByBatchedReceiver: 10, ByReceiver: 10, ByBatchSubscribe: 10}
	eventually(t, func() bool { return d.server.Stats().SentBy == want })
	if st := d.server.Stats(); st.Sent != 40 {
		t.Errorf("%d in all", st.Sent)
	}
}
