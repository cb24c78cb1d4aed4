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

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// subscriber is one BatchSubscribe call.
type subscriber struct {
	t      *testing.T
	calls  grpc.ServerStreamingClient[plumbingpb.BatchResponse]
	cancel func()
	got    []*events.Envelope
	missed uint64 // told by counters
	lines  []string
	most   int // most envelopes of a message
}

func (d *doppler) subscribe(client plumbingpb.DopplerClient, shard string, f *plumbingpb.Filter) *subscriber {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	d.t.Cleanup(cancel)
	calls, err := client.BatchSubscribe(ctx, &plumbingpb.SubscriptionRequest{ShardId: shard, Filter: f})
	if err != nil {
		d.t.Fatal(err)
	}
	s := &subscriber{t: d.t, calls: calls, cancel: cancel}
	if _, err := calls.Header(); err != nil {
		d.t.Fatal(err)
	}
	return s
}

// next reads a message.
func (s *subscriber) next() error {
	s.t.Helper()
	m, err := s.calls.Recv()
	if err != nil {
		return err
	}
	s.most = max(s.most, len(m.GetPayload()))
	for _, v1 := range m.GetPayload() {
		e := &events.Envelope{}
		if err := proto.Unmarshal(v1, e); err != nil {
			s.t.Fatal(err)
		}
		switch c := e.GetCounterEvent(); {
		case c.GetName() == "TruncatingBuffer.DroppedMessages":
			if s.missed += c.GetDelta(); s.missed != c.GetTotal() {
				s.t.Errorf("total %d, want %d", c.GetTotal(), s.missed)
			}
		case e.GetLogMessage().GetSourceType() == "LGR":
			s.lines = append(s.lines, e.GetLogMessage().GetAppId()+": "+string(e.GetLogMessage().GetMessage()))
		default:
			s.got = append(s.got, e)
		}
	}
	return nil
}

func (s *subscriber) until(done func() bool) {
	s.t.Helper()
	for !done() {
		if err := s.next(); err != nil {
			s.t.Fatalf("after %d envelopes: %v", len(s.got), err)
		}
	}
}

// toEnd reads until the call ends.
func (s *subscriber) toEnd() error {
	s.t.Helper()
	for {
		if err := s.next(); err != nil {
			return err
		}
	}
}

const (
	appOne = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	appTwo = "00000000-0000-0000-0000-000000000002"
)

func logOf(source, text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{SourceId: source, Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}}}
}

func timerOf(source, name string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{SourceId: source, Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: name}}}
}

// everyKind is an envelope of every class.
func everyKind(source string) []*loggregatorv2.Envelope {
	failure := logOf(source, "failure")
	failure.Tags = map[string]string{"__v1_type": "Error"}
	box := container("3", 1, time.Unix(7, 0))
	box.SourceId = source
	return []*loggregatorv2.Envelope{
		logOf(source, "line"), failure, box,
		{SourceId: source, Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{
			Metrics: map[string]*loggregatorv2.GaugeValue{"a": {Value: 1}, "b": {Value: 2}, "c": {Value: 3}},
		}}},
		timerOf(source, "http"), timerOf(source, "other"),
		{SourceId: source, Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "c"}}},
		{SourceId: source, Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t"}}},
		{SourceId: source},
	}
}

// kindsOf counts event types.
func kindsOf(list []*events.Envelope) map[string]int {
	n := map[string]int{}
	for _, e := range list {
		n[e.GetEventType().String()]++
	}
	return n
}

