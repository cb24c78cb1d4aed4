package fanout

import (
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// queue is what a tail has still to be sent. When it holds too much, the
// oldest goes; what is lost with it is counted and told in its place.
type queue struct {
	mu      sync.Mutex
	entries []entry // in order
	live    int64   // bytes of the frames that came over a link
	past    int64   // bytes of history
	spill   int64   // bytes copied for a socket that does not take them
	taken   content // being written
	busy    bool    // somebody has been told to flush it
	closed  bool
	// access is the answer to the newest token. One that waits says more than
	// those before it, so there is never more than one.
	access *streampb.Access

	dropped uint64 // envelopes, in all
}

// entry is a frame, or what was lost where frames have been. One that is taken
// may also be an answer to a token.
type entry struct {
	f      *frame
	past   bool // history: made for this tail, on its demand
	lost   *loss
	access *streampb.Access
}

// spec is what a frame is still to be made of, or nil if there is one.
func (e entry) spec() *spec {
	switch {
	case e.lost != nil:
		return e.lost.spec()
	case e.access != nil:
		return &spec{access: e.access}
	}
	return nil
}

// loss is a gap in the making, of one epoch.
type loss struct {
	doppler string
	epoch   uint64
	end     uint64
	matched uint64 // by class, before end
	gaps    []*streampb.Gap
}

// of tells whether an entry is of the same epoch as f.
func (e entry) of(f *frame) bool {
	if e.lost != nil {
		return e.lost.doppler == f.doppler && e.lost.epoch == f.epoch
	}
	return e.f.doppler == f.doppler && e.f.epoch == f.epoch
}

// push appends a frame, whose reference it takes over, and drops the oldest
// live frames beyond room bytes, but not the last. It reports whether somebody
// has to be told to flush.
func (q *queue) push(f *frame, past bool, room int64) (flush bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		f.release()
		return false
	}
	q.append(f, past)
	for q.live+q.spill > room && q.dropOldest() {
	}
	flush = !q.busy
	q.busy = true
	return flush
}

// pushIdle appends a frame, with a reference of its own, to a queue that is
// empty. It reports whether somebody has to be told to flush.
func (q *queue) pushIdle(f *frame) (flush bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || q.busy || len(q.entries) > 0 {
		return false
	}
	q.append(f.retain(), false)
	q.busy = true
	return true
}

// tell puts an answer to a token in the place of the one that waits, if any. It
// reports whether somebody has to be told to flush.
func (q *queue) tell(a *streampb.Access) (flush bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.access = a
	flush = !q.busy
	q.busy = true
	return flush
}

func (q *queue) append(f *frame, past bool) {
	q.entries = append(q.entries, entry{f: f, past: past})
	q.account(q.entries[len(q.entries)-1], 1)
}

func (q *queue) account(e entry, sign int64) {
	switch {
	case e.f == nil:
	case e.past:
		q.past += sign * e.f.size()
	default:
		q.live += sign * e.f.size()
	}
}

// dropOldest drops the oldest live frame, unless it is the last of the queue.
func (q *queue) dropOldest() bool {
	for i := range len(q.entries) - 1 {
		if e := q.entries[i]; e.f != nil && !e.past && !e.f.pinned {
			q.drop(i)
			return true
		}
	}
	return false
}

// dropFrame drops f if it is there.
func (q *queue) dropFrame(f *frame) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, e := range q.entries {
		if e.f == f && !f.pinned {
			q.drop(i)
			return
		}
	}
}

// drop puts what is lost with frame i in its place, or to what was lost of the
// same epoch just before.
func (q *queue) drop(i int) {
	e := q.entries[i]
	q.account(e, -1)
	f := e.f
	defer f.release()
	q.dropped += f.count
	f.budget.dropped.Add(f.count)
	var before *loss // nothing of the same epoch is between it and f
	for at := i - 1; at >= 0; at-- {
		if o := q.entries[at]; o.of(f) {
			before = o.lost
			break
		}
	}
	if before == nil && f.placed {
		l := &loss{doppler: f.doppler, epoch: f.epoch}
		l.add(f)
		q.entries[i] = entry{lost: l}
		return
	}
	if before != nil {
		before.add(f)
	}
	copy(q.entries[1:i+1], q.entries[:i])
	q.entries[0] = entry{}
	q.entries = q.entries[1:]
}

