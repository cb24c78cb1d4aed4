// Package mix has numbered envelopes of all kinds, and what has to become of
// each of them by go-loggregator's own conversion.
package mix

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"

	v2 "code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
)

// Apps are the sources that envelopes are spread over; the last is a component.
var Apps = []string{
	"f47ac10b-58cc-4372-a567-0e02b2c3d479", "b3015d69-09cd-476d-aace-ad2d824d5ab7",
	"0b9f5ea6-7c4e-4a7e-9a3f-6f0f6e0a1c55", "gorouter",
}

// Envelope is envelope number n of a run, sent some way: every kind and every field
// that the conversion rules speak of comes within a few dozen numbers. It is
// the same for the same arguments. All of its strings are UTF-8.
func Envelope(run, via string, n int) *v2.Envelope {
	r := rand.New(rand.NewPCG(uint64(n), 42))
	e := &v2.Envelope{
		Timestamp: 1_700_000_000_000_000_000 + int64(n), SourceId: Apps[n%len(Apps)],
		InstanceId: []string{"0", "7", "", "not-a-number", "-3", "4294967296"}[r.IntN(6)],
		Tags:       map[string]string{"run": run, "via": via, "n": strconv.Itoa(n), "é": "ü\u2028", "empty": ""},
	}
	for _, k := range []string{"origin", "deployment", "job", "index", "ip", "source_type", "instance_id", "source_id"} {
		switch r.IntN(4) {
		case 0:
			e.Tags[k] = fmt.Sprintf("%s-%d", k, n)
		case 1:
			if e.DeprecatedTags == nil {
				e.DeprecatedTags = map[string]*v2.Value{}
			}
			e.DeprecatedTags[k] = value(r)
		}
	}
	kinds := []func(*v2.Envelope, *rand.Rand){log, log, log, failure, counter, gauge, container, timer, timer, event}
	kinds[n/len(Apps)%len(kinds)](e, r)
	return e
}

func value(r *rand.Rand) *v2.Value {
	return []*v2.Value{
		{Data: &v2.Value_Text{Text: "text"}}, {Data: &v2.Value_Integer{Integer: -42}},
		{Data: &v2.Value_Decimal{Decimal: 1.5}}, {Data: &v2.Value_Decimal{Decimal: 1e21}},
	}[r.IntN(4)]
}

func log(e *v2.Envelope, r *rand.Rand) {
	payload := make([]byte, []int{0, 1, 40, 4000}[r.IntN(4)])
	for i := range payload {
		payload[i] = byte(r.UintN(256))
	}
	e.Message = &v2.Envelope_Log{Log: &v2.Log{Payload: payload, Type: v2.Log_Type(r.IntN(2))}}
}

// failure is a log that began as a v1 Error.
func failure(e *v2.Envelope, r *rand.Rand) {
	e.Tags["__v1_type"], e.Tags["source"] = "Error", "cell"
	e.Tags["code"] = []string{"", "7", "bad", "4294967297"}[r.IntN(4)]
	e.Message = &v2.Envelope_Log{Log: &v2.Log{Payload: []byte("failed")}}
}

func counter(e *v2.Envelope, r *rand.Rand) {
	e.Message = &v2.Envelope_Counter{Counter: &v2.Counter{Name: "requests", Delta: r.Uint64(), Total: r.Uint64N(2) * math.MaxUint64}}
}

func gauge(e *v2.Envelope, r *rand.Rand) {
	values := []float64{0, 1.5, -2, math.Inf(1), math.Inf(-1), math.MaxFloat64, math.SmallestNonzeroFloat64, math.Copysign(0, -1)}
	metrics := map[string]*v2.GaugeValue{}
	for i := range r.IntN(4) {
		metrics["metric"+strconv.Itoa(i)] = &v2.GaugeValue{Unit: []string{"", "ms"}[r.IntN(2)], Value: values[r.IntN(len(values))]}
	}
	e.Message = &v2.Envelope_Gauge{Gauge: &v2.Gauge{Metrics: metrics}}
}

// container is what becomes a ContainerMetric, most of the time.
func container(e *v2.Envelope, r *rand.Rand) {
	metrics := map[string]*v2.GaugeValue{}
	for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		metrics[name] = &v2.GaugeValue{Unit: []string{"", "bytes"}[r.IntN(2)], Value: float64(r.IntN(3)) * 1e9 * r.Float64()}
	}
	if r.IntN(3) == 0 {
		metrics["instance_index"] = &v2.GaugeValue{Unit: "index", Value: 3.7}
	}
	e.Message = &v2.Envelope_Gauge{Gauge: &v2.Gauge{Metrics: metrics}}
}

func timer(e *v2.Envelope, r *rand.Rand) {
	fields := map[string][]string{
		"request_id": {"0b9f5ea6-7c4e-4a7e-9a3f-6f0f6e0a1c55", "short"}, "peer_type": {"Client", "Server", "x"},
		"method": {"GET", "MKACTIVITY", "get"}, "uri": {"http://a/b?c=d&e"}, "remote_address": {"10.0.0.1:80"},
		"user_agent": {"curl"}, "status_code": {"200", "x", "4294967496"}, "content_length": {"-1", "12345678901"},
		"routing_instance_id": {"i"}, "forwarded": {"1.2.3.4\n5.6.7.8", ""}, "instance_index": {"5"},
	}
	for _, k := range []string{
		"request_id", "peer_type", "method", "uri", "remote_address", "user_agent", "status_code", "content_length",
		"routing_instance_id", "forwarded", "instance_index",
	} {
		if i := r.IntN(len(fields[k]) + 1); i < len(fields[k]) {
			e.Tags[k] = fields[k][i]
		}
	}
	e.Message = &v2.Envelope_Timer{Timer: &v2.Timer{Name: "http", Start: r.Int64(), Stop: -r.Int64()}}
}

func event(e *v2.Envelope, r *rand.Rand) {
	e.Message = &v2.Envelope_Event{Event: &v2.Event{Title: "t<" + strconv.Itoa(r.IntN(9)), Body: "body\n"}}
}