func TestOldFilters(t *testing.T) {
	logs := &plumbingpb.Filter_Log{Log: &plumbingpb.LogFilter{}}
	metrics := &plumbingpb.Filter_Metric{Metric: &plumbingpb.MetricFilter{}}
	for name, test := range map[string]struct {
		filter *plumbingpb.Filter
		want   string
	}{
		"none":                                {nil, "map[ContainerMetric:3 CounterEvent:3 Error:3 HttpStartStop:6 LogMessage:4 ValueMetric:9]"},
		"logs":                                {&plumbingpb.Filter{Message: logs}, "map[LogMessage:4]"},
		"metrics":                             {&plumbingpb.Filter{Message: metrics}, "map[ContainerMetric:3 CounterEvent:3 Error:3 HttpStartStop:6 ValueMetric:9]"},
		"app":                                 {&plumbingpb.Filter{AppId: appOne}, "map[ContainerMetric:1 HttpStartStop:2 LogMessage:1]"},
		"logs of app":                         {&plumbingpb.Filter{AppId: appOne, Message: logs}, "map[LogMessage:1]"},
		"metrics of app":                      {&plumbingpb.Filter{AppId: appOne, Message: metrics}, "map[ContainerMetric:1 HttpStartStop:2]"},
		"app that is no UUID has no requests": {&plumbingpb.Filter{AppId: "service"}, "map[ContainerMetric:1 LogMessage:2]"},
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, 4<<20, notYoung)
			defer d.stop()
			c := d.subscribe(d.old(), "shard", test.filter)
			d.add(everyKind(appOne)...)
			d.add(everyKind(appTwo)...)
			d.add(everyKind("service")...)
			d.add(logOf("service", "the last"))
			d.finish(c)
			if got := fmt.Sprint(kindsOf(c.got)); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

// notYoung is for drains that need not wait for readers which have yet to come.
func notYoung(c *Config) { c.Linger = time.Millisecond }

// finish drains the Doppler: whoever has everything is told so by the end.
func (d *doppler) finish(c *subscriber) {
	d.t.Helper()
	ended := d.drain(20 * time.Second)
	if err := c.toEnd(); !errors.Is(err, io.EOF) {
		d.t.Errorf("ended with %v", err)
	}
	endsWithin(d.t, ended, 20*time.Second)
}

// A filter of the old service is that of the old framing of the Firehose: the
// same shard id is the same group.
func TestOldCallsShareGroupsWithWebSockets(t *testing.T) {
	for query, f := range map[string]*plumbingpb.Filter{
		"":          nil,
		"class=log": {Message: &plumbingpb.Filter_Log{}},
		"class=error-log&class=container-gauge&class=gauge&class=http-timer&class=timer&class=counter": {
			Message: &plumbingpb.Filter_Metric{},
		},
	} {
		d := start(t, 16<<20, nil)
		c := d.subscribe(d.old(), "shard", f)
		ws := d.dial("/v2/firehose?shard_id=shard&" + query)
		eventually(t, func() bool { return d.server.Stats().Subscriptions == 2 })
		if n := d.server.Stats().Groups; n != 1 {
			t.Errorf("%q: %d groups", query, n)
		}
		other := d.subscribe(d.old(), "", f)
		if n := d.server.Stats().Groups; n != 2 {
			t.Errorf("%q: without a shard id there are %d groups", query, n)
		}
		other.cancel()
		c.cancel()
		ws.conn.CloseNow()
		d.stop()
	}
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never comes about")
		}
	}
}

// Members share what there is, a stalled one leaves it to the others, and
// nothing comes twice.
func TestOldCallsShareAGroup(t *testing.T) {
	d := start(t, 64<<20, notYoung)
	defer d.stop()
	client := d.old()
	stalled := d.subscribe(client, "shard", nil)
	quick := []*subscriber{d.subscribe(client, "shard", nil), d.subscribe(client, "shard", nil)}
	const total = 10_000
	d.emit(strings.Repeat("s", 200), total)
	all := make(chan int, 2)
	for _, c := range quick {
		go func() {
			_ = c.toEnd()
			all <- len(c.got)
		}()
	}
	eventually(t, func() bool { return d.server.Subscriptions()[0].Lag == 0 })
	if rows := d.server.Subscriptions(); rows[0].Framing != "/plumbing.Doppler/BatchSubscribe" || rows[0].Remote == "" || rows[0].UserAgent == "" {
		t.Errorf("row %+v", rows[0])
	}
	ended := d.drain(20 * time.Second)
	if err := stalled.toEnd(); !errors.Is(err, io.EOF) {
		t.Errorf("ended with %v", err)
	}
	if n := <-all + <-all; n+len(stalled.got) != total || n < total/2 {
		t.Errorf("%d and %d of %d", n, len(stalled.got), total)
	}
	endsWithin(t, ended, 20*time.Second)
	seen := map[string]bool{}
	for _, e := range slices.Concat(stalled.got, quick[0].got, quick[1].got) {
		seen[string(e.GetLogMessage().GetMessage())] = true
	}
	if len(seen) != total {
		t.Errorf("%d different lines", len(seen))
	}
}

// Members that keep up get equal shares; how equal, group_test.go tells, which
// needs no luck with the scheduler.
func TestOldCallsGetTheirShares(t *testing.T) {
	d := start(t, 64<<20, notYoung)
	defer d.stop()
	client := d.old()
	const members, total = 4, 20_000
	got := make(chan int, members)
	for range members {
		c := d.subscribe(client, "shard", nil)
		go func() {
			_ = c.toEnd()
			got <- len(c.got)
		}()
	}
	for range total / 500 {
		d.emit("app", 500)
		eventually(t, func() bool { return d.server.Subscriptions()[0].Lag == 0 })
	}
	endsWithin(t, d.drain(20*time.Second), 20*time.Second)
	sum := 0
	for range members {
		n := <-got
		if sum += n; n < total/members/2 {
			t.Errorf("%d of %d for one of %d", n, total, members)
		}
	}
	if sum != total {
		t.Errorf("%d of %d in all", sum, total)
	}
}

