package fanout

import (
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// ending is how this side has closed a tail.
type ending struct {
	stream.CloseError
	cut slow.Cut
	lag slow.Lag // then
}

// look judges how far the tail is behind, and cuts it if it is slow and may not
// be. In its first time it may have history to take. The hub's mu is held.
func (t *Tail) look() {
	policy := t.hub.cfg.Slow
	if t.options.Old {
		policy = t.hub.cfg.SlowOld
	}
	if t.ended.Load() != nil || t.hub.now.Sub(t.opened) < policy.Age {
		return
	}
	l := t.behind(t.hub.now)
	if t.isSlow = t.judge.Look(policy, l) == slow.Slow; t.isSlow && policy.Cut {
		t.cut(slow.Lagging, l, slow.Reason(l))
		t.q.close()
	}
}

// behind is how far the tail is behind. The hub's mu is held.
func (t *Tail) behind(now time.Time) slow.Lag {
	l := t.q.waiting(now)
	for _, g := range t.legs {
		for _, f := range g.held {
			l.Envelopes += f.count
		}
	}
	if l.Envelopes > 0 {
		l.Bytes += uint64(t.heldBytes)
	}
	return l
}

// cut closes a slow tail, unless it is closed already.
func (t *Tail) cut(why slow.Cut, l slow.Lag, reason string) {
	code := stream.CloseStuck
	if t.options.Old {
		code = stream.CloseNormal // to old clients it means "too slow" (protocol, sharp edge 4)
	}
	t.finish(&ending{stream.CloseError{Code: code, Reason: reason}, why, l})
}

// gone closes a tail whose connection is lost, unless it is closed already.
func (t *Tail) gone() {
	t.finish(&ending{CloseError: stream.CloseError{Code: stream.CloseGoingAway, Reason: "connection lost"}})
}

func (t *Tail) finish(e *ending) {
	if t.ended.CompareAndSwap(nil, e) {
		t.hub.cfg.End(t, e.Code, e.Reason)
	}
}

// Ended is how this side has closed the tail's connection, or nil. It may be
// called at any time.
func (t *Tail) Ended() *stream.CloseError {
	if e := t.ended.Load(); e != nil {
		return &e.CloseError
	}
	return nil
}

// Row is what a view shows of a tail.
type Row struct {
	Number  uint64
	Options *Options // read only
	Filter  string
	Opened  time.Time
	Lag     slow.Lag // dropped are those for its own slowness
	Slow    bool
	Cut     slow.Cut
	Sent    uint64 // envelopes
	Bytes   uint64
	Gaps    uint64 // gaps told
	Joining bool   // has not all its history yet
}

// Row may be called at any time, also after Close. That of a tail that was cut
// says how far it was behind then.
func (t *Tail) Row() Row {
	t.hub.mu.Lock()
	defer t.hub.mu.Unlock()
	return t.row()
}

func (t *Tail) row() Row {
	row := Row{
		Number: t.number, Options: t.options, Filter: t.filter.String(), Opened: t.opened, Lag: t.behind(t.hub.now), Slow: t.isSlow,
		Sent: t.envelopes.Load(), Bytes: t.bytes.Load(), Gaps: t.gaps.Load(), Joining: t.gathering || len(t.legs) > 0,
	}
	if e := t.ended.Load(); e != nil && e.cut != slow.NotCut {
		row.Lag, row.Cut = e.lag, e.cut
	}
	return row
}

// Rows shows every tail.
func (h *Hub) Rows() []Row {
	h.mu.Lock()
	defer h.mu.Unlock()
	rows := make([]Row, 0, len(h.tails))
	for t := range h.tails {
		rows = append(rows, t.row())
	}
	return rows
}
