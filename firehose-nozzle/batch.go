package nozzle

import (
	"fmt"
	"iter"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// ID is the identity of an envelope for ever. An envelope that is delivered
// twice has the same ID both times, so a sink that knows the IDs it has taken
// can leave out what comes again.
type ID struct {
	// Doppler is the name of the node that took the envelope in.
	Doppler string
	// Epoch is one life of that node's process.
	Epoch uint64
	// Offset is the envelope's place in the log of that life.
	Offset uint64
}

// String returns the ID as doppler/epoch/offset.
func (id ID) String() string { return fmt.Sprintf("%s/%d/%d", id.Doppler, id.Epoch, id.Offset) }

// Batch is what one Recv returns: consecutive envelopes of one Doppler, what
// was missed before them, or both. It is never empty.
//
// A batch and its bytes belong to the caller, for as long as it holds them:
// the stream does not write to them again. They may be shared with other
// goroutines as long as nobody changes them. Release is an optimisation.
type Batch struct {
	// Position places the batch in the log of a Doppler. Nil only when
	// gaps come without one. Read only.
	Position *streampb.Position
	// Envelopes is an encoded loggregator.v2.EnvelopeBatch, byte for byte as
	// the Doppler holds it. Empty when there are only gaps. Read only.
	Envelopes []byte
	// Gaps is what the reader has missed before the first envelope, and why.
	// A sink should keep it as carefully as an envelope. Read only.
	Gaps []*streampb.Gap
	// Redelivered says that some or all of the envelopes were handed out
	// before, to this reader or to another one of the subscription, and were
	// not acked.
	Redelivered bool

	stream  *Stream // nil for a batch made by hand
	release func()

	delivery stream.Delivery // of the same; guarded by the mu of stream, if that is set
}

// Len returns the number of envelopes.
func (b *Batch) Len() int { return int(b.Position.GetCount()) }

// All ranges over the envelopes, encoded, and their IDs. The bytes are part of
// Envelopes.
func (b *Batch) All() iter.Seq2[ID, []byte] {
	return func(yield func(ID, []byte) bool) {
		id := ID{Doppler: b.Position.GetDoppler(), Epoch: b.Position.GetEpoch(), Offset: b.Position.GetFirst()}
		deltas := b.Position.GetDeltas()
		i := 0
		for env := range envelope.Walk(b.Envelopes) {
			if !yield(id, env) {
				return
			}
			if i < len(deltas) {
				id.Offset += uint64(deltas[i])
			} else {
				id.Offset++
			}
			i++
		}
	}
}

// Decode returns the envelopes as messages, in the order of All. They are
// copies.
func (b *Batch) Decode() ([]*loggregatorv2.Envelope, error) {
	var batch loggregatorv2.EnvelopeBatch
	if err := proto.Unmarshal(b.Envelopes, &batch); err != nil {
		return nil, &Error{Code: CodeProtocol, Err: fmt.Errorf("decode envelopes: %w", err)}
	}
	return batch.GetBatch(), nil
}

// Ack takes responsibility for everything in the batch, gaps included: it
// will not be delivered again. Call it when the envelopes are where they have
// to be, not before. It never blocks, is done in any order and by any
// goroutine, and does nothing the second time; the network is told soon
// after. When the connection breaks before that, or the ack comes later than
// the Doppler waits (30 s without any ack), the batch is delivered again.
func (b *Batch) Ack() {
	if b.stream != nil {
		b.stream.ack(b, 0, b.Len())
	}
}

// AckRange is Ack for the envelopes with offsets first to last, inclusive,
// only. The gaps of the batch are acked with any of them.
func (b *Batch) AckRange(first, last uint64) {
	if b.stream == nil {
		return
	}
	d := &b.delivery
	from, to := d.Index(first), d.Index(last)
	if to < b.Len() && d.Offset(to) == last {
		to++
	}
	if from < to {
		b.stream.ack(b, from, to)
	}
}

// Release gives the memory of the batch back for later batches. Nobody may
// use Envelopes after it; the rest of the batch, Ack included, stays valid.
// It is to be called at most once; a batch that is never released is
// collected as garbage.
func (b *Batch) Release() {
	if b.release != nil {
		b.release()
		b.release = nil
	}
	b.Envelopes = nil
}
