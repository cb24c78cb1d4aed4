package nozzle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

const (
	// ackPause is the least time between two messages of acks: the first goes
	// at once, what comes within the pause goes together.
	ackPause = 2 * time.Millisecond
	// sendTimeout is how long a message of acks may take to get into the
	// socket.
	sendTimeout = 10 * time.Second
	// lastAcksTimeout is the same for Close.
	lastAcksTimeout = time.Second
	// maxRanges is how many ranges go into one message.
	maxRanges = 1000
)

// pendingAck is acks of one epoch that are to be sent.
type pendingAck struct {
	doppler string
	epoch   uint64
	ranges  []stream.OffsetRange
}

// covered is what of a batch is acked, as runs of indices [from, to), sorted.
type covered []struct{ from, to int }

// add adds a run and reports whether n indices are covered now.
func (c *covered) add(from, to, n int) bool {
	out := make(covered, 0, len(*c)+1)
	for _, r := range *c {
		if r.to < from || r.from > to {
			out = append(out, r)
			continue
		}
		from, to = min(from, r.from), max(to, r.to)
	}
	out = append(out, struct{ from, to int }{from, to})
	*c = out
	return from == 0 && to == n
}

// ack takes note that the envelopes with indices [from, to) of a batch are
// acked.
func (s *Stream) ack(b *Batch, from, to int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passes && to-from == b.Len() {
		s.consumed(b)
	}
	if s.passes || b.acked {
		return
	}
	if !b.gapsAcked {
		b.gapsAcked = true
		s.ackGaps(b)
	}
	if to > from {
		s.ackEnvelopes(b, from, to)
	}
	if b.covered.add(from, to, b.Len()) {
		b.acked, b.covered = true, nil
		s.settled(b)
	}
	signal(s.acks)
}

// ackEnvelopes queues the ack of the envelopes with indices [from, to). mu is
// held.
func (s *Stream) ackEnvelopes(b *Batch, from, to int) {
	p := b.Position
	acked := whole(p, b.Redelivered)
	acked.first, acked.last = b.offset(from), b.offset(to-1)
	acked.from, acked.to = p.GetMatched()+uint64(from), p.GetMatched()+uint64(to)
	s.queue(p.GetDoppler(), p.GetEpoch(), acked.first, acked.last)
	b.mark.ack(acked)
}

// whole is the span of all envelopes of a position, which has some.
func whole(p *streampb.Position, redelivered bool) span {
	n := uint64(p.GetCount())
	return span{
		first: p.GetFirst(), last: lastOffset(p), from: p.GetMatched(), to: p.GetMatched() + n,
		// What was handed out before comes again without what was acked of it.
		counted: !redelivered || len(p.GetDeltas()) == 0,
	}
}

// ackGaps queues the ack of the gaps. mu is held.
func (s *Stream) ackGaps(b *Batch) {
	for _, g := range b.Gaps {
		if g.GetTo() <= g.GetFrom() {
			continue // known to be told when it is in our socket
		}
		doppler, epoch := g.GetDoppler(), g.GetEpoch()
		if doppler == "" {
			doppler, epoch = b.Position.GetDoppler(), b.Position.GetEpoch()
		}
		s.queue(doppler, epoch, g.GetFrom(), g.GetTo()-1)
		if m := s.place.find(doppler, epoch); m != nil {
			m.ack(span{first: g.GetFrom(), last: g.GetTo() - 1})
		}
	}
}

// settled says that nothing of a batch is left to ack. mu is held.
func (s *Stream) settled(b *Batch) {
	s.status.Unacked--
	if b.mark != nil {
		s.place.done(b.mark, b.Position)
	}
	s.place.lose(b.Gaps, b.Position)
}

// consumed takes note that the owner of a batch that passes has done with it.
// mu is held.
func (s *Stream) consumed(b *Batch) {
	if b.acked {
		return
	}
	b.acked = true
	if !s.place.tail && b.Len() > 0 {
		b.mark.ack(whole(b.Position, b.Redelivered))
	}
	s.settled(b)
}

// queue adds a range to what is to be sent. mu is held.
func (s *Stream) queue(doppler string, epoch, first, last uint64) {
	for i := range s.pending {
		a := &s.pending[i]
		if a.doppler != doppler || a.epoch != epoch {
			continue
		}
		if prev := &a.ranges[len(a.ranges)-1]; prev.Last+1 == first {
			prev.Last = last
		} else {
			a.ranges = append(a.ranges, stream.OffsetRange{First: first, Last: last})
		}
		return
	}
	s.pending = append(s.pending, pendingAck{doppler, epoch, []stream.OffsetRange{{First: first, Last: last}}})
}

// requeue adds everything that is acked and that the server is not known to
// have heard: acks of an old connection may have got lost with it. mu is held.
func (s *Stream) requeue() {
	s.place.unconfirmed(func(m *mark, acked span) { s.queue(m.doppler, m.epoch, acked.first, acked.last) })
}

// sendAcks sends what is queued until ctx ends.
func (s *Stream) sendAcks(ctx context.Context) {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-s.acks:
		case <-ctx.Done():
			return
		}
		// A connection that fails is ended by its reader, and what was on
		// its way is sent again on the next.
		_ = s.flush(ctx, sendTimeout)
		pause.Reset(ackPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return
		}
	}
}

var errNotConnected = errors.New("not connected")

// flush sends what is queued. Without a connection it stays queued.
func (s *Stream) flush(ctx context.Context, timeout time.Duration) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	s.mu.Lock()
	conn, pending := s.conn, s.pending
	if conn != nil {
		s.pending = nil
	}
	s.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	if conn == nil {
		return errNotConnected
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var msg []byte
	for _, a := range pending {
		for some := range slices.Chunk(a.ranges, maxRanges) {
			msg = stream.AppendAck(msg[:0], a.doppler, a.epoch, some...)
			if err := conn.Send(ctx, msg); err != nil {
				return err
			}
		}
	}
	return nil
}

// lastAcks flushes for Close.
func (s *Stream) lastAcks() error {
	if err := s.flush(context.Background(), lastAcksTimeout); err != nil {
		return &Error{Code: CodeUnavailable, Err: fmt.Errorf("acks not sent: %w", err)}
	}
	return nil
}
