package ingress

import (
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// stream is one open call.
type stream struct {
	counters

	// static
	server  *Server
	framing Framing
	ended   chan struct{}

	// owned by receive
	one [1]envelope.Record

	// guarded by Server.mu
	seen  uint64 // messages, when last looked at
	quiet int    // how often nothing had come since
	gone  bool   // ended is closed
}

// receive takes messages until the stream ends, and returns what ended it.
func (s *stream) receive(calls grpc.ServerStream) error {
	var m message
	for {
		if err := calls.RecvMsg(&m); err != nil {
			if status.Code(err) == codes.ResourceExhausted {
				s.messageTooLarge.Add(1)
			}
			return err
		}
		s.begun.Add(1)
		s.take(&m)
		m.free()
		s.messages.Add(1)
	}
}

func (s *stream) take(m *message) {
	switch s.framing {
	case Single:
		s.takeOne(m)
	case Pushed:
		s.takePushed(m)
	default:
		s.takeBatch(m)
	}
}

// takeOne keeps single envelopes lean: they come in one frame as a rule, and
// need no workspace then.
func (s *stream) takeOne(m *message) {
	if len(m.frames) > 1 {
		w := <-s.server.workspaces
		s.takeMessage(w.join(m.frames))
		s.server.workspaces <- w
		return
	}
	var msg []byte // without frames, the empty envelope
	if len(m.frames) == 1 {
		msg = m.frames[0].ReadOnlyData()
	}
	s.takeMessage(msg)
}

func (s *stream) takeMessage(msg []byte) {
	s.bytes.Add(uint64(len(msg)))
	s.takeEnvelope(msg)
}

// takeEnvelope is where every envelope that comes alone is accepted or not.
func (s *stream) takeEnvelope(msg []byte) {
	var err error
	s.one[0], err = envelope.ScanEnvelope(msg, s.server.cfg.Limits)
	switch {
	case err == nil:
		s.accept(msg, s.one[:], s.server.now())
	case errors.Is(err, envelope.ErrTooLarge):
		s.tooLarge.Add(1)
	case errors.Is(err, envelope.ErrSourceTooLong):
		s.sourceTooLong.Add(1)
	default:
		s.malformed.Add(1)
	}
}

func (s *stream) takeBatch(m *message) {
	w := <-s.server.workspaces
	msg := w.whole(m.frames)
	s.bytes.Add(uint64(len(msg)))
	var dropped envelope.Dropped
	recs, now := w.records[:0], s.server.now()
	for next := 0; next < len(msg); {
		recs, next = envelope.ScanChunk(msg, next, s.server.cfg.Limits, recs[:0], &dropped)
		if len(recs) > 0 {
			s.accept(msg, recs, now)
		}
	}
	s.counters.dropped(&dropped)
	s.server.workspaces <- w
}

// accept appends what is not over the limit of its source. recs may be written
// to.
func (s *stream) accept(msg []byte, recs []envelope.Record, now int64) {
	if limiter := s.server.cfg.Limiter; limiter != nil {
		all := len(recs)
		recs = limiter.Admit(now, msg, recs)
		if left := all - len(recs); left > 0 {
			s.overLimit.Add(uint64(left))
		}
		if len(recs) == 0 {
			return
		}
	}
	s.server.to.Append(msg, recs)
	s.accepted.Add(uint64(len(recs)))
	s.acceptedBytes.Add(size(recs))
}

// now is the Limiter's clock, read once for each message; 0 without one.
func (s *Server) now() int64 {
	if s.cfg.Limiter == nil {
		return 0
	}
	return int64(time.Since(s.began))
}

// idle tells whether no message came since it was last asked and none is
// being taken. It is called with Server.mu held.
func (s *stream) idle() bool {
	done := s.messages.Load()
	idle := done == s.seen && s.begun.Load() == done
	s.seen = done
	return idle
}

func size(recs []envelope.Record) uint64 {
	var n uint64
	for i := range recs {
		n += uint64(recs[i].End - recs[i].Start)
	}
	return n
}

// recordsPerAppend bounds how many envelopes the Appender gets at once, and
// the memory of their records.
const recordsPerAppend = 256

// maxKept is the largest join buffer that is kept for the next message.
const maxKept = 256 << 10

// workspace is what it takes to work on one message.
type workspace struct {
	records []envelope.Record
	joined  []byte
	v1      dropsonde.Encoder
	v2      []byte
}

// whole returns frames in one piece that is valid until the next call; without
// frames it is empty.
func (w *workspace) whole(frames mem.BufferSlice) []byte {
	switch len(frames) {
	case 0:
		return nil
	case 1:
		return frames[0].ReadOnlyData()
	}
	return w.join(frames)
}

// join copies frames into one piece that is valid until the next join.
func (w *workspace) join(frames mem.BufferSlice) []byte {
	n := frames.Len()
	if cap(w.joined) < n || cap(w.joined) > max(maxKept, n) {
		w.joined = make([]byte, max(n, maxKept/4))
	}
	msg := w.joined[:n]
	frames.CopyTo(msg)
	return msg
}

// handle runs one streaming call. The goroutine that receives can only be
// freed by leaving the handler, hence the two.
func (s *Server) handle(calls grpc.ServerStream, framing Framing) error {
	str, err := s.admit(framing)
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	go func() {
		defer s.release(str)
		received <- str.receive(calls)
	}()
	select {
	case err := <-received:
		if errors.Is(err, io.EOF) {
			// The producer has sent its last: tell it that all was taken.
			return calls.SendMsg(reply{})
		}
		return err
	case <-str.ended:
		return errDraining()
	}
}
