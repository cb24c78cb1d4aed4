package ingress

import (
	"sync/atomic"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// Framing is how envelopes come.
type Framing int

const (
	// Batched envelopes come by Ingress/BatchSender and Ingress/Send.
	Batched Framing = iota
	// Single ones come by Ingress/Sender.
	Single
	// Pushed ones are of the old protocol and come by DopplerIngestor/Pusher.
	Pushed
	numFramings
)

// Stats counts what the server has seen since it was made. Envelopes received
// are Accepted plus Dropped.
type Stats struct {
	// Accepted counts envelopes handed to the Appender, AcceptedBytes their
	// encoded size.
	Accepted, AcceptedBytes uint64
	// AcceptedBy is Accepted by framing.
	AcceptedBy [numFramings]uint64
	// Messages counts gRPC messages, Bytes their size.
	Messages, Bytes uint64
	// Dropped counts what was not accepted, by cause.
	Dropped Dropped
	// UnknownFields counts fields of batches that are not envelopes. They are
	// left out and no loss.
	UnknownFields uint64
	// Streams is how many calls are open now, StreamsOpened and
	// StreamsRefused how many there were.
	Streams                       int
	StreamsOpened, StreamsRefused uint64
	// BufferBytes is what received frames take up now, against the budget.
	// BufferWaits counts how often a connection was not read on for want of
	// room, BufferOverdrafts how often waiting did not help.
	BufferBytes                   int64
	BufferWaits, BufferOverdrafts uint64
}

// Dropped counts envelopes that were not accepted, by cause. A message whose
// envelopes cannot be counted counts as one.
type Dropped struct {
	// Malformed envelopes, which protobuf would not unmarshal.
	Malformed uint64
	// Truncated batches, broken off at some place; envelopes before it were
	// taken.
	Truncated uint64
	// TooLarge envelopes, over Config.Limits.
	TooLarge uint64
	// SourceTooLong envelopes, whose source id is over Config.Limits.
	SourceTooLong uint64
	// MessageTooLarge messages, over Config.MaxMessage. They end their stream.
	MessageTooLarge uint64
	// OverLimit envelopes, which Config.Limiter left out.
	OverLimit uint64
}

// Total is the sum over all causes.
func (d Dropped) Total() uint64 {
	return d.Malformed + d.Truncated + d.TooLarge + d.SourceTooLong + d.MessageTooLarge + d.OverLimit
}

// counters are Stats in the making: one set per stream, so that streams do
// not contend for them.
type counters struct {
	accepted, acceptedBytes     atomic.Uint64
	begun, messages, bytes      atomic.Uint64 // messages: taken to the end
	malformed, truncated        atomic.Uint64
	tooLarge, sourceTooLong     atomic.Uint64
	messageTooLarge, unknownFld atomic.Uint64
	overLimit                   atomic.Uint64
}

func (c *counters) addTo(s *Stats, framing Framing) {
	accepted := c.accepted.Load()
	s.Accepted += accepted
	s.AcceptedBy[framing] += accepted
	s.AcceptedBytes += c.acceptedBytes.Load()
	s.Messages += c.messages.Load()
	s.Bytes += c.bytes.Load()
	s.UnknownFields += c.unknownFld.Load()
	s.Dropped.Malformed += c.malformed.Load()
	s.Dropped.Truncated += c.truncated.Load()
	s.Dropped.TooLarge += c.tooLarge.Load()
	s.Dropped.SourceTooLong += c.sourceTooLong.Load()
	s.Dropped.MessageTooLarge += c.messageTooLarge.Load()
	s.Dropped.OverLimit += c.overLimit.Load()
}

// dropped is the rare case: the branches are cheaper than five additions.
func (c *counters) dropped(d *envelope.Dropped) {
	if *d == (envelope.Dropped{}) {
		return
	}
	c.malformed.Add(d.Malformed)
	c.tooLarge.Add(d.TooLarge)
	c.sourceTooLong.Add(d.SourceTooLong)
	c.unknownFld.Add(d.UnknownFields)
	if d.Truncated {
		c.truncated.Add(1)
	}
}

// add folds in the counters of a stream that is gone.
func (c *counters) add(o *counters) {
	c.accepted.Add(o.accepted.Load())
	c.acceptedBytes.Add(o.acceptedBytes.Load())
	c.messages.Add(o.messages.Load())
	c.bytes.Add(o.bytes.Load())
	c.unknownFld.Add(o.unknownFld.Load())
	c.malformed.Add(o.malformed.Load())
	c.truncated.Add(o.truncated.Load())
	c.tooLarge.Add(o.tooLarge.Load())
	c.sourceTooLong.Add(o.sourceTooLong.Load())
	c.messageTooLarge.Add(o.messageTooLarge.Load())
	c.overLimit.Add(o.overLimit.Load())
}