// What a call gets and is told it misses is all that it would have got.
func TestOldGapsAreExact(t *testing.T) {
	d := start(t, 1<<20, func(c *Config) { c.WindowBytes = 64 << 10 })
	defer d.stop()
	client := d.old()
	all := d.subscribe(client, "shard", nil)
	app := d.subscribe(client, "", &plumbingpb.Filter{AppId: appOne, Message: &plumbingpb.Filter_Log{}})
	const rounds = 20_000
	for range rounds {
		d.add(logOf(appOne, "line"), &loggregatorv2.Envelope{SourceId: "x"}, everyKind("x")[7])
	}
	all.until(func() bool { return len(all.got)+int(all.missed) >= rounds })
	if all.missed == 0 || len(all.got)+int(all.missed) != rounds || len(all.lines) != 0 {
		t.Errorf("got %d and missed %d of %d, lines %q", len(all.got), all.missed, rounds, all.lines)
	}
	told := func() (n int) {
		for _, line := range app.lines {
			missed := 0
			if _, err := fmt.Sscanf(line, appOne+": %d message", &missed); err != nil {
				t.Fatalf("line %q", line)
			}
			n += missed
		}
		return n
	}
	app.until(func() bool { return len(app.got)+told() >= rounds })
	if told() == 0 || len(app.got)+told() != rounds || app.missed != 0 {
		t.Errorf("got %d and missed %d of %d", len(app.got), told(), rounds)
	}
}

// The size of a gap is not always known.
func TestOldGapOfUnknownSize(t *testing.T) {
	var sent [][]byte
	f := &oldFraming{batch: 1}
	f.Take([]*streampb.Gap{{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST}}, nil)
	if err := f.Send(func(m *callMessage) error { sent = append(sent, m.bytes); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(sent) != 2 || !strings.Contains(string(sent[0]), "An unknown number") || !strings.Contains(string(sent[1]), "DroppedMessages\x10\x01\x18\x01") {
		t.Errorf("%q", sent)
	}
}

// Messages are bounded in number and size, and have one envelope each where
// that is what was asked for.
func TestOldMessagesAreBounded(t *testing.T) {
	d := start(t, 64<<20, nil)
	defer d.stop()
	client := d.old()
	c := d.subscribe(client, "", nil)
	one, err := client.Subscribe(t.Context(), &plumbingpb.SubscriptionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string]*loggregatorv2.GaugeValue{}
	for i := range 600 {
		metrics[fmt.Sprint("m", i)] = &loggregatorv2.GaugeValue{Value: 1}
	}
	gauge := &loggregatorv2.Envelope{
		Tags:    map[string]string{"long": strings.Repeat("x", 10_000)},
		Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}},
	}
	d.add(gauge)
	d.emit("app", 1000)
	c.until(func() bool { return len(c.got) == 1600 })
	if c.most > oldBatch || c.most < 2 {
		t.Errorf("%d envelopes in a message", c.most)
	}
	for i := range 1600 {
		m, err := one.Recv()
		if err != nil {
			t.Fatal(err)
		}
		e := &events.Envelope{}
		if err := proto.Unmarshal(m.GetPayload(), e); err != nil || !proto.Equal(e, c.got[i]) {
			t.Fatalf("envelope %d: %v, %v", i, e, err)
		}
	}
}

func TestStuckOldCallIsCut(t *testing.T) {
	d := start(t, 64<<20, func(c *Config) { c.StuckTimeout = 500 * time.Millisecond })
	defer d.stop()
	c := d.subscribe(d.old(), "shard", nil)
	d.emit(strings.Repeat("s", 200), 20_000)
	eventually(t, func() bool { return d.server.Stats().Subscriptions == 0 })
	if err := c.toEnd(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "took nothing for 500ms") {
		t.Errorf("ended with %v", err)
	}
}

func TestOldCallsAreRefused(t *testing.T) {
	d := start(t, 4<<20, func(c *Config) { c.MaxSubscriptions = 1 })
	client := d.old()
	refused := func(q *plumbingpb.SubscriptionRequest) error {
		calls, err := client.Subscribe(t.Context(), q)
		if err == nil {
			_, err = calls.Recv()
		}
		return err
	}
	long := strings.Repeat("x", 5000)
	if err := refused(&plumbingpb.SubscriptionRequest{ShardId: long}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "shard_id has 5000 bytes, the limit is 1024") {
		t.Error(err)
	}
	if err := refused(&plumbingpb.SubscriptionRequest{Filter: &plumbingpb.Filter{AppId: long}}); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "app_id") {
		t.Error(err)
	}
	c := d.subscribe(client, "", nil)
	if err := refused(&plumbingpb.SubscriptionRequest{}); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "limit is 1") {
		t.Error(err)
	}
	d.server.draining.Store(true)
	if err := refused(&plumbingpb.SubscriptionRequest{}); status.Code(err) != codes.Unavailable {
		t.Error(err)
	}
	d.stop()
	if err := c.toEnd(); status.Code(err) != codes.Unavailable {
		t.Errorf("a Doppler that stops without a drain: %v", err)
	}
}
