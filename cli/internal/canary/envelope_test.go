package canary

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

func TestMintKnowsItsOwn(t *testing.T) {
	for _, size := range []int{0, 1, 80, 200, 5000} {
		m := Mint{Run: "0a1b", Source: "s", Size: size}
		e := m.Make(Stamp{Lane: 3, Number: 12345}, 77)
		if n := len(e.GetLog().GetPayload()); size > 100 && n != size || n < 16 {
			t.Errorf("size %d: %d", size, n)
		}
		if s, nature := m.Check(e); nature != Own || s != (Stamp{Lane: 3, Number: 12345}) {
			t.Errorf("size %d: %v, %+v: %s", size, nature, s, e.GetLog().GetPayload())
		}
		e.Tags["added"] = "by an agent"
		if _, nature := m.Check(e); nature != Own {
			t.Errorf("with another tag: %v", nature)
		}
		if _, nature := (Mint{Run: "0a1c", Source: "s"}).Check(e); nature != Foreign {
			t.Errorf("another run: %v", nature)
		}
	}
}

func TestWhatOthersSayIsForeign(t *testing.T) {
	e := &loggregatorv2.Envelope{SourceId: "s", Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("hello")}}}
	if _, nature := (Mint{Run: "0a1b", Source: "s"}).Check(e); nature != Foreign {
		t.Errorf("%v", nature)
	}
}

// TestEveryChangeIsFound changes one field, or one byte, at a time.
func TestEveryChangeIsFound(t *testing.T) {
	m := Mint{Run: "0a1b", Source: "s", Size: 150}
	log := func(e *loggregatorv2.Envelope) *loggregatorv2.Log { return e.GetLog() }
	changes := map[string]func(*loggregatorv2.Envelope){
		"timestamp": func(e *loggregatorv2.Envelope) { e.Timestamp++ },
		"source":    func(e *loggregatorv2.Envelope) { e.SourceId = "t" },
		"instance":  func(e *loggregatorv2.Envelope) { e.InstanceId = "" },
		"tag":       func(e *loggregatorv2.Envelope) { delete(e.Tags, tagRun) },
		"type":      func(e *loggregatorv2.Envelope) { log(e).Type = loggregatorv2.Log_ERR },
		"shorter":   func(e *loggregatorv2.Envelope) { log(e).Payload = log(e).Payload[:149] },
		"much":      func(e *loggregatorv2.Envelope) { log(e).Payload = log(e).Payload[:50] },
		"empty":     func(e *loggregatorv2.Envelope) { log(e).Payload = nil },
		"message":   func(e *loggregatorv2.Envelope) { e.Message = nil },
		"no sum": func(e *loggregatorv2.Envelope) {
			log(e).Payload = []byte(strings.ReplaceAll(string(log(e).Payload), "sum=", "sun="))
		},
	}
	for name, change := range changes {
		e := m.Make(Stamp{Number: 1}, 1)
		change(e)
		if _, nature := m.Check(e); nature != Corrupt {
			t.Errorf("%s: %v", name, nature)
		}
	}
	whole := m.Make(Stamp{Number: 1}, 1)
	for i := range log(whole).Payload {
		e, ok := proto.Clone(whole).(*loggregatorv2.Envelope)
		if !ok {
			t.Fatal("no envelope")
		}
		log(e).Payload[i] ^= 1
		if s, nature := m.Check(e); nature != Corrupt {
			t.Errorf("byte %d: %v, %+v: %s", i, nature, s, log(e).Payload)
		}
	}
}
