package relay

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

func logLine(text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{SourceId: "app", Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}}}
}

func event() *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{SourceId: "app", Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t"}}}
}

// sayEnvelopes is say with whole envelopes.
func (m fakeMember) sayEnvelopes(b *streampb.Batch, list ...*loggregatorv2.Envelope) {
	m.t.Helper()
	msg, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		m.t.Fatal(err)
	}
	body, err := proto.Marshal(&loggregatorv2.EnvelopeBatch{Batch: list})
	if err != nil {
		m.t.Fatal(err)
	}
	msg = append(msg, body...)
	if err := m.conn.WriteFrames([][]byte{append(stream.AppendFrameHeader(nil, len(msg)), msg...)}, nil, patience); err != nil {
		m.t.Log("fake Doppler:", err)
	}
}

func message(t *testing.T, c *stream.Conn) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	b, err := c.Read(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	return string(b.Bytes())
}

func TestOldClient(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Heartbeat = 50 * time.Millisecond })
	s.opts = Options{Framing: OldFraming(patience)}
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	m := d.member(t)
	m.say(&streampb.Batch{Heartbeat: &streampb.Heartbeat{Lag: 17}})
	m.sayEnvelopes(&streampb.Batch{Position: d.position(0, 3), Lease: lease(1)}, logLine("one"), event(), logLine("two"))
	for _, want := range []string{"one", "two"} { // no hello, no place, no heartbeat
		if got := message(t, c); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if got := m.heard().GetSent().GetLease(); got != 1 {
		t.Errorf("sent %d", got)
	}
	// What has no old form is paid for all the same.
	m.sayEnvelopes(&streampb.Batch{Position: d.position(3, 2), Lease: lease(2)}, event(), event())
	if got := m.heard().GetSent().GetLease(); got != 2 {
		t.Errorf("sent %d", got)
	}
	gaps := []*streampb.Gap{
		{Count: 7, NoV1: 2, Reason: streampb.Gap_EVICTED, Doppler: "d0"},
		{Count: 3, NoV1: 3, Reason: streampb.Gap_EVICTED, Doppler: "d0"}, // nothing that this client would have got
		{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST, Doppler: "d0"},
	}
	m.sayEnvelopes(&streampb.Batch{Position: d.position(9, 1), Lease: lease(3), Gaps: gaps}, logLine("three"))
	for _, want := range []string{"TruncatingBuffer.DroppedMessages\x10\x05\x18\x05", "Doppler d0 was lost", "DroppedMessages\x10\x01\x18\x06", "three"} {
		if got := message(t, c); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
	// What it says is not listened to.
	if err := c.Send(t.Context(), []byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	s.Removed(d.addr)
	for _, want := range []string{"Doppler d0 was lost", "DroppedMessages\x10\x01\x18\x07"} {
		if got := message(t, c); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q in it", got, want)
		}
	}
}

// An envelope may be longer in the old protocol than the room made for it.
func TestOldFormOutgrowsTheBatch(t *testing.T) {
	s := newStage(t, nil)
	s.opts = Options{Framing: OldFraming(patience)}
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	m := d.member(t)
	metrics := map[string]*loggregatorv2.GaugeValue{}
	for i := range 100 {
		metrics[strings.Repeat("m", i+1)] = &loggregatorv2.GaugeValue{Unit: "u", Value: 1}
	}
	tags := map[string]string{"tag": strings.Repeat("x", 500)}
	m.sayEnvelopes(&streampb.Batch{Position: d.position(0, 1), Lease: lease(1)}, &loggregatorv2.Envelope{
		Tags: tags, Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}},
	})
	for i := range metrics {
		if got := message(t, c); !strings.Contains(got, tags["tag"]) {
			t.Fatalf("%s: %q", i, got)
		}
	}
}

func TestStuckOldClientIsCutAsItKnows(t *testing.T) {
	s := newStage(t, nil)
	s.opts = Options{Framing: OldFraming(200 * time.Millisecond)}
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	s.dial()
	m := d.member(t)
	many := make([]*loggregatorv2.Envelope, 2000)
	for i := range many {
		many[i] = logLine(strings.Repeat("x", 100))
	}
	for i := range 50 {
		m.sayEnvelopes(&streampb.Batch{Position: d.position(uint64(i*len(many)), len(many)), Lease: lease(uint64(i + 1))}, many...)
	}
	select {
	case err := <-s.closed:
		var ce *stream.CloseError
		if !errors.As(err, &ce) || ce.Code != stream.CloseNormal || !strings.Contains(ce.Reason, "slow consumer: took nothing for 200ms") {
			t.Errorf("closed with %v", err)
		}
	case <-time.After(patience):
		t.Fatal("it was not cut")
	}
	if row := <-s.rows; row.Cut != slow.Stuck || row.Lag.Envelopes == 0 {
		t.Errorf("row %+v", row)
	}
}

// A client of the old framing cannot tell what it has already: it gets nothing
// twice when a Doppler's connection is lost before the Sent came.
func TestOldClientGetsNothingTwice(t *testing.T) {
	s := newStage(t, nil)
	s.opts = Options{Framing: OldFraming(patience)}
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	gap := []*streampb.Gap{{To: 5, Count: 5, Reason: streampb.Gap_EVICTED, Doppler: "d0"}}
	at := d.position(5, 2)
	at.Low, at.LowMatched = 0, 0 // the gap is not settled
	m := d.member(t)
	m.sayEnvelopes(&streampb.Batch{Position: at, Lease: lease(1), Gaps: gap}, logLine("one"), logLine("two"))
	for _, want := range []string{"DroppedMessages\x10\x05\x18\x05", "one", "two"} {
		if got := message(t, c); !strings.Contains(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	m.conn.CloseNow()
	m = d.member(t)
	again := &streampb.Lease{Id: 1, Redelivered: true}
	m.sayEnvelopes(&streampb.Batch{Position: at, Lease: again, Gaps: gap}, logLine("one"), logLine("two"))
	if got := m.heard().GetSent().GetLease(); got != 1 {
		t.Errorf("sent %d", got)
	}
	m.sayEnvelopes(&streampb.Batch{Position: d.position(7, 1), Lease: lease(2)}, logLine("three"))
	if got := message(t, c); !strings.Contains(got, "three") {
		t.Errorf("got %q, want three", got)
	}
}
