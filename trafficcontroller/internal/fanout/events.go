package fanout

import (
	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// What links tell the Hub. Its lock is held.

// joined is an event of a link.
func (h *Hub) joined(w *watch) {
	for _, g := range w.source.groups {
		at := place{w.join, w.counts.of(g.filter.Mask)}
		for _, t := range g.tails {
			t.join(w.link, at, w.late())
		}
	}
}

// envelopes is an event of a link.
func (h *Hub) envelopes(w *watch, items []item, next uint64) {
	for _, g := range w.source.groups {
		s := h.cut(w, g.filter, items)
		if len(s.records) == 0 {
			continue
		}
		s.doppler, s.epoch, s.end, s.placed = w.link.name, w.link.epoch, next, true
		h.send(w.link, s, g)
	}
}

// cut picks what a filter wants of a watch's items.
func (h *Hub) cut(w *watch, f Filter, items []item) *spec {
	s := &h.runs
	*s = spec{deltas: s.deltas[:0], records: s.records[:0], matched: w.counts.of(f.Mask)}
	last := uint64(0)
	even := true
	for i := w.head; i >= 0; i = items[i].next {
		it := &items[i]
		if !f.Mask.Has(it.class) {
			continue
		}
		s.matched++
		if f.Names != nil && !matchRecord(it.record, f.Names) {
			continue
		}
		if len(s.records) == 0 {
			s.first = it.offset
		} else {
			s.deltas = append(s.deltas, uint32(it.offset-last))
			even = even && it.offset == last+1
		}
		last = it.offset
		s.records = append(s.records, it.record)
	}
	if even {
		s.deltas = s.deltas[:0]
	}
	return s
}

func matchRecord(record []byte, names []string) bool {
	env, _, ok := envelope.Next(record)
	return ok && envelope.MatchName(env, names)
}

// send makes a frame for the tails of a group.
func (h *Hub) send(l *link, s *spec, g *group) {
	s.old, s.source = g.old, g.source.id
	f, err := h.maker.make(s, g)
	if err != nil {
		h.log.Error("frame for tails", "error", err)
		return
	}
	for _, t := range g.tails {
		t.offer(l, f)
	}
	f.release()
}

// missed is an event of a link.
func (h *Hub) missed(w *watch, gap *streampb.Gap) {
	for _, g := range w.source.groups {
		h.missedBy(w, gap, g)
	}
}

// missedBy tells the tails of a group a gap of their source.
func (h *Hub) missedBy(w *watch, gap *streampb.Gap, g *group) {
	l, lost := w.link, countsOf(gap.GetClassCounts())
	n := lost.of(g.filter.Mask)
	own := &streampb.Gap{
		From: gap.GetFrom(), To: gap.GetTo(), Count: n, Precision: gap.GetPrecision(), Reason: gap.GetReason(),
		Doppler: l.name, Epoch: l.epoch,
	}
	if n == 0 && gap.GetPrecision() == streampb.Gap_EXACT {
		return
	}
	if g.filter.Names != nil {
		own.Precision, own.Count = streampb.Gap_UNKNOWN, 0
	}
	end := max(gap.GetTo(), l.next)
	s := spec{
		doppler: l.name, epoch: l.epoch, first: end, end: end, matched: w.counts.of(g.filter.Mask) + n,
		placed: own.Precision == streampb.Gap_EXACT, old: g.old, source: g.source.id,
	}
	again, from := g.worthReading(gap, n), place{gap.GetFrom(), w.counts.of(g.filter.Mask)}
	after, vague := s, s
	s.gaps = []*streampb.Gap{own}
	vague.placed = false
	vague.gaps = []*streampb.Gap{{Precision: streampb.Gap_UNKNOWN, Reason: own.Reason, Doppler: l.name, Epoch: l.epoch}}
	var told, corrected, crossed *frame
	for _, t := range g.tails {
		// What lies before the place where a tail has joined is its history;
		// it only has to know how many there were.
		switch at := t.joinedAt(l); {
		case again && gap.GetFrom() >= at && t.reread(l, from, place{end, s.matched}):
		case gap.GetTo() == 0 || gap.GetFrom() >= at:
			told = h.offer(t, l, told, &s, g)
		case gap.GetTo() > at:
			crossed = h.offer(t, l, crossed, &vague, g)
			corrected = h.offer(t, l, corrected, &after, g)
		case after.placed:
			if on := t.leg(l.name); on != nil {
				on.correct(n)
			}
			corrected = h.offer(t, l, corrected, &after, g)
		}
	}
	for _, f := range []*frame{told, corrected, crossed} {
		if f != nil {
			f.release()
		}
	}
}

// offer offers f to a tail; it makes it first, if it is not made yet.
func (h *Hub) offer(t *Tail, l *link, f *frame, s *spec, of holders) *frame {
	if f == nil {
		var err error
		if f, err = h.maker.make(s, of); err != nil {
			h.log.Error("gap for tails", "error", err)
			return nil
		}
	}
	t.offer(l, f)
	return f
}

// lost is an event of a link.
func (h *Hub) lost(l *link, why streampb.Gap_Reason) {
	s := spec{doppler: l.name, epoch: l.epoch, gaps: []*streampb.Gap{{
		Precision: streampb.Gap_UNKNOWN, Reason: why, Doppler: l.name, Epoch: l.epoch,
	}}}
	h.tell(l, &s, func(w *watch, t *Tail) bool { return why != streampb.Gap_DOPPLER_LOST || t.loses(w) })
}

// tell offers a frame to the tails of a link that it concerns: the same to all,
// but where it is in the old framing it is of the source.
func (h *Hub) tell(l *link, s *spec, concerns func(*watch, *Tail) bool) {
	var every *frame
	for _, w := range l.watches {
		for _, g := range w.source.groups {
			if !g.old {
				every = h.tellGroup(l, every, s, g, everyTail{h}, func(t *Tail) bool { return concerns(w, t) })
				continue
			}
			own := *s
			own.old, own.source = true, g.source.id
			if f := h.tellGroup(l, nil, &own, g, g, func(t *Tail) bool { return concerns(w, t) }); f != nil {
				f.release()
			}
		}
	}
	if every != nil {
		every.release()
	}
}

// tellGroup offers f to the tails of a group that it concerns; it makes it
// first, if it is not made yet.
func (h *Hub) tellGroup(l *link, f *frame, s *spec, g *group, of holders, concerns func(*Tail) bool) *frame {
	for _, t := range g.tails {
		if concerns(t) {
			f = h.offer(t, l, f, s, of)
		}
	}
	return f
}

// ends is an event of a link.
func (h *Hub) ends(l *link) {
	for t := range h.joining {
		t.epochEnds(l)
	}
}

// fin is an event of a link.
func (h *Hub) fin(l *link, end uint64) {
	s := spec{doppler: l.name, epoch: l.epoch, fin: &streampb.Fin{Doppler: l.name, Epoch: l.epoch, End: end}}
	h.tell(l, &s, func(w *watch, t *Tail) bool { return w.joined && !t.options.Old })
}

// refused is an event of a link. Without one Doppler a tail is not whole.
func (h *Hub) refused(w *watch, why string) {
	for _, g := range w.source.groups {
		for _, t := range g.tails {
			t.finish(&ending{CloseError: stream.CloseError{Code: stream.CloseOverLimit, Reason: w.link.name + ": " + why}})
		}
	}
}
