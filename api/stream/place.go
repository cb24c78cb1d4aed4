package stream

import (
	"cmp"
	"maps"
	"slices"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Place knows how far a reader has got in the log of every Doppler, and what it
// has to ack there. It is a synchronous state machine, without goroutine, clock
// or socket, for one goroutine at a time. A reader keeps one for its cursor, and
// so does a Traffic Controller for each of its Firehose clients.
type Place struct {
	tail     bool
	dopplers map[string][]*mark
	owed     []Acks
}

// mark is the place in one epoch of one Doppler.
type mark struct {
	doppler string
	epoch   uint64
	link    int // connection it was last heard of on

	low     uint64 // everything before is settled: acked, or told as a gap
	matched uint64 // envelopes of the stream before low
	told    uint64 // low as the server knows it
	seen    uint64 // offsets before it may have been received
	open    int    // batches received and not acked
	fin     bool   // nothing comes after what was received
	lost    bool   // the reader was told that nobody knows what comes after it
	acked   []span // acked, at or above told, sorted
}

// span is a run of acked offsets, both ends included. Between them lies
// nothing of the stream that is not acked.
type span struct {
	first, last uint64
	// The same run as numbers of envelopes of the stream, [from, to). Only if
	// counted: a batch that was handed out before may have holes.
	from, to uint64
	counted  bool
}

// maxSpans bounds what is kept of a mark, should the server never say how far
// it has got. The oldest spans matter least.
const maxSpans = 1 << 16

// maxFinished is how many Dopplers that have said goodbye stay in a cursor.
const maxFinished = 64

// NewPlace begins where a cursor says, which may be nil. A tail has nothing to
// ack to a server: what its owner is done with is where it goes on.
func NewPlace(from *streampb.Cursor, tail bool) *Place {
	p := &Place{tail: tail, dopplers: map[string][]*mark{}}
	for _, e := range from.GetEntries() {
		m := &mark{
			doppler: e.GetDoppler(), epoch: e.GetEpoch(), low: e.GetOffset(),
			matched: e.GetMatched(), seen: e.GetSeen(), fin: e.GetFinished(),
		}
		p.dopplers[m.doppler] = append(p.dopplers[m.doppler], m)
	}
	return p
}

// Told takes note of a position that came over connection number link with
// nothing to ack.
func (p *Place) Told(pos *streampb.Position, link int) { p.at(pos, link, false) }

// at takes note of a position and returns its mark. open says that it is the
// position of a batch that somebody has to ack.
func (p *Place) at(pos *streampb.Position, link int, open bool) *mark {
	m := p.find(pos.GetDoppler(), pos.GetEpoch())
	if m == nil {
		m = &mark{doppler: pos.GetDoppler(), epoch: pos.GetEpoch()}
		p.dopplers[m.doppler] = append(p.dopplers[m.doppler], m)
		p.prune(m.doppler)
	}
	m.lost = false // its Doppler is there after all
	if open {
		m.open++
	}
	if p.tail {
		if m.open == 0 {
			m.served(pos)
		}
		return m
	}
	if m.link != link {
		// A group that was made anew may count anew, so nothing of before
		// can be compared with what comes now.
		for i := range m.acked {
			m.acked[i].counted = false
		}
		m.link, m.low, m.matched = link, pos.GetLow(), pos.GetLowMatched()
		m.told = m.low
	} else if pos.GetLow() >= m.low {
		m.low, m.matched = pos.GetLow(), pos.GetLowMatched()
	}
	m.told = max(m.told, pos.GetLow())
	next, _ := after(pos)
	m.seen = max(m.seen, next, m.low)
	m.settle()
	return m
}

// done says that a batch is acked as a whole.
func (p *Place) done(m *mark, pos *streampb.Position) {
	m.open--
	if p.tail {
		m.served(pos)
	}
	p.prune(m.doppler)
}

// find returns the mark of an epoch, or nil.
func (p *Place) find(doppler string, epoch uint64) *mark {
	for _, m := range p.dopplers[doppler] {
		if m.epoch == epoch {
			return m
		}
	}
	return nil
}

// Finish says that an epoch has ended with a fin.
func (p *Place) Finish(doppler string, epoch uint64) {
	if m := p.find(doppler, epoch); m != nil {
		m.fin = true
	}
}

// lose says that gaps were told, in a batch with the given position, which may
// be nil. What a cursor says of an epoch that is lost is kept, should its Doppler
// come back, but the loss is not to be told again. A Doppler that tells it
// itself does so as the one it is now, in whose epoch nothing is lost.
func (p *Place) lose(gaps []*streampb.Gap, at *streampb.Position) {
	for _, g := range gaps {
		own := g.GetDoppler() == at.GetDoppler() && g.GetEpoch() == at.GetEpoch()
		if g.GetReason() != streampb.Gap_DOPPLER_LOST || own {
			continue
		}
		if m := p.find(g.GetDoppler(), g.GetEpoch()); m != nil {
			m.lost = true
		}
	}
}

// LoseDoppler says that the reader is told that a Doppler is lost with its
// epoch, which is returned; 0 if nothing is known of it.
func (p *Place) LoseDoppler(doppler string) (epoch uint64) {
	marks := p.dopplers[doppler]
	if len(marks) == 0 {
		return 0
	}
	m := marks[len(marks)-1]
	m.lost = true
	return m.epoch
}

// Expects tells whether more is to come of the epoch that was heard of last of
// a Doppler: it has neither ended, nor was its loss told.
func (p *Place) Expects(doppler string) bool {
	marks := p.dopplers[doppler]
	return len(marks) > 0 && !marks[len(marks)-1].ended()
}

// ended tells whether nothing comes after what was received, or the reader
// knows that nobody will tell.
func (m *mark) ended() bool { return m.fin || m.lost }

// prune forgets epochs that are over: a later one is known, and nothing of
// them waits for an ack.
func (p *Place) prune(doppler string) {
	marks := p.dopplers[doppler]
	kept := marks[:0]
	for i, m := range marks {
		if m.open > 0 || i == len(marks)-1 {
			kept = append(kept, m)
		}
	}
	clear(marks[len(kept):])
	p.dopplers[doppler] = kept
}

// Cursor returns the place to continue from. It has one entry per Doppler:
// while something of an epoch waits for its ack, a later epoch is not
// mentioned, so that its loss would be told. What no Doppler would say is left
// out, for a server would refuse the cursor because of it.
func (p *Place) Cursor() *streampb.Cursor {
	c := &streampb.Cursor{Version: 1}
	finished := 0
	for _, name := range slices.SortedFunc(maps.Keys(p.dopplers), cmp.Compare[string]) {
		if name == "" || len(name) > MaxName || len(c.GetEntries()) == MaxCursorEntries {
			continue
		}
		m := p.dopplers[name][0]
		over := m.ended() && m.open == 0
		if over {
			if finished++; finished > maxFinished {
				continue
			}
		}
		e := &streampb.CursorEntry{
			Doppler: m.doppler, Epoch: m.epoch, Offset: m.low, Matched: min(m.matched, m.low), Finished: over,
		}
		if !p.tail {
			e.Seen = max(m.seen, m.low)
		}
		c.Entries = append(c.Entries, e)
	}
	return c
}

// served moves low behind what a tail has got.
func (m *mark) served(pos *streampb.Position) {
	if next, n := after(pos); next >= m.low {
		m.low, m.matched = next, n
	}
}

// ack adds acked offsets.
func (m *mark) ack(s span) {
	if s.last < m.told {
		return
	}
	i, _ := slices.BinarySearchFunc(m.acked, s.first, func(o span, first uint64) int { return cmp.Compare(o.first, first) })
	m.acked = slices.Insert(m.acked, i, s)
	i = max(i-1, 0)
	for n := 0; n < 2 || i+1 < len(m.acked) && m.acked[i+1].first <= s.last; n++ {
		if i+1 < len(m.acked) && m.acked[i].join(m.acked[i+1]) {
			m.acked = slices.Delete(m.acked, i+1, i+2)
		} else {
			i++
		}
	}
	if len(m.acked) > maxSpans {
		m.acked = slices.Delete(m.acked, 0, 1)
	}
	m.settle()
}

// join adds a span that does not begin before s, if the two are one run. What
// is counted stays apart from what is not.
func (s *span) join(o span) bool {
	switch {
	case o.last <= s.last:
		return true
	case s.counted != o.counted:
		return false
	case s.counted && (o.from < s.from || o.from > s.to):
		return false
	case !s.counted && o.first > s.last+1:
		return false
	}
	s.last, s.to = o.last, max(s.to, o.to)
	return true
}

// settle moves low over what is acked right behind it, and forgets what the
// server knows.
func (m *mark) settle() {
	n := 0
	for n < len(m.acked) && m.acked[n].last < m.told {
		n++
	}
	m.acked = slices.Delete(m.acked, 0, n)
	for _, s := range m.acked {
		switch {
		case s.last < m.low:
		case s.counted && s.from <= m.matched && m.matched < s.to:
			m.low, m.matched = s.last+1, s.to
		default:
			return
		}
	}
}

// after returns the offset behind what a position has served, and the number
// of envelopes of the stream before it.
func after(pos *streampb.Position) (next, matched uint64) {
	next, matched = pos.GetFirst(), pos.GetMatched()+uint64(pos.GetCount())
	if pos.GetCount() > 0 {
		next = lastOffset(pos) + 1
	}
	return max(next, pos.GetNext()), matched
}
