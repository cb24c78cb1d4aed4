package ingress

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// keptPayload is the longest payload whose encoder is kept for the next: its
// scratch memory grows with the number of fields.
const keptPayload = 64 << 10

// takePushed takes a plumbing.EnvelopeData. The envelope in it goes on as if it
// had come in its new form, alone: a ring takes single envelopes at about the
// cost of batches, so waiting for more of them would gain nothing.
func (s *stream) takePushed(m *message) {
	w := <-s.server.workspaces
	msg := w.whole(m.frames)
	s.bytes.Add(uint64(len(msg)))
	if payload, ok := payloadOf(msg); ok {
		s.takeV1(w, payload)
	} else {
		s.malformed.Add(1)
	}
	s.server.workspaces <- w
}

// takeV1 holds a v1 envelope to the same limit as the v2 envelope it becomes.
func (s *stream) takeV1(w *workspace, payload []byte) {
	if len(payload) > s.server.cfg.Limits.MaxEnvelope {
		s.tooLarge.Add(1)
		return
	}
	v2, err := w.v1.AppendV2(w.v2[:0], payload)
	if err != nil {
		s.malformed.Add(1)
	} else {
		s.takeEnvelope(v2)
	}
	if w.v2 = v2; len(payload) > keptPayload {
		w.v1, w.v2 = dropsonde.Encoder{}, nil
	}
}

// payloadOf returns the payload of an encoded EnvelopeData, as protobuf-go
// would: of several the last, without one nothing.
func payloadOf(msg []byte) (payload []byte, ok bool) {
	for len(msg) > 0 {
		number, kind, n := protowire.ConsumeTag(msg)
		if n < 0 || number > protowire.MaxValidNumber {
			return nil, false
		}
		size := protowire.ConsumeFieldValue(number, kind, msg[n:])
		if size < 0 {
			return nil, false
		}
		if number == 1 && kind == protowire.BytesType {
			payload, _ = protowire.ConsumeBytes(msg[n:])
		}
		msg = msg[n+size:]
	}
	return payload, true
}