// add notes what is lost with a frame, which comes after all that was lost
// before.
func (l *loss) add(f *frame) {
	for _, g := range f.gaps {
		l.gap(g.GetFrom(), g.GetTo(), g.GetCount(), g.GetReason())
	}
	if f.count > 0 {
		l.gap(f.first, f.end, f.count, streampb.Gap_QUEUE_FULL)
	}
	l.end, l.matched = max(l.end, f.end), max(l.matched, f.matched)
}

func (l *loss) gap(from, to, count uint64, why streampb.Gap_Reason) {
	for _, g := range l.gaps {
		if g.Reason == why {
			g.From, g.To = min(g.From, from), max(g.To, to)
			g.Count += count
			return
		}
	}
	l.gaps = append(l.gaps, &streampb.Gap{
		From: from, To: to, Count: count, Reason: why, Doppler: l.doppler, Epoch: l.epoch,
	})
}

// spec is the frame that tells the loss.
func (l *loss) spec() *spec {
	return &spec{
		doppler: l.doppler, epoch: l.epoch, first: l.end, end: l.end, matched: l.matched, gaps: l.gaps, placed: true,
	}
}

// take moves the next entries to dst, up to maxBytes but at least one, and then
// the answer that waits: hello comes before it. When there is nothing, the queue
// is no longer busy.
func (q *queue) take(dst []entry, maxBytes int64) []entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = content{}
	if q.isEmpty() || q.closed {
		q.busy = false
		return dst
	}
	n := 0
	for size := int64(0); n < len(q.entries); n++ {
		e := q.entries[n]
		if e.f != nil {
			size += e.f.size()
		}
		if n > 0 && size > maxBytes {
			break
		}
		q.account(e, -1)
		q.taken.add(e.f)
		dst = append(dst, e)
		q.entries[n] = entry{}
	}
	if n == len(q.entries) {
		q.entries = nil // an idle tail keeps nothing
	} else {
		q.entries = q.entries[n:]
	}
	if q.access != nil {
		dst = append(dst, entry{access: q.access})
		q.access = nil
	}
	return dst
}

func (q *queue) isEmpty() bool { return len(q.entries) == 0 && q.access == nil }

// state is what a flush leaves behind.
type state int

const (
	queueEmpty state = iota // and no longer busy
	queueSome
	queueFull // enough for a write at once
)

// flushed says that what was taken has been written.
func (q *queue) flushed() state {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.taken = content{}
	switch {
	case q.isEmpty():
		q.busy = false
		return queueEmpty
	case q.live+q.past >= chunk:
		return queueFull
	}
	return queueSome
}

// spilled says how many bytes wait in a copy, or no longer do when negative.
func (q *queue) spilled(bytes int64) {
	q.mu.Lock()
	q.spill += bytes
	q.mu.Unlock()
}

// level tells how many bytes are held.
func (q *queue) level() (live, past int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.live + q.spill, q.past
}

// content is envelopes that wait.
type content struct {
	envelopes uint64
	oldest    int64 // when the oldest of them came; 0 without any
}

func (c *content) add(f *frame) {
	if f == nil || f.count == 0 {
		return
	}
	c.envelopes += f.count
	if c.oldest == 0 {
		c.oldest = f.made
	}
}

// waiting is what is in the queue, or being written.
func (q *queue) waiting(now time.Time) slow.Lag {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.taken
	for _, e := range q.entries {
		c.add(e.f)
	}
	l := slow.Lag{Envelopes: c.envelopes, Dropped: q.dropped}
	if c.oldest != 0 {
		l.Bytes = uint64(q.live + q.past + q.spill)
		l.Age = max(now.Sub(time.Unix(0, c.oldest)), 0)
	}
	return l
}

// close lets go of everything; what is pushed later is dropped at once.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, e := range q.entries {
		if e.f != nil {
			e.f.release()
		}
	}
	q.entries, q.live, q.past, q.access = nil, 0, 0, nil
}
