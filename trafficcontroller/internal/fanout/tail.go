package fanout

import (
	"slices"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Conn is the part of a stream.Conn that a tail needs.
type Conn interface {
	// WriteFrames is as in package stream.
	WriteFrames(bufs [][]byte, release func(spilled bool), timeout time.Duration) error
	// Close is as in package stream.
	Close(code stream.CloseCode, reason string) error
}

// Options say what a tail is to have.
type Options struct {
	Source string
	Filter Filter
	// Newest is how many envelopes of history it wants, of all Dopplers
	// together; Since, if not 0, how old they may be (unix nanoseconds).
	Newest int
	Since  int64
	// Whole says that Newest is but a limit: what it leaves out is told.
	Whole bool
	// Cursor, unless nil, is where it was before; the other wishes for
	// history do not count then.
	Cursor *streampb.Cursor
	// Old is the framing of old clients: one dropsonde envelope in each
	// message, gaps as log lines, nothing else. There is no history then.
	Old bool

	Who slow.Who // for views
}

// Tail is one client of one source. It belongs to its Hub.
type Tail struct {
	// static
	hub     *Hub
	conn    Conn
	number  uint64
	options *Options // without cursor
	opened  time.Time
	limit   int
	since   int64
	source  *source
	group   *group
	filter  Filter

	// guarded by the hub's mu
	cursor    map[string][]*streampb.CursorEntry // by Doppler, until there is a leg; nil: came without one
	over      map[string]ended                   // by Doppler
	legs      []*leg
	marks     []mark
	heldBytes int64
	judge     slow.Judge
	isSlow    bool
	gathering bool  // the first history has not been sent
	live      bool  // the client knows that history is over
	sent      int   // envelopes of it that were
	oldest    int64 // time of the first of them
	closed    bool

	q     queue
	wants atomic.Bool  // more history, when the queue has no more of it
	wrote atomic.Int64 // unix ns of the last write
	slow  atomic.Bool  // its last write had to wait

	ended atomic.Pointer[ending]

	envelopes atomic.Uint64 // written
	bytes     atomic.Uint64 // written
	gaps      atomic.Uint64 // gaps told
}

// mark is where a tail has joined a link.
type mark struct {
	link   *link
	offset uint64
}

func newTail(h *Hub, conn Conn, o Options) *Tail {
	t := &Tail{
		hub: h, conn: conn, number: h.last, opened: h.now, filter: o.Filter,
		limit: o.Newest, since: anyTime, oldest: anyTime,
	}
	if o.Since != 0 {
		t.since = o.Since
	}
	if o.Cursor != nil {
		t.cursor = map[string][]*streampb.CursorEntry{}
		for _, e := range o.Cursor.GetEntries() {
			t.cursor[e.GetDoppler()] = append(t.cursor[e.GetDoppler()], e)
			if e.GetFinished() {
				t.knows(e.GetDoppler(), ended{e.GetEpoch(), e.GetMatched()})
			}
		}
		o.Cursor = nil
	}
	t.options = &o
	t.wrote.Store(h.now.UnixNano())
	return t
}

// ended is how far a client had got in an epoch when it knew it to be over.
type ended struct{ epoch, matched uint64 }

// knows notes that the client knows an epoch to be over.
func (t *Tail) knows(doppler string, e ended) {
	if t.over == nil {
		t.over = map[string]ended{}
	}
	t.over[doppler] = e
}

// loses tells whether the loss of a link's epoch is news to the client, and notes
// that it is told. It is not if nothing came since the client knew.
func (t *Tail) loses(w *watch) bool {
	now := ended{w.link.epoch, w.counts.of(t.filter.Mask)}
	if e := t.over[w.link.name]; e == now || e.epoch == now.epoch && !w.joined {
		return false
	}
	t.knows(w.link.name, now)
	return true
}

// newest tells whether the tail wants history without a cursor.
func (t *Tail) newest() bool { return t.cursor == nil && t.limit > 0 }

// wanted is how many envelopes of history to look for: one more than the tail
// may get, if it has to know whether there are more.
func (t *Tail) wanted() int {
	if t.options.Whole {
		return min(t.limit+1, maxRead)
	}
	return t.limit
}

// Tell says how long the client's token is good for, unless it is of the old
// framing. It does not wait, and nobody waits for it: clients may send many
// tokens. What was told before and waits for the socket is forgotten. a must not
// be changed any more.
func (t *Tail) Tell(a *streampb.Access) {
	if !t.options.Old && t.q.tell(a) {
		t.hub.cfg.Ready(t)
	}
}

// eachTail makes the tail the only holder of its own frames.
func (t *Tail) eachTail(visit func(*Tail)) { visit(t) }

func (t *Tail) share() *atomic.Int64 { return &t.source.bytes }

// mark remembers where the tail has joined a link.
func (t *Tail) mark(l *link, offset uint64) {
	for i := range t.marks {
		if t.marks[i].link == l {
			t.marks[i].offset = offset
			return
		}
	}
	t.marks = append(t.marks, mark{l, offset})
}

// waitsFor tells whether the tail has still to join a link.
func (t *Tail) waitsFor(l *link) bool {
	if g := t.leg(l.name); g != nil {
		return g.state == legWaits
	}
	for _, m := range t.marks {
		if m.link == l {
			return false
		}
	}
	return true
}

func (t *Tail) joinedAt(l *link) uint64 {
	for _, m := range t.marks {
		if m.link == l {
			return m.offset
		}
	}
	return 0
}

// offer gives the tail a frame that came over a link. The tail takes a
// reference of its own.
func (t *Tail) offer(l *link, f *frame) {
	if t.legs != nil {
		if g := t.leg(l.name); g != nil {
			switch g.state {
			case legWaits:
				if f.pinned {
					t.enqueue(f)
				}
			case legAhead:
				t.offerAhead(g, f)
			default:
				t.hold(g, f)
			}
			return
		}
	}
	t.enqueue(f)
}

// enqueue puts a live frame into the queue, with a reference of its own.
func (t *Tail) enqueue(f *frame) {
	if t.q.push(f.retain(), false, t.hub.cfg.TailBytes-t.heldBytes) {
		t.hub.cfg.Ready(t)
	}
}

// enqueueIdle does the same if there is nothing else to write.
func (t *Tail) enqueueIdle(f *frame) {
	if t.q.pushIdle(f) {
		t.hub.cfg.Ready(t)
	}
}

// enqueueSpec makes a frame of history, for this tail alone, and puts it into
// the queue.
func (t *Tail) enqueueSpec(s *spec) {
	s.inFraming(t.options)
	f, err := t.hub.maker.make(s, t)
	if err != nil {
		t.hub.log.Error("frame for a tail", "error", err)
		return
	}
	if t.q.push(f, true, t.hub.cfg.TailBytes-t.heldBytes) {
		t.hub.cfg.Ready(t)
	}
}

// dropFrame drops a frame from wherever the tail has it. From among those that
// are held, older ones go with it.
func (t *Tail) dropFrame(f *frame) {
	for _, g := range t.legs {
		if n := slices.Index(g.held, f) + 1; n > 0 {
			for ; n > 0 && t.letGo(g); n-- {
			}
			return
		}
	}
	t.q.dropFrame(f)
}

// tick lets time pass for the tail's legs.
func (t *Tail) tick() {
	now, cfg := t.hub.now, &t.hub.cfg
	if t.gathering && now.Sub(t.opened) >= cfg.GatherWithin {
		t.finishGather()
	}
	for _, g := range append([]*leg(nil), t.legs...) {
		waited := now.Sub(g.since)
		switch {
		case g.state == legReads:
			t.advance(g)
		case g.state == legAhead && waited >= cfg.LostAfter:
			// No link is so far behind: the cursor is not of this Doppler.
			t.tellUnknown(g.doppler, g.epoch, streampb.Gap_CURSOR_UNKNOWN)
			t.caughtUp(g)
		case g.state == legWaits && waited >= cfg.LostAfter && t.hub.isLost(g.doppler):
			for _, e := range g.entries {
				e.lose(t) // its place is kept, should the Doppler come back
			}
		}
	}
	t.endPast()
}
