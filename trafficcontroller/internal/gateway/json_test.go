package gateway

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// sameJSON compares with protojson, blanks aside.
func sameJSON(t *testing.T, e *loggregatorv2.Envelope) {
	t.Helper()
	got, err := AppendJSON([]byte("before"), e)
	loose, wantErr := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(e)
	if wantErr != nil {
		if err == nil || string(got) != "before" {
			t.Errorf("%v: %s and %v, want %v", e, got, err, wantErr)
		}
		return
	}
	want := bytes.NewBufferString("before")
	if err := json.Compact(want, loose); err != nil {
		t.Fatal(err)
	}
	if err != nil || !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
}

func TestJSON(t *testing.T) {
	gauge := map[string]*loggregatorv2.GaugeValue{"": nil, "z": {}}
	for i, f := range []float64{
		0, math.Copysign(0, -1), 1, -1.5, 1e20, 1e21, -1e21, 1.5e300, 1e-6, 9.9e-7, -1e-7, 1e-10, 5e-324, math.MaxFloat64,
		math.NaN(), math.Inf(1), math.Inf(-1), 123456789.123, 1.0000001e-9, 1e-100,
	} {
		gauge[fmt.Sprint(i)] = &loggregatorv2.GaugeValue{Unit: "u", Value: f}
	}
	every := ""
	for r := range rune(0x120) {
		every += string(r)
	}
	every += "\u2028\U0001F600\uFFFD</script>&"
	for _, e := range []*loggregatorv2.Envelope{
		{},
		{Timestamp: math.MinInt64, SourceId: every, InstanceId: "\x7f", Tags: map[string]string{every: every, "b": "", "a": "x"}},
		{SourceId: "\xff"},
		{Tags: map[string]string{"a\xc0": "x"}},
		{DeprecatedTags: map[string]*loggregatorv2.Value{
			"t": {Data: &loggregatorv2.Value_Text{Text: every}}, "i": {Data: &loggregatorv2.Value_Integer{Integer: -5}},
			"d": {Data: &loggregatorv2.Value_Decimal{Decimal: math.Inf(-1)}}, "n": nil, "e": {},
		}},
		{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("\x00\xff?"), Type: loggregatorv2.Log_ERR}}},
		{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Type: 7}}},
		{Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "n", Delta: math.MaxUint64, Total: 1}}},
		{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: gauge}}},
		{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{}}},
		{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "t", Start: -1, Stop: math.MaxInt64}}},
		{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t", Body: "\xfe"}}},
	} {
		sameJSON(t, e)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		sameJSON(t, envelopetest.Random(rng, envelopetest.RandomOptions{}))
	}
}

// Whatever a Doppler may hold is encoded as protojson does.
func FuzzJSON(f *testing.F) {
	rng := rand.New(rand.NewPCG(3, 4))
	f.Add(envelopetest.Reference())
	for range 20 {
		b, err := proto.Marshal(envelopetest.Random(rng, envelopetest.RandomOptions{}))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		e := &loggregatorv2.Envelope{}
		if proto.Unmarshal(raw, e) == nil {
			sameJSON(t, e)
		}
	})
}

func BenchmarkJSON(b *testing.B) {
	e := &loggregatorv2.Envelope{}
	if err := proto.Unmarshal(envelopetest.Reference(), e); err != nil {
		b.Fatal(err)
	}
	var buf []byte
	b.ReportAllocs()
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			var err error
			if buf, err = AppendJSON(buf[:0], e); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("protojson", func(b *testing.B) {
		for b.Loop() {
			var err error
			if buf, err = (protojson.MarshalOptions{EmitUnpopulated: true}).MarshalAppend(buf[:0], e); err != nil {
				b.Fatal(err)
			}
		}
	})
}
