package nozzle

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
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

// ack takes note that the envelopes with indices [from, to) of a batch are
// acked.
func (s *Stream) ack(b *Batch, from, to int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.passes {
		if to-from == b.Len() {
			s.consumed(b)
		}
		return
	}
	if s.place.Ack(&b.delivery, from, to) {
		s.status.Unacked--
	}
	signal(s.acks)
}

// consumed takes note that the owner of a batch that passes has done with it.
// mu is held.
func (s *Stream) consumed(b *Batch) {
	if s.place.Consume(&b.delivery) {
		s.status.Unacked--
	}
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
	conn, owes := s.conn, s.place.Owes()
	var acks []stream.Acks
	if conn != nil {
		acks = s.place.TakeAcks()
	}
	s.mu.Unlock()
	if !owes {
		return nil
	}
	if conn == nil {
		return errNotConnected
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var msg []byte
	for _, a := range acks {
		for some := range slices.Chunk(a.Ranges, maxRanges) {
			msg = stream.AppendAck(msg[:0], a.Doppler, a.Epoch, some...)
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
