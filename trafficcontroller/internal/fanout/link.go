package fanout

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// link is the near side of the tail link to one Doppler, over all its
// connections and epochs.
type link struct {
	name   string
	epoch  uint64
	addr   string    // where it is connected, or was last
	gone   time.Time // when addr was removed from the set of Dopplers, if it was
	given  bool      // up for lost, and told so; kept for the tails it had
	up     bool
	left   time.Time // when it was up last
	wake   func()    // says that take has something
	events events

	next     uint64 // the link's cursor
	resumed  uint64 // where it was when this connection began
	finished bool   // the epoch ended with a fin

	watches  map[uint32]*watch
	bySource map[string]*watch // by source id
	last     uint32            // watch number
	request  uint64
	most     int // bytes of a Watch

	// what take will say
	fresh  bool // no Watch was sent on this connection
	start  *streampb.LinkStart
	add    []*watch
	remove []uint32

	items   []item   // scratch of batch
	touched []*watch // likewise
}

// watch is one source on one link.
type watch struct {
	id     uint32
	link   *link
	source *source
	gone   bool

	asked  bool // on this connection
	waited bool // since before this connection
	joined bool // in this epoch
	join   uint64
	last   uint64 // past the last envelope that came or was told as a gap
	counts counts // of the source before the link's cursor, received or told as gaps

	head, tail int32 // chain of items, during batch
}

// item is one envelope of a batch.
type item struct {
	offset uint64
	record []byte // field-1 record
	class  envelope.Class
	next   int32 // of the same watch, or -1
}

// events is what a link tells the hub. During a call the link's state is what
// it was before the event.
type events interface {
	// joined: from join on, everything of the source comes.
	joined(w *watch)
	// missed: gap.ClassCounts of the source will not come.
	missed(w *watch, gap *streampb.Gap)
	// lost: of every source it is not known what will not come.
	lost(l *link, why streampb.Gap_Reason)
	// ends: the epoch is over.
	ends(l *link)
	// envelopes: the chain of w in items; next is the link's cursor after
	// the batch.
	envelopes(w *watch, items []item, next uint64)
	// fin: nothing of the epoch comes any more, all of it was seen.
	fin(l *link, end uint64)
	// refused: the Doppler does not watch the source, and why.
	refused(w *watch, why string)
}

func newLink(name string, e events) *link {
	return &link{name: name, events: e, watches: map[uint32]*watch{}, bySource: map[string]*watch{}, most: maxWatchBytes}
}

// late tells whether a watch has joined later than where the link went on, so
// that nobody knows how much its tails have missed.
func (w *watch) late() bool { return w.waited && w.join > w.link.resumed }

// connected says that the Doppler has said hello over a new connection. take
// will resume what was watched; when the epoch is another, at its origin.
func (l *link) connected(h *streampb.Hello, addr string, wake func()) {
	known := l.epoch == h.GetEpoch() && l.epoch != 0
	if !known {
		l.end()
		l.epoch, l.finished = h.GetEpoch(), false
		l.next = h.GetHead()
		if len(l.watches) > 0 {
			l.next = 0
		}
	}
	l.addr, l.up, l.wake = addr, true, wake
	l.gone, l.given = time.Time{}, false
	l.fresh, l.remove, l.resumed = true, nil, l.next
	switch {
	case known:
		l.start = &streampb.LinkStart{Epoch: l.epoch, Offset: l.next}
	case len(l.watches) > 0:
		// They were there before this Doppler was found, or before its epoch.
		l.start = &streampb.LinkStart{Origin: true}
	default:
		l.start = nil
	}
	l.add = l.add[:0]
	for _, w := range l.watches {
		w.asked, w.waited = false, true
		l.add = append(l.add, w)
	}
	l.wake()
}

// end says that the epoch is over. Without a fin nobody knows what was lost.
func (l *link) end() {
	if l.epoch == 0 {
		return
	}
	l.events.ends(l)
	l.giveUp()
	for _, w := range l.watches {
		w.joined, w.counts, w.join, w.last = false, counts{}, 0, 0
	}
}

// giveUp tells, once, that nobody knows what of the epoch is lost.
func (l *link) giveUp() {
	if !l.finished && !l.given {
		l.events.lost(l, streampb.Gap_DOPPLER_LOST)
	}
	l.given = true
}

// disconnected says that the connection is gone.
func (l *link) disconnected() {
	l.up, l.wake = false, nil
	l.add, l.remove = l.add[:0], nil
}

// watch asks for a source. The answer is joined or refused.
func (l *link) watch(s *source) {
	l.last++
	w := &watch{id: l.last, link: l, source: s}
	l.watches[w.id], l.bySource[s.id] = w, w
	if l.up {
		l.add = append(l.add, w)
		l.wake()
	}
}

// unwatch ends what watch began.
func (l *link) unwatch(s *source) {
	w := l.bySource[s.id]
	if w == nil {
		return
	}
	w.gone = true
	delete(l.watches, w.id)
	delete(l.bySource, s.id)
	if l.up && w.asked {
		l.remove = append(l.remove, w.id)
		l.wake()
	}
}

// maxWatchBytes bounds one Watch message; the Doppler's limit is larger.
const maxWatchBytes = 2 << 20

