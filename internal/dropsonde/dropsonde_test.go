package dropsonde_test

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// num and str are fields of a message.
func num(n protowire.Number, v uint64) string {
	return string(protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v))
}

func fixed(n protowire.Number, v float64) string {
	return string(protowire.AppendFixed64(protowire.AppendTag(nil, n, protowire.Fixed64Type), math.Float64bits(v)))
}

func str(n protowire.Number, s string) string {
	return string(protowire.AppendString(protowire.AppendTag(nil, n, protowire.BytesType), s))
}

func pair(key, value string) string { return str(1, key) + str(2, value) }

// odd are v2 envelopes that no library writes and every one reads.
var odd = []string{
	str(9, pair("k", "1")) + str(9, pair("k", "2")) + str(4, ""),                         // a key twice
	str(3, pair("k", str(1, "a"))) + str(3, pair("k", "")) + str(4, ""),                  // the last has no value
	str(3, pair("job", str(1, "a"))) + str(3, pair("job", "")) + str(4, ""),              // the same of a name
	str(3, pair("job", "")) + str(3, pair("job", num(2, 7))) + str(4, ""),                // and the other way round
	str(9, pair("job", "new")) + str(3, pair("job", str(1, "old"))) + str(4, ""),         // a key in both maps
	str(9, str(2, "v")+str(1, "k")) + str(9, "") + str(9, str(1, "k")) + str(4, ""),      // odd entries
	str(9, pair("a", "b")+pair("origin", "c")+num(5, 1)) + str(4, ""),                    // the last of each counts
	str(4, str(1, "a")+num(2, 1)) + str(4, str(1, "b")),                                  // merged: b, ERR
	str(4, str(1, "a")) + str(5, str(1, "c")) + str(4, num(2, 1)),                        // not merged
	str(6, str(1, pair("m", fixed(2, 1)))) + str(6, str(1, pair("m", str(1, "u")))),      // a metric twice
	str(6, str(1, str(1, "m")+str(2, fixed(2, 1))+str(2, str(1, "u")))),                  // a value in two parts
	str(3, str(1, "k")+str(2, str(1, "a")+num(2, 1))+str(2, fixed(3, 0.5))) + str(4, ""), // a value thrice
	str(3, pair("inf", fixed(3, math.Inf(1)))) + str(3, pair("nan", fixed(3, math.NaN()))) + // numbers that are none
		str(3, pair("neg", fixed(3, math.Inf(-1)))) + str(5, ""),
	num(2, 5) + str(1, "x") + "\x5b\x58\x01\x5c" + str(4, ""),       // other types, a group
	"\x4a\x8b\x80\x00\x0a\x81\x00k\x12\x83\x80\x00val" + str(4, ""), // lengths longer than need be
}

func TestOddEnvelopes(t *testing.T) {
	var e dropsonde.Encoder
	for _, v2 := range odd {
		if err := proto.Unmarshal([]byte(v2), &loggregatorv2.Envelope{}); err != nil {
			t.Errorf("%q: %v", v2, err)
		}
		checkV1(t, &e, []byte(v2))
	}
}

func TestRandomEnvelopes(t *testing.T) {
	var e dropsonde.Encoder
	for _, v2 := range randomEnvelopes(t, 2000) {
		checkV1(t, &e, v2)
		dst, ends := e.AppendV1(nil, nil, v2)
		if len(ends) > 0 {
			checkV2(t, &e, dst[:ends[0]])
		}
	}
}

func randomEnvelopes(t testing.TB, n int) [][]byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 1))
	all := make([][]byte, n)
	for i := range all {
		v2, err := proto.Marshal(envelopetest.Random(rng, envelopetest.RandomOptions{MaxSize: 5000}))
		if err != nil {
			t.Fatal(err)
		}
		all[i] = v2
	}
	return all
}

// Whatever is cut off or turned over, nothing is read beyond the end.
func TestDamagedEnvelopes(t *testing.T) {
	var e dropsonde.Encoder
	for _, v2 := range append(randomEnvelopes(t, 20), envelopetest.Reference()) {
		v1, _ := e.AppendV1(nil, nil, v2)
		for i := range min(len(v2), 400) {
			checkV1(t, &e, slices.Clip(slices.Clone(v2[:i])))
			v2[i] ^= 0xff
			checkV1(t, &e, v2)
			v2[i] ^= 0xff
		}
		for i := range min(len(v1), 400) {
			checkV2(t, &e, slices.Clip(slices.Clone(v1[:i])))
			v1[i] ^= 0xff
			checkV2(t, &e, v1)
			v1[i] ^= 0xff
		}
	}
}

func TestMethods(t *testing.T) {
	var e dropsonde.Encoder
	for n := range events.Method_name {
		v1 := num(2, 4) + str(7, num(4, 2)+num(5, uint64(n)))
		checkV2(t, &e, []byte(v1))
		e.DeprecatedTags = false
		v2, err := e.AppendV2(nil, []byte(v1))
		if err != nil {
			t.Fatal(err)
		}
		if got := checkV1(t, &e, v2)[0].GetHttpStartStop().GetMethod(); int32(got) != n {
			t.Errorf("method %d came back as %d", n, got)
		}
	}
}

