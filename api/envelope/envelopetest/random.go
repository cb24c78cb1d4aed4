package envelopetest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// RandomOptions narrow what Random makes. The zero value means every class,
// 30 to 60,000 bytes, 1,000 sources.
type RandomOptions struct {
	// Classes to choose from, each equally often.
	Classes envelope.ClassMask
	// MinSize and MaxSize bound the encoded size in bytes. Small sizes are
	// as likely as large ones: the logarithm of the size is uniform.
	MinSize, MaxSize int
	// Sources is how many source ids there are, Source(0) and so on.
	Sources int
}

func (o RandomOptions) withDefaults() RandomOptions {
	if o.Classes == 0 {
		o.Classes = envelope.AllClasses
	}
	if o.MinSize <= 0 {
		o.MinSize = 30
	}
	if o.MaxSize <= 0 {
		o.MaxSize = 60_000
	}
	o.MaxSize = max(o.MaxSize, o.MinSize)
	if o.Sources <= 0 {
		o.Sources = 1000
	}
	return o
}

// Random returns a random envelope. It has the size wanted as nearly as its
// class allows: a container gauge takes more than 100 bytes at least. One in
// ten has its tags in deprecated_tags; one in ten has text beyond ASCII. The
// same state of rng gives the same envelope.
func Random(rng *rand.Rand, o RandomOptions) *loggregatorv2.Envelope {
	o = o.withDefaults()
	lo, hi := math.Log(float64(o.MinSize)), math.Log(float64(o.MaxSize)+1)
	size := min(int(math.Exp(lo+rng.Float64()*(hi-lo))), o.MaxSize)
	class := envelope.Class(rng.IntN(envelope.NumClasses))
	for !o.Classes.Has(class) {
		class = envelope.Class(rng.IntN(envelope.NumClasses))
	}
	e := &loggregatorv2.Envelope{Timestamp: ReferenceTime + rng.Int64N(1e15)}
	setMessage(e, class, rng)
	if n := rng.IntN(o.Sources); size < 100 {
		e.SourceId = fmt.Sprintf("s-%d", n)
	} else {
		e.SourceId, e.InstanceId = Source(n), fmt.Sprint(rng.IntN(10))
	}
	put := tagSetter(e, rng)
	if class == envelope.ErrorLog {
		put("__v1_type", "Error")
	}
	for _, i := range rng.Perm(len(tagNames)) {
		name := tagNames[i]
		if size-proto.Size(e) < 100 || rng.IntN(12) == 0 {
			break
		}
		put(name, text(rng, rng.IntN(40)))
	}
	grow(e, size, rng, put)
	return e
}

var tagNames = []string{
	"app_name", "deployment", "index", "instance_group", "ip", "job", "organization_name", "origin",
	"process_id", "process_type", "source_type", "space_name",
}

// tagSetter returns what puts tags into e, into the one map or the other.
func tagSetter(e *loggregatorv2.Envelope, rng *rand.Rand) func(name, value string) {
	if rng.IntN(10) > 0 {
		return func(name, value string) {
			if e.Tags == nil {
				e.Tags = map[string]string{}
			}
			e.Tags[name] = value
		}
	}
	return func(name, value string) {
		if e.DeprecatedTags == nil {
			e.DeprecatedTags = map[string]*loggregatorv2.Value{}
		}
		e.DeprecatedTags[name] = &loggregatorv2.Value{Data: &loggregatorv2.Value_Text{Text: value}}
	}
}

// setMessage gives e the smallest message of a class.
func setMessage(e *loggregatorv2.Envelope, class envelope.Class, rng *rand.Rand) {
	switch class {
	case envelope.Log, envelope.ErrorLog:
		e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Type: loggregatorv2.Log_Type(rng.IntN(2))}}
	case envelope.Counter:
		e.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{
			Name: "requests", Delta: rng.Uint64N(1000), Total: rng.Uint64N(1e9),
		}}
	case envelope.Gauge:
		setMetrics(e, rng, "latency")
	case envelope.ContainerGauge:
		setMetrics(e, rng, "cpu", "memory", "disk", "memory_quota", "disk_quota")
	case envelope.Timer, envelope.HTTPTimer:
		name := "http"
		if class == envelope.Timer {
			name = "query"
		}
		e.Message = &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{
			Name: name, Start: e.GetTimestamp() - rng.Int64N(1e9), Stop: e.GetTimestamp(),
		}}
	case envelope.Event:
		e.Message = &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "restart"}}
	}
}

func setMetrics(e *loggregatorv2.Envelope, rng *rand.Rand, names ...string) {
	metrics := map[string]*loggregatorv2.GaugeValue{}
	for _, name := range names {
		metrics[name] = &loggregatorv2.GaugeValue{Unit: "bytes", Value: rng.Float64() * 1e6}
	}
	e.Message = &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}}
}

// grow fills e up to size where envelopes of its kind are large in life.
func grow(e *loggregatorv2.Envelope, size int, rng *rand.Rand, put func(name, value string)) {
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Log:
		fill(e, size, rng, func(s string) { m.Log.Payload = []byte(s) })
		return
	case *loggregatorv2.Envelope_Event:
		fill(e, size, rng, func(s string) { m.Event.Body = s })
		return
	case *loggregatorv2.Envelope_Gauge:
		// Some gauges list many metrics.
		for i := 0; i < 200 && size-proto.Size(e) > 100 && rng.IntN(20) > 0; i++ {
			m.Gauge.Metrics[fmt.Sprintf("metric_%03d", i)] = &loggregatorv2.GaugeValue{Unit: "count", Value: rng.Float64()}
		}
	}
	if size-proto.Size(e) > 11 {
		put("uri", "")
		fill(e, size, rng, func(s string) { put("uri", s) })
	}
}

// fill sets a text such that e becomes size bytes long, if it is not longer.
func fill(e *loggregatorv2.Envelope, size int, rng *rand.Rand, set func(string)) {
	s := text(rng, size-proto.Size(e))
	set(s)
	if over := proto.Size(e) - size; over > 0 {
		set(strings.ToValidUTF8(s[:max(0, len(s)-over)], ""))
	}
}

// text returns n bytes of text, none if n is negative.
func text(rng *rand.Rand, n int) string {
	if n <= 0 {
		return ""
	}
	s := logLine
	if n > 8 && rng.IntN(10) == 0 {
		s = "größer als früher, 日本語 " + logLine
	}
	s = strings.Repeat(s, n/len(s)+1)
	return strings.ToValidUTF8(s[:n], "")
}
