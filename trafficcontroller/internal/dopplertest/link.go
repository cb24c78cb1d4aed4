package dopplertest

import (
	"fmt"
	"sort"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Link is the Doppler's side of a tail link.
type Link struct {
	doppler *Doppler
	started bool
	resumes bool
	held    bool // more of the resume is to come
	start   uint64
	next    uint64
	watches map[uint32]*watch
	replies []*streampb.Watching
	gaps    []*streampb.Gap

	// Skip, if set, names a source that is left out for being over its share.
	Skip string
	skip *streampb.Gap
}

type watch struct {
	id     uint32
	source string
	counts [envelope.NumClasses]uint64
}

// NewLink makes a link; the first Watch starts it.
func (d *Doppler) NewLink() *Link { return &Link{doppler: d, watches: map[uint32]*watch{}} }

// Watch takes a client's message.
func (l *Link) Watch(w *streampb.Watch) {
	d := l.doppler
	if !l.started {
		l.started = true
		switch s := w.GetStart(); {
		case s.GetOrigin():
			l.next = 0
		case s.GetEpoch() == d.Epoch:
			l.next, l.resumes = s.GetOffset(), true
		case s.GetEpoch() != 0:
			l.gaps = append(l.gaps, &streampb.Gap{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST})
		default:
			l.next = d.Head()
		}
		l.start = l.next
	}
	for _, id := range w.GetRemove() {
		delete(l.watches, id)
	}
	for _, a := range w.GetAdd() {
		l.add(w.GetRequest(), a)
	}
	l.held = w.GetMore()
}

func (l *Link) add(request uint64, a *streampb.Watch_Add) {
	l.settle()
	reply := &streampb.Watching{Request: request, SourceId: a.GetSourceId(), Watch: a.GetWatch(), Join: l.next}
	l.replies = append(l.replies, reply)
	if l.doppler.MaxWatches > 0 && len(l.watches) >= l.doppler.MaxWatches {
		reply.Error = fmt.Sprintf("%d sources are watched, the limit is %d", len(l.watches), l.doppler.MaxWatches)
		return
	}
	for _, w := range l.watches {
		if w.source == a.GetSourceId() || w.id == a.GetWatch() {
			reply.Error = "watched already"
			return
		}
	}
	w := &watch{id: a.GetWatch(), source: a.GetSourceId(), counts: l.doppler.Counts(a.GetSourceId(), l.next)}
	l.watches[w.id] = w
	reply.ClassCounts = append([]uint64(nil), w.counts[:]...)
	if l.resumes && len(a.GetClassCounts()) > 0 {
		var had [envelope.NumClasses]uint64
		copy(had[:], a.GetClassCounts())
		l.missed(w, had, l.start, l.next)
	}
}

// missed tells what lies between had and the watch's counts.
func (l *Link) missed(w *watch, had [envelope.NumClasses]uint64, from, to uint64) {
	gap := &streampb.Gap{
		SourceId: w.source, From: from, To: to, Reason: streampb.Gap_EVICTED, Doppler: l.doppler.Name, Epoch: l.doppler.Epoch,
	}
	for c := range had {
		gap.ClassCounts = append(gap.ClassCounts, w.counts[c]-had[c])
		gap.Count += w.counts[c] - had[c]
	}
	if gap.Count > 0 {
		l.gaps = append(l.gaps, gap)
	}
}

// settle tells what was evicted before it was sent.
func (l *Link) settle() {
	d := l.doppler
	if l.next >= d.Oldest {
		return
	}
	for _, w := range l.sorted() {
		had := w.counts
		w.counts = d.Counts(w.source, d.Oldest)
		l.missed(w, had, l.next, d.Oldest)
	}
	l.next = d.Oldest
}

func (l *Link) sorted() []*watch {
	list := make([]*watch, 0, len(l.watches))
	for _, w := range l.watches {
		list = append(list, w)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].id < list[j].id })
	return list
}

// Next returns the next message of at most limit envelopes, or nil.
func (l *Link) Next(limit int) ([]byte, error) {
	if !l.started {
		return nil, nil
	}
	l.flushSkipped()
	l.settle()
	d := l.doppler
	b := &streampb.Batch{Watching: l.replies, Gaps: l.gaps}
	l.replies, l.gaps = nil, nil
	var found []Envelope
	var watches []uint32
	var classes []byte
	for !l.held && l.next < d.Head() && len(found) < limit {
		e := d.Log[l.next]
		l.next++
		w := l.watching(e.Source)
		if w == nil {
			continue
		}
		if e.Source == l.Skip {
			l.skipped(e)
		} else {
			found = append(found, e)
			watches = append(watches, w.id)
			classes = append(classes, byte(e.Class))
		}
		w.counts[e.Class]++
	}
	if len(found) == 0 {
		l.flushSkipped()
		b.Gaps = append(b.Gaps, l.gaps...)
		l.gaps = nil
	}
	if len(found) == 0 && len(b.Watching) == 0 && len(b.Gaps) == 0 {
		return nil, nil
	}
	b.Position = &streampb.Position{Next: l.next, Watches: watches, Classes: classes}
	return d.encode(b, found)
}

func (l *Link) watching(source string) *watch {
	for _, w := range l.watches {
		if w.source == source {
			return w
		}
	}
	return nil
}

func (l *Link) skipped(e Envelope) {
	if l.skip != nil && l.skip.SourceId != e.Source {
		l.flushSkipped()
	}
	if l.skip == nil {
		l.skip = &streampb.Gap{
			SourceId: e.Source, From: e.Offset, Reason: streampb.Gap_OVER_SHARE, ClassCounts: make([]uint64, envelope.NumClasses),
			Doppler: l.doppler.Name, Epoch: l.doppler.Epoch,
		}
	}
	l.skip.To = e.Offset + 1
	l.skip.Count++
	l.skip.ClassCounts[e.Class]++
}

func (l *Link) flushSkipped() {
	if l.skip != nil && l.watching(l.skip.SourceId) != nil {
		l.gaps = append(l.gaps, l.skip)
	}
	l.skip = nil
}

// Drained tells whether everything was said.
func (l *Link) Drained() bool {
	return l.started && !l.held && len(l.replies) == 0 && len(l.gaps) == 0 && l.skip == nil && l.next >= l.doppler.Head()
}

// FinMessage is the last message of the epoch.
func (d *Doppler) FinMessage() ([]byte, error) {
	return stream.AppendBatchMeta(nil, &streampb.Batch{Fins: []*streampb.Fin{d.Fin()}})
}