func TestNumbers(t *testing.T) {
	var e dropsonde.Encoder
	for _, s := range []string{
		"", "-", "+", "0", "-0", "+7", "007", "1_0", "0x1", " 1", "9223372036854775807", "9223372036854775808",
		"-9223372036854775808", "-9223372036854775809", "99999999999999999999999999", "2147483647", "2147483648",
		"-2147483648", "-2147483649", "1e3",
	} {
		v2 := str(8, s) + str(9, pair("status_code", s)) + str(9, pair("content_length", s)) + str(7, "")
		checkV1(t, &e, []byte(v2))
	}
	for _, f := range []float64{
		0, -1, 0.9, -0.9, 1 << 31, -1 << 31, -1<<31 - 1, 1<<53 + 2, 1 << 63, -1 << 63, 1 << 64, 1e30, -1e30,
		math.Nextafter(1<<64, 0), math.Nextafter(1<<63, 0), math.NaN(), math.Inf(1), math.Inf(-1),
	} {
		var gauge string
		for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota", "instance_index"} {
			gauge += str(1, pair(name, str(1, "u")+fixed(2, f)))
		}
		checkV1(t, &e, []byte(str(6, gauge)))
	}
}

func TestRefusesWhatIsNoEnvelope(t *testing.T) {
	var e dropsonde.Encoder
	for v1, want := range map[string]error{
		"": dropsonde.ErrNoType, str(1, "origin"): dropsonde.ErrNoType, "x": dropsonde.ErrMalformed,
		num(2, 5) + "\x42\x05": dropsonde.ErrMalformed, num(2, 5) + str(8, "\x0a"): dropsonde.ErrMalformed,
		num(2, 4) + str(7, str(3, "\x08")): dropsonde.ErrMalformed,
	} {
		if dst, err := e.AppendV2([]byte(prefix), []byte(v1)); !errors.Is(err, want) || string(dst) != prefix {
			t.Errorf("%q: %q, %v", v1, dst, err)
		}
	}
}

func TestMadeEnvelopes(t *testing.T) {
	loss := dropsonde.AppendCounterEvent(nil, "doppler", "TruncatingBuffer.DroppedMessages", 3, 1000, 5)
	same(t, decodeV1(t, loss), &events.Envelope{
		Origin: proto.String("doppler"), EventType: events.Envelope_CounterEvent.Enum(), Timestamp: proto.Int64(5),
		CounterEvent: &events.CounterEvent{
			Name: proto.String("TruncatingBuffer.DroppedMessages"), Delta: proto.Uint64(3), Total: proto.Uint64(1000),
		},
	})
	for stderr, kind := range map[bool]events.LogMessage_MessageType{
		false: events.LogMessage_OUT, true: events.LogMessage_ERR,
	} {
		log := dropsonde.AppendLogMessage(nil, "doppler", "lost", "app", "LGR", "2", stderr, -5)
		same(t, decodeV1(t, log), &events.Envelope{
			Origin: proto.String("doppler"), EventType: events.Envelope_LogMessage.Enum(), Timestamp: proto.Int64(-5),
			LogMessage: &events.LogMessage{
				Message: []byte("lost"), MessageType: &kind, Timestamp: proto.Int64(-5), AppId: proto.String("app"),
				SourceType: proto.String("LGR"), SourceInstance: proto.String("2"),
			},
		})
	}
}

func decodeV1(t *testing.T, b []byte) *events.Envelope {
	t.Helper()
	e := &events.Envelope{}
	if err := proto.Unmarshal(b, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDoesNotAllocate(t *testing.T) {
	var e dropsonde.Encoder
	dst, ends := make([]byte, 0, 1<<16), make([]int, 0, 100)
	for _, c := range v2Vectors(t) {
		if n := testing.AllocsPerRun(10, func() { e.AppendV1(dst, ends, c.V2) }); n != 0 {
			t.Errorf("%s: %v allocations", c.ID, n)
		}
	}
	for _, v2 := range append(randomEnvelopes(t, 100), []byte(odd[1]), []byte(odd[9])) {
		if n := testing.AllocsPerRun(10, func() { e.AppendV1(dst, ends, v2) }); n != 0 {
			t.Errorf("%x: %v allocations", v2, n)
		}
	}
	for _, c := range v1Vectors(t) {
		for _, e.DeprecatedTags = range []bool{false, true} {
			if n := testing.AllocsPerRun(10, func() { _, _ = e.AppendV2(dst, c.V1) }); n != 0 {
				t.Errorf("%s: %v allocations", c.ID, n)
			}
		}
	}
}

// A gauge with many metrics and long tags must not take all memory there is.
func TestGaugeIsBounded(t *testing.T) {
	gauge := map[string]*loggregatorv2.GaugeValue{}
	for i := range 10_000 {
		gauge[fmt.Sprintf("%05d", i)] = &loggregatorv2.GaugeValue{Value: 1}
	}
	v2, err := proto.Marshal(&loggregatorv2.Envelope{
		Tags:    map[string]string{"long": strings.Repeat("x", 100<<10)},
		Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: gauge}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var e dropsonde.Encoder
	dst, ends := e.AppendV1([]byte("before"), nil, v2)
	if len(dst) > 16<<20+len("before") || len(dst) < 15<<20 || ends[len(ends)-1] != len(dst) {
		t.Errorf("%d metrics in %d bytes", len(ends), len(dst))
	}
	last := &events.Envelope{}
	if err := proto.Unmarshal(dst[ends[len(ends)-2]:], last); err != nil || last.GetValueMetric().GetName() != fmt.Sprintf("%05d", len(ends)-1) {
		t.Errorf("the last of %d is %q, %v", len(ends), last.GetValueMetric().GetName(), err)
	}
}
