package canary

import (
	"math"
	"slices"
)

// maxTold bounds how many gaps are remembered. The oldest matter least.
const maxTold = 1024

// Gap is what the path says it has not delivered.
type Gap struct {
	Place
	// Count is how many envelopes are missing; with Open more, or nobody knows.
	Count uint64
	Open  bool
}

// told is a gap that may explain losses.
type told struct {
	place Place
	left  uint64   // how many more it may explain
	end   []uint64 // by lane: it stands for none from here on, sent after it was told
	// Only if it is open: it stands for no number that was lost before and is
	// below from, for a later one of the same life of its Doppler was received.
	from []uint64
}

// Gap takes note of a gap. It explains what was lost without a word already,
// and what will be found lost of that which is outstanding.
func (l *Ledger) Gap(g Gap) {
	t := &told{place: g.Place, left: g.Count, end: make([]uint64, len(l.lanes)), from: make([]uint64, len(l.lanes))}
	if g.Open {
		t.left = math.MaxUint64
	}
	from := l.places.find(g.Place)
	for i := range l.lanes {
		t.end[i] = l.lanes[i].next
		if g.Open && from != nil {
			t.from[i] = from.highest[i]
		}
	}
	l.offer(t)
	l.gaps = append(l.gaps, t)
	if len(l.gaps) > maxTold {
		l.gaps = slices.Delete(l.gaps, 0, 1)
	}
}

// offer lets a gap explain what is unexplained, the oldest first.
func (l *Ledger) offer(t *told) {
	for i := range l.lanes {
		for _, number := range slices.Clone(l.lanes[i].unexplained) {
			if t.left == 0 {
				return
			}
			if number >= t.from[i] {
				l.explain(i, number, t)
			}
		}
	}
}

// explain makes a gap stand for a lost number, if it may.
func (l *Ledger) explain(i int, number uint64, t *told) bool {
	if t.left == 0 || number >= t.end[i] || !l.leads(i, t.place.Doppler) {
		return false
	}
	n := &l.lanes[i]
	at, found := slices.BinarySearch(n.unexplained, number)
	if !found {
		return false
	}
	n.unexplained = slices.Delete(n.unexplained, at, at+1)
	n.at(number).gap = t
	l.counts.Unexplained--
	if t.left != math.MaxUint64 {
		t.left--
	}
	return true
}

// takeBack says that a lost number was received after all. The gap that stood
// for it may stand for another one.
func (l *Ledger) takeBack(i int, number uint64) {
	n := &l.lanes[i]
	l.counts.Lost--
	l.counts.Late++
	t := n.at(number).gap
	if t == nil {
		l.counts.Unexplained--
		if at, found := slices.BinarySearch(n.unexplained, number); found {
			n.unexplained = slices.Delete(n.unexplained, at, at+1)
		}
		return
	}
	n.at(number).gap = nil
	if t.left != math.MaxUint64 {
		t.left++
		l.offer(t)
	}
}

// leads says whether what is sent on a lane may go to a Doppler: a lane to an
// agent leads to several, and one whose Doppler has another name by now to
// both.
func (l *Ledger) leads(i int, doppler string) bool {
	own := l.lanes[i].dopplers
	if doppler == "" || len(own) == 0 || own[doppler] {
		return true
	}
	for j := range l.lanes {
		if l.lanes[j].dopplers[doppler] {
			return false
		}
	}
	return true // nobody has seen it yet
}

// dropSettled forgets gaps that can explain nothing more.
func (l *Ledger) dropSettled() {
	l.gaps = slices.DeleteFunc(l.gaps, func(t *told) bool {
		for i := range l.lanes {
			if l.lanes[i].settled < t.end[i] {
				return false
			}
		}
		return true
	})
}
