package nozzle

import (
	"math"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// FuzzMessages gives a stream two messages of whatever bytes. It must refuse
// them or come to a batch that can be read and acked, and to a cursor that a
// server takes.
func FuzzMessages(f *testing.F) {
	encode := func(b *streampb.Batch, envelopes int) []byte {
		msg, err := stream.AppendBatchMeta(nil, b)
		if err != nil {
			f.Fatal(err)
		}
		for range envelopes {
			msg = envelope.AppendRecord(msg, envelopetest.Reference())
		}
		return msg
	}
	lease := &streampb.Lease{Id: 1}
	hello := encode(&streampb.Batch{Hello: &streampb.Hello{Server: "x", HeartbeatMillis: 1}, Position: &streampb.Position{Doppler: "d", Epoch: 1, First: 5, Low: 5}}, 0)
	full := encode(&streampb.Batch{Lease: lease, Position: &streampb.Position{
		Doppler: "d", Epoch: 1, First: 5, Count: 3, Deltas: []uint32{2, 9}, Matched: 4, Low: 5, LowMatched: 4, Next: 20,
	}}, 3)
	gap := encode(&streampb.Batch{Lease: lease, Gaps: []*streampb.Gap{{From: 3, To: 8, Count: 2}, {Doppler: "e", Precision: streampb.Gap_UNKNOWN}}}, 0)
	fin := encode(&streampb.Batch{Fins: []*streampb.Fin{{Doppler: "d", Epoch: 1, End: 20}}, Heartbeat: &streampb.Heartbeat{Lag: 3}}, 0)
	live := encode(&streampb.Batch{Watching: []*streampb.Watching{{}}}, 0)
	wild := encode(&streampb.Batch{Position: &streampb.Position{Doppler: "d", First: math.MaxUint64 - 1, Count: 1, Matched: math.MaxUint64, Low: math.MaxUint64}}, 1)
	for _, a := range [][]byte{hello, full, gap, fin, live, wild, {0xff}} {
		for _, b := range [][]byte{hello, full, gap, fin, wild} {
			f.Add(a, b, byte(len(a)%8))
		}
	}
	f.Fuzz(func(t *testing.T, first, second []byte, mode byte) {
		s := &Stream{
			passes: mode&1 != 0, place: stream.NewPlace(nil, mode&2 != 0), cfg: Config{ReadAhead: math.MaxInt},
			acks: make(chan struct{}, 1), some: make(chan struct{}, 1), room: make(chan struct{}, 1), quit: make(chan struct{}),
		}
		if s.passes {
			s.read = stream.NewPlace(nil, mode&2 != 0)
		}
		l := &link{Stream: s, number: 1}
		for i, bytes := range [][]byte{first, second} {
			buf := stream.NewBuffer(len(bytes))
			copy(buf.Bytes(), bytes)
			if l.message(buf) != nil {
				return
			}
			if mode&4 != 0 && i == 0 {
				drain(t, s)
			}
		}
		drain(t, s)
	})
}

// drain reads and acks everything there is.
func drain(t *testing.T, s *Stream) {
	for {
		b, live := s.take(true)
		if live {
			continue
		}
		if b == nil {
			break
		}
		n := 0
		for range b.All() {
			n++
		}
		if n != b.Len() {
			t.Fatalf("%d envelopes, the batch says %d", n, b.Len())
		}
		_, _ = b.Decode() // garbage within a record is not ours to find
		b.AckRange(b.Position.GetFirst(), b.Position.GetFirst())
		b.Ack()
		b.Release()
	}
	if n := s.Status().Unacked; n != 0 {
		t.Fatalf("%d batches unacked", n)
	}
	if cursor := s.Cursor(); cursor != "" {
		if _, err := stream.DecodeCursor(cursor); err != nil {
			t.Fatal(err)
		}
	}
	s.place.Reconnected()
}
