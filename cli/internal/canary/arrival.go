package canary

import "time"

// Place is one life of a Doppler's process. Both are empty when it is not
// known.
type Place struct {
	Doppler string
	Epoch   uint64
}

// Arrival is an envelope that was received.
type Arrival struct {
	Lane   int
	Number uint64
	Place
	Offset uint64
	// Redelivered says that it was handed out before, perhaps.
	Redelivered bool
}

// maxPlaces bounds how many places are remembered.
const maxPlaces = 256

// maxNames bounds how many Dopplers a lane is known to lead to.
const maxNames = 64

// places are what is known of each place that envelopes came from.
type places struct {
	known map[Place]*seen
	next  uint32
	clock uint64
}

// seen is what came from one place.
type seen struct {
	id      uint32
	used    uint64
	offset  uint64   // of the last one in order, plus one
	highest []uint64 // by lane: its number, plus one
}

// Receive takes note of an envelope and returns how long it was under way. first
// says that its number was not received before, or nobody knows any more.
func (l *Ledger) Receive(a Arrival, now time.Duration) (took time.Duration, first bool) {
	if a.Lane < 0 || a.Lane >= len(l.lanes) || a.Number == 0 || a.Number >= l.lanes[a.Lane].next {
		l.counts.Strange++
		return 0, false
	}
	n := &l.lanes[a.Lane]
	if a.Number < n.low {
		l.counts.Forgotten++
		return 0, false
	}
	e, from := n.at(a.Number), l.places.get(a.Place, len(l.lanes))
	if e.state == received {
		l.again(e, from, a)
		return 0, false
	}
	switch e.state {
	case outstanding:
		l.counts.Outstanding--
	case given:
		l.counts.Given--
	case lost:
		l.takeBack(a.Lane, a.Number)
	}
	l.counts.Received++
	e.state, e.place, e.offset = received, from.id, a.Offset
	if len(n.dopplers) < maxNames {
		n.dopplers[a.Doppler] = true
	}
	if !a.Redelivered {
		l.order(e, from, a)
	}
	return now - e.sent, true
}

// again says that a number was received before.
func (l *Ledger) again(e *entry, from *seen, a Arrival) {
	same := e.place == from.id && e.offset == a.Offset
	switch {
	case same && a.Redelivered:
		l.counts.Redelivered++
	case !same && e.resent:
		l.counts.Resent++
	default:
		l.counts.Duplicates++
	}
}

// order looks whether an envelope stands behind those of the same place. One
// that was sent twice may have a lower number.
func (l *Ledger) order(e *entry, from *seen, a Arrival) {
	if a.Offset < from.offset || a.Number < from.highest[a.Lane] && !e.resent {
		l.counts.OutOfOrder++
	}
	from.offset = max(from.offset, a.Offset+1)
	from.highest[a.Lane] = max(from.highest[a.Lane], a.Number+1)
}

// find returns what came from a place, or nil.
func (p *places) find(at Place) *seen { return p.known[at] }

// get returns what came from a place; it forgets the one not heard of for the
// longest time, if there are too many.
func (p *places) get(at Place, lanes int) *seen {
	p.clock++
	s := p.known[at]
	if s == nil {
		if len(p.known) >= maxPlaces {
			p.forget()
		}
		if p.known == nil {
			p.known = make(map[Place]*seen)
		}
		p.next++
		s = &seen{id: p.next, highest: make([]uint64, lanes)}
		p.known[at] = s
	}
	s.used = p.clock
	return s
}

func (p *places) forget() {
	var oldest Place
	least := p.clock
	for at, s := range p.known {
		if s.used < least {
			oldest, least = at, s.used
		}
	}
	delete(p.known, oldest)
}
