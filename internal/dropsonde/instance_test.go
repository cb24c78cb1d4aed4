package dropsonde_test

import (
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// Every container metric of the vectors, and nothing else, has an instance.
func TestContainerInstance(t *testing.T) {
	found := 0
	for _, c := range v2Vectors(t) {
		for _, e := range checkV1(t, &dropsonde.Encoder{}, c.V2) {
			var enc dropsonde.Encoder
			v1, ends := enc.AppendV1(nil, nil, c.V2)
			index, ok := dropsonde.ContainerInstance(v1[:ends[0]])
			if ok != (e.ContainerMetric != nil) || index != e.GetContainerMetric().GetInstanceIndex() {
				t.Errorf("%s: %d %v, want %v", c.ID, index, ok, e.GetContainerMetric())
			}
			if ok {
				found++
			}
		}
	}
	if found == 0 {
		t.Error("no vector has a container metric")
	}
	if _, ok := dropsonde.ContainerInstance(envelopetest.Reference()[:50]); ok {
		t.Error("half an envelope has an instance")
	}
}

func FuzzContainerInstance(f *testing.F) {
	f.Add([]byte{0x62, 2, 0x10, 7})
	f.Add([]byte{0x62, 2, 0x10, 0xff})
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, v1 []byte) {
		e := &events.Envelope{}
		if (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(v1, e) != nil {
			return
		}
		// Of a metric in several parts the last counts; AppendV1 makes one.
		if _, ok := dropsonde.ContainerInstance(v1); ok != (e.ContainerMetric != nil) {
			t.Errorf("%v: found is %v", e, ok)
		}
	})
}
