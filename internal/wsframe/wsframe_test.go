package wsframe

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// payloads takes frames apart by the book (RFC 6455, section 5.2).
func payloads(t *testing.T, p []byte) (list [][]byte) {
	t.Helper()
	for len(p) > 0 {
		if p[0] != 0x82 {
			t.Fatalf("frame begins with %#x, want a whole binary message", p[0])
		}
		size, n := uint64(p[1]), 2
		switch p[1] {
		case 126:
			size, n = uint64(binary.BigEndian.Uint16(p[2:])), 4
		case 127:
			size, n = binary.BigEndian.Uint64(p[2:]), 10
		}
		list = append(list, p[n:n+int(size)])
		p = p[n+int(size):]
	}
	return list
}

func encode(t *testing.T, e *loggregatorv2.Envelope) []byte {
	t.Helper()
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func logOf(size int) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{SourceId: "app", Message: &loggregatorv2.Envelope_Log{
		Log: &loggregatorv2.Log{Payload: bytes.Repeat([]byte("x"), size)},
	}}
}

func TestEveryEnvelopeIsAMessageOfItsOwn(t *testing.T) {
	gauge := &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{
		Metrics: map[string]*loggregatorv2.GaugeValue{"a": {Value: 1}, "b": {Value: 2}, "c": {Value: 3}},
	}}}
	event := &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t"}}}
	list := []*loggregatorv2.Envelope{event, gauge, event}
	for _, size := range []int{0, 1, 40, 60, 80, 100, 125, 126, 65_400, 65_535, 65_536, 1 << 20} {
		list = append(list, logOf(size))
	}
	var f Framer
	var enc dropsonde.Encoder
	var got []byte
	var want [][]byte
	for _, e := range list {
		b := encode(t, e)
		got = f.AppendEnvelope(got, b)
		v1, ends := enc.AppendV1(nil, nil, b)
		begin := 0
		for _, end := range ends {
			want = append(want, v1[begin:end])
			begin = end
		}
	}
	messages := payloads(t, got)
	if len(messages) != len(want) {
		t.Fatalf("%d messages, want %d", len(messages), len(want))
	}
	for i := range want {
		if !bytes.Equal(messages[i], want[i]) {
			t.Errorf("message %d differs: %d bytes, want %d", i, len(messages[i]), len(want[i]))
		}
	}
}

// Every length around those where the header changes.
func TestHeaders(t *testing.T) {
	for _, size := range []int{0, 1, 124, 125, 126, 127, 65_534, 65_535, 65_536, 65_537} {
		payload := bytes.Repeat([]byte{0x82}, size)
		dst, at := open([]byte("before"))
		got := shut(append(dst, payload...), at)
		list := payloads(t, got[len("before"):])
		if len(list) != 1 || !bytes.Equal(list[0], payload) || !bytes.HasPrefix(got, []byte("before")) {
			t.Errorf("%d bytes do not come back", size)
		}
	}
}

func TestGaps(t *testing.T) {
	for _, tc := range []struct {
		name     string
		gap      *streampb.Gap
		firehose int    // messages
		total    uint64 // after 10
		line     string // "" for none
	}{
		{"exact", &streampb.Gap{Count: 5, Reason: streampb.Gap_EVICTED}, 1, 15, "5 messages dropped: this client"},
		{"one", &streampb.Gap{Count: 1, Reason: streampb.Gap_OVER_SHARE}, 1, 11, "1 message dropped: too much"},
		{"nothing", &streampb.Gap{}, 0, 10, ""},
		{"some have no old form", &streampb.Gap{Count: 5, NoV1: 3}, 1, 12, "5 messages"},
		{"none has an old form", &streampb.Gap{Count: 5, NoV1: 5}, 0, 10, "5 messages"},
		{"at least", &streampb.Gap{Count: 7, Precision: streampb.Gap_AT_LEAST}, 2, 17, "At least 7 messages"},
		{"unknown", &streampb.Gap{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST, Doppler: "d3"}, 2, 11, "An unknown number of messages dropped: Doppler d3"},
	} {
		var f Framer
		frames, total := f.AppendDropped(nil, tc.gap, 10, 1)
		messages := payloads(t, frames)
		if len(messages) != tc.firehose || total != tc.total {
			t.Errorf("%s: %d messages, total %d, want %d and %d", tc.name, len(messages), total, tc.firehose, tc.total)
		}
		if n := len(messages); n > 0 && !bytes.Contains(messages[n-1], []byte("TruncatingBuffer.DroppedMessages")) {
			t.Errorf("%s: the last message is no counter: %q", tc.name, messages[n-1])
		}
		lines := payloads(t, f.AppendLine(nil, tc.gap, "app", 1))
		switch {
		case tc.line == "" && len(lines) > 0:
			t.Errorf("%s: a line for nothing", tc.name)
		case tc.line != "" && (len(lines) != 1 || !strings.Contains(string(lines[0]), tc.line)):
			t.Errorf("%s: %q, want %q in it", tc.name, lines, tc.line)
		}
	}
}

// Every reason has words of its own.
func TestReasons(t *testing.T) {
	for number, name := range streampb.Gap_Reason_name {
		words := Words(&streampb.Gap{Count: 2, Reason: streampb.Gap_Reason(number)})
		if !strings.HasPrefix(words, "2 messages dropped: ") {
			t.Errorf("%s: %q", name, words)
		}
	}
}

func BenchmarkAppendEnvelope(b *testing.B) {
	e, err := proto.Marshal(logOf(400))
	if err != nil {
		b.Fatal(err)
	}
	var f Framer
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = f.AppendEnvelope(dst[:0], e)
	}
}
