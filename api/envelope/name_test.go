package envelope

import (
	"hash/crc64"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// plainHash is Record.Name of what protobuf-go reads.
func plainHash(e *loggregatorv2.Envelope) uint16 {
	var sum uint64
	table := crc64.MakeTable(crc64.ECMA)
	if c := e.GetCounter(); c != nil {
		sum = crc64.Checksum([]byte(c.GetName()), table)
	}
	for name := range e.GetGauge().GetMetrics() {
		sum += crc64.Checksum([]byte(name), table)
	}
	sum ^= sum >> 32
	return uint16(sum ^ sum>>16)
}

func TestNames(t *testing.T) {
	gauge := func(names ...string) *loggregatorv2.Envelope {
		m := map[string]*loggregatorv2.GaugeValue{}
		for _, n := range names {
			m[n] = &loggregatorv2.GaugeValue{Value: 1}
		}
		return &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: m}}}
	}
	counter := func(name string) *loggregatorv2.Envelope {
		return &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name, Delta: 3}}}
	}
	seen := map[uint16]bool{}
	for _, e := range []*loggregatorv2.Envelope{
		counter("a"), counter("b"), counter("requests"), gauge("a"), gauge("a", "b"), gauge("cpu", "memory", "disk", "memory_quota", "disk_quota"),
	} {
		msg, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		r, err := ScanEnvelope(msg, Limits{})
		if want := plainHash(e); err != nil || r.Name != want {
			t.Errorf("%v: %d, %v, want %d", e, r.Name, err, want)
		}
		seen[r.Name] = true
	}
	if len(seen) != 5 { // a counter and a gauge of the same name go together
		t.Errorf("%d different hashes", len(seen))
	}
	msg, err := proto.Marshal(&loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "a"}}})
	if r, bad := ScanEnvelope(msg, Limits{}); err != nil || bad != nil || r.Name != 0 {
		t.Errorf("of a timer: %d, %v, %v", r.Name, err, bad)
	}
}