// take returns the next Watch to send, or nil. Those of one resume say that more
// of them follow: all of it goes on from one place.
func (l *link) take() *streampb.Watch {
	if !l.up || !l.fresh && len(l.add) == 0 && len(l.remove) == 0 {
		return nil
	}
	l.request++
	msg := &streampb.Watch{Request: l.request, Remove: l.remove}
	l.remove = nil
	if l.fresh {
		msg.Start, l.fresh = l.start, false
	}
	size, n := 0, 0
	for ; n < len(l.add) && size < l.most; n++ {
		w := l.add[n]
		if w.gone {
			continue
		}
		w.asked = true
		add := &streampb.Watch_Add{SourceId: w.source.id, Watch: w.id}
		if w.joined {
			add.ClassCounts = append([]uint64(nil), w.counts[:]...)
		}
		msg.Add = append(msg.Add, add)
		size += len(w.source.id) + 16 + 8*len(add.ClassCounts)
	}
	l.add = append(l.add[:0], l.add[n:]...)
	msg.More = slices.ContainsFunc(l.add, func(w *watch) bool { return w.waited })
	return msg
}

// batch takes what the Doppler has said. records are the envelopes of b. The
// error means that it makes no sense and the connection is to be ended.
func (l *link) batch(b *streampb.Batch, records []byte) error {
	for _, a := range b.GetWatching() {
		l.watching(a)
	}
	for _, gap := range b.GetGaps() {
		l.gap(gap)
	}
	if p := b.GetPosition(); p != nil {
		if err := l.envelopes(p, records); err != nil {
			return err
		}
		l.next = max(l.next, p.GetNext())
	}
	for _, f := range b.GetFins() {
		if f.GetEpoch() == l.epoch {
			l.finished = true
			l.events.fin(l, f.GetEnd())
		}
	}
	return nil
}

// watching takes an answer. For a source that was watched before a break it
// says what was missed since.
func (l *link) watching(a *streampb.Watching) {
	w := l.watches[a.GetWatch()]
	switch {
	case w == nil:
		return // given up meanwhile
	case a.GetError() != "":
		l.events.refused(w, a.GetError())
		return
	}
	have := countsOf(a.GetClassCounts())
	if w.joined {
		l.compare(w, a, have)
		return
	}
	w.joined, w.join, w.last, w.counts = true, a.GetJoin(), a.GetJoin(), have
	l.next = max(l.next, a.GetJoin())
	l.events.joined(w)
}

// compare tells what the Doppler has counted and what did not come.
func (l *link) compare(w *watch, a *streampb.Watching, have counts) {
	gap := &streampb.Gap{
		SourceId: w.source.id, From: w.last, To: a.GetJoin(), Reason: streampb.Gap_EVICTED,
		ClassCounts: make([]uint64, len(have)), Doppler: l.name, Epoch: l.epoch,
	}
	w.join = a.GetJoin()
	l.next = max(l.next, w.join)
	for c := range have {
		if have[c] < w.counts[c] {
			// The Doppler has lost its counters; it tells that itself.
			w.counts = have
			return
		}
		gap.ClassCounts[c] = have[c] - w.counts[c]
		gap.Count += gap.ClassCounts[c]
	}
	if gap.Count > 0 {
		l.tell(w, gap)
	}
}

// gap takes a gap of the Doppler.
func (l *link) gap(gap *streampb.Gap) {
	if gap.GetSourceId() == "" {
		l.events.lost(l, gap.GetReason())
		return
	}
	w := l.bySource[gap.GetSourceId()]
	// What lies before join was told with the answer, or is history.
	if w != nil && w.joined && (gap.GetTo() == 0 || gap.GetTo() > w.join) {
		l.tell(w, gap)
	}
}

func (l *link) tell(w *watch, gap *streampb.Gap) {
	l.events.missed(w, gap)
	w.counts.add(gap.GetClassCounts())
	w.last = max(w.last, gap.GetTo())
}

var errMalformed = errors.New("malformed batch on a tail link")

// envelopes cuts a batch by watch.
func (l *link) envelopes(p *streampb.Position, records []byte) error {
	n := int(p.GetCount())
	if p.GetEpoch() != l.epoch {
		return fmt.Errorf("%w: epoch %d in epoch %d", errMalformed, p.GetEpoch(), l.epoch)
	}
	deltas, classes := p.GetDeltas(), p.GetClasses()
	if len(p.GetWatches()) != n || len(classes) != n || len(deltas) != 0 && len(deltas) != n-1 {
		return fmt.Errorf("%w: %d envelopes, %d watches, %d classes, %d deltas",
			errMalformed, n, len(p.GetWatches()), len(classes), len(deltas))
	}
	l.items, l.touched = l.items[:0], l.touched[:0]
	offset := p.GetFirst()
	var w *watch
	for i, id := range p.GetWatches() {
		_, rest, ok := envelope.Next(records)
		if !ok || int(classes[i]) >= envelope.NumClasses {
			return fmt.Errorf("%w: envelope %d of %d", errMalformed, i, n)
		}
		record := records[:len(records)-len(rest)]
		records = rest
		switch {
		case i == 0:
		case len(deltas) == 0:
			offset++
		default:
			offset += uint64(deltas[i-1])
		}
		if w == nil || w.id != id {
			w = l.watches[id]
		}
		l.items = append(l.items, item{offset, record, envelope.Class(classes[i]), -1})
		if w != nil && w.joined && offset >= w.join && offset >= l.next {
			l.chain(w, int32(i))
		}
	}
	for _, w := range l.touched {
		l.events.envelopes(w, l.items, p.GetNext())
		for i := w.head; i >= 0; i = l.items[i].next {
			w.counts[l.items[i].class]++
			w.last = l.items[i].offset + 1
		}
		w.head, w.tail = 0, 0
	}
	clear(l.items) // they hold the message's memory
	return nil
}

// chain appends item i to those of w. tail is one more than the index of the
// last, so that the zero value is empty.
func (l *link) chain(w *watch, i int32) {
	if w.tail == 0 {
		w.head = i
		l.touched = append(l.touched, w)
	} else {
		l.items[w.tail-1].next = i
	}
	w.tail = i + 1
}
