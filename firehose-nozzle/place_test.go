package nozzle

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// world is a Doppler with one subscription, reduced to what a place sees of
// it.
type world struct {
	rng     *rand.Rand
	match   []bool // by offset
	acked   []bool // what the server knows
	owner   []int  // member that has it: -1 nobody yet
	batches []*simBatch
	link    int
}

type simBatch struct {
	pos         *streampb.Position
	offsets     []uint64
	redelivered bool
	mark        *mark
	covered     covered
	acked       bool
}

// low is the server's mark and the matches before it.
func (w *world) low() (low, matched uint64) {
	for off, m := range w.match {
		if m && !w.acked[off] {
			return uint64(off), matched
		}
		if m {
			matched++
		}
	}
	return uint64(len(w.match)), matched
}

func (w *world) matchedBefore(off uint64) (n uint64) {
	for _, m := range w.match[:off] {
		if m {
			n++
		}
	}
	return n
}

// grant hands out up to size matching envelopes from offset from on that pick
// wants, to this reader or to another member.
func (w *world) grant(size int, again bool, member int) *simBatch {
	b := &simBatch{redelivered: again}
	for off, m := range w.match {
		wanted := w.owner[off] == -1
		if again {
			wanted = w.owner[off] == 0 && !w.acked[off]
		}
		if !m || !wanted {
			if again && m && len(b.offsets) > 0 && w.owner[off] != 0 {
				break // a lease holds only what was handed out together
			}
			continue
		}
		w.owner[off] = member
		if b.offsets = append(b.offsets, uint64(off)); len(b.offsets) == size {
			break
		}
	}
	if len(b.offsets) == 0 {
		return nil
	}
	low, lowMatched := w.low()
	b.pos = &streampb.Position{
		Doppler: "d", Epoch: 1, First: b.offsets[0], Count: uint32(len(b.offsets)),
		Matched: w.matchedBefore(b.offsets[0]), Low: low, LowMatched: lowMatched,
	}
	contiguous := true
	for i, off := range b.offsets[1:] {
		b.pos.Deltas = append(b.pos.Deltas, uint32(off-b.offsets[i]))
		contiguous = contiguous && off == b.offsets[i]+1
	}
	if contiguous {
		b.pos.Deltas = nil
	}
	return b
}

// ack acks a run of a batch; lost acks do not reach the server.
func (w *world) ack(p *place, b *simBatch, from, to int, lost bool) {
	for _, off := range b.offsets[from:to] {
		w.acked[off] = w.acked[off] || !lost
	}
	s := whole(b.pos, b.redelivered)
	s.first, s.last = b.offsets[from], b.offsets[to-1]
	s.from, s.to = b.pos.GetMatched()+uint64(from), b.pos.GetMatched()+uint64(to)
	b.mark.ack(s)
	if b.covered.add(from, to, len(b.offsets)) && !b.acked {
		b.acked = true
		p.done(b.mark, b.pos)
	}
}

// TestPlaceNeverSkips drives a place through random histories: filters, other
// members, acks in any order and in parts, lost acks, redeliveries and
// reconnects. Its cursor must never be beyond an envelope that neither the
// server nor the reader knows to be acked, and must count exactly.
func TestPlaceNeverSkips(t *testing.T) {
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 1))
		w := &world{rng: rng, link: 1}
		alone, dense := seed%2 == 0, seed%4 < 2
		for range 300 {
			w.match = append(w.match, dense || rng.IntN(3) > 0)
			w.acked, w.owner = append(w.acked, false), append(w.owner, -1)
		}
		p := newPlace(nil, false)
		mine := make([]bool, len(w.match)) // acked by this reader
		for range 600 {
			w.step(t, p, alone, mine)
			check := p.cursor().GetEntries()
			if len(check) == 0 {
				continue
			}
			e := check[0]
			for off := range e.GetOffset() {
				if w.match[off] && !w.acked[off] && !mine[off] {
					t.Fatalf("seed %d: cursor at %d skips %d", seed, e.GetOffset(), off)
				}
			}
			if got := w.matchedBefore(e.GetOffset()); got != e.GetMatched() {
				t.Fatalf("seed %d: cursor at %d counts %d, there are %d", seed, e.GetOffset(), e.GetMatched(), got)
			}
		}
		w.finish(t, p, alone, seed)
	}
}

// step lets one random thing happen.
func (w *world) step(t *testing.T, p *place, alone bool, mine []bool) {
	switch n := w.rng.IntN(20); {
	case n < 8:
		member, again := 0, w.rng.IntN(6) == 0
		if !alone && w.rng.IntN(2) == 0 {
			member = 1
		}
		b := w.grant(1+w.rng.IntN(12), again && member == 0, member)
		if b == nil {
			return
		}
		if member == 1 { // the other member acks at once, or much later
			for _, off := range b.offsets {
				w.acked[off] = w.acked[off] || w.rng.IntN(2) == 0
			}
			return
		}
		b.mark = p.at(b.pos, w.link, true)
		w.batches = append(w.batches, b)
	case n < 18 && len(w.batches) > 0:
		i := w.rng.IntN(len(w.batches))
		if w.rng.IntN(2) == 0 {
			i = 0
		}
		b := w.batches[i]
		from, to := 0, len(b.offsets)
		if w.rng.IntN(3) == 0 {
			from = w.rng.IntN(to)
			to = from + 1 + w.rng.IntN(to-from)
		}
		w.ack(p, b, from, to, w.rng.IntN(10) == 0)
		for _, off := range b.offsets[from:to] {
			mine[off] = true
		}
		if b.acked {
			w.batches = slices.Delete(w.batches, i, i+1)
		}
	case n == 18:
		w.link++
		p.unconfirmed(func(_ *mark, s span) {
			for off := s.first; off <= s.last; off++ {
				if w.match[off] && !mine[off] && !w.acked[off] {
					t.Fatalf("an ack for %d, which was never acked", off)
				}
				w.acked[off] = w.acked[off] || w.match[off]
			}
		})
	default:
		low, matched := w.low()
		p.at(&streampb.Position{Doppler: "d", Epoch: 1, First: low, Next: low, Matched: matched, Low: low, LowMatched: matched}, w.link, false)
	}
}

// finish acks everything in order; a reader that is alone then knows that it
// is at the end, without being told.
func (w *world) finish(t *testing.T, p *place, alone bool, seed uint64) {
	for _, b := range w.batches {
		w.ack(p, b, 0, len(b.offsets), false)
	}
	w.link++
	low, matched := w.low()
	p.at(&streampb.Position{Doppler: "d", Epoch: 1, First: low, Matched: matched, Low: low, LowMatched: matched}, w.link, false)
	for {
		b := w.grant(10, false, 0)
		if b == nil {
			break
		}
		b.mark = p.at(b.pos, w.link, true)
		w.ack(p, b, 0, len(b.offsets), false)
	}
	low, _ = w.low()
	e := p.cursor().GetEntries()[0]
	last := uint64(len(w.match))
	for last > 0 && !w.match[last-1] {
		last--
	}
	if alone && low == uint64(len(w.match)) && e.GetOffset() < last {
		t.Fatalf("seed %d: all is acked, the cursor is at %d of %d", seed, e.GetOffset(), last)
	}
	if m := p.dopplers["d"][0]; m.open != 0 {
		t.Fatalf("seed %d: %d batches open", seed, m.open)
	}
}

func position(epoch, first uint64, count uint32, low uint64) *streampb.Position {
	return &streampb.Position{
		Doppler: "d", Epoch: epoch, First: first, Count: count, Matched: first, Low: low, LowMatched: low, Next: first + uint64(count),
	}
}

// While something of an epoch waits for its ack, the cursor stays in it.
func TestPlaceKeepsToAnEpochUntilItIsAcked(t *testing.T) {
	p := newPlace(nil, false)
	old := position(1, 0, 5, 0)
	m := p.at(old, 1, true)
	fresh := position(2, 0, 3, 0)
	n := p.at(fresh, 1, true)
	if e := p.cursor().GetEntries(); len(e) != 1 || e[0].GetEpoch() != 1 || e[0].GetOffset() != 0 {
		t.Fatalf("got %v", e)
	}
	m.ack(whole(old, false))
	p.done(m, old)
	if e := p.cursor().GetEntries(); len(e) != 1 || e[0].GetEpoch() != 2 || e[0].GetSeen() != 3 {
		t.Fatalf("got %v", e)
	}
	p.finish("d", 2)
	if e := p.cursor().GetEntries()[0]; e.GetFinished() {
		t.Fatalf("finished before its last ack: %v", e)
	}
	n.ack(whole(fresh, false))
	p.done(n, fresh)
	if e := p.cursor().GetEntries()[0]; !e.GetFinished() || e.GetOffset() != 3 {
		t.Fatalf("got %v", e)
	}
	p.finish("nobody", 1)
}

func TestPlaceOfATail(t *testing.T) {
	p := newPlace(&streampb.Cursor{Entries: []*streampb.CursorEntry{{Doppler: "e", Epoch: 9, Offset: 7}}}, true)
	first := &streampb.Position{Doppler: "d", Epoch: 1, First: 10, Count: 2, Deltas: []uint32{5}, Matched: 3, Next: 20}
	p.at(first, 1, false)
	m := p.at(first, 1, true)
	if e := p.cursor().GetEntries()[0]; e.GetOffset() != 20 || e.GetMatched() != 5 || e.GetSeen() != 0 {
		t.Fatalf("got %v", e)
	}
	second := &streampb.Position{Doppler: "d", Epoch: 1, First: 30, Count: 1, Matched: 5, Next: 31}
	p.at(second, 1, true)
	if e := p.cursor().GetEntries(); e[0].GetOffset() != 20 || e[1].GetOffset() != 7 {
		t.Fatalf("got %v", e)
	}
	p.done(m, second)
	if e := p.cursor().GetEntries()[0]; e.GetOffset() != 31 || e.GetMatched() != 6 {
		t.Fatalf("got %v", e)
	}
}

func TestPlaceForgetsTheLongFinished(t *testing.T) {
	p := newPlace(nil, true)
	for i := range 3 * maxFinished {
		name := string(rune('A'+i/26)) + string(rune('a'+i%26))
		p.at(&streampb.Position{Doppler: name, Epoch: 1, First: 5}, 1, false)
		if i != 0 {
			p.finish(name, 1)
		}
	}
	if n := len(p.cursor().GetEntries()); n != maxFinished+1 {
		t.Fatalf("%d entries", n)
	}
}

// What the server says on one connection may be older than what was acked.
func TestPlaceDoesNotGoBack(t *testing.T) {
	p := newPlace(nil, false)
	first, second := position(1, 0, 5, 0), position(1, 5, 5, 0)
	m := p.at(first, 1, true)
	m.ack(whole(first, false))
	p.done(m, first)
	p.at(second, 1, true)
	if e := p.cursor().GetEntries()[0]; e.GetOffset() != 5 || e.GetMatched() != 5 {
		t.Fatalf("got %v", e)
	}
	// What it has heard of only in part is said again.
	m.ack(whole(second, false))
	p.done(m, second)
	p.at(position(1, 10, 0, 7), 1, false)
	var again []span
	p.unconfirmed(func(_ *mark, s span) { again = append(again, s) })
	if len(again) != 1 || again[0].last != 9 {
		t.Fatalf("got %v", again)
	}
	p.at(position(1, 10, 0, 10), 1, false)
	p.unconfirmed(func(_ *mark, s span) { t.Fatalf("%v is kept for nothing", s) })
}

func TestSpansAreBounded(t *testing.T) {
	m := &mark{}
	for i := range uint64(maxSpans + 10) {
		m.ack(span{first: 10 + 2*i, last: 10 + 2*i})
	}
	if len(m.acked) != maxSpans {
		t.Fatalf("%d spans", len(m.acked))
	}
}

func TestCovered(t *testing.T) {
	var c covered
	for _, step := range []struct {
		from, to int
		all      bool
	}{{3, 5, false}, {0, 2, false}, {8, 10, false}, {5, 8, false}, {1, 4, true}} {
		if got := c.add(step.from, step.to, 10); got != step.all {
			t.Fatalf("after %v: %v", step, c)
		}
	}
}

// A loss that was told is not told again by who reads the cursor; the place is
// kept.
func TestPlaceOfALostEpoch(t *testing.T) {
	lost := func(epoch uint64) []*streampb.Gap {
		return []*streampb.Gap{{Reason: streampb.Gap_DOPPLER_LOST, Precision: streampb.Gap_UNKNOWN, Doppler: "d", Epoch: epoch}}
	}
	for name, tc := range map[string]struct {
		gaps []*streampb.Gap
		at   *streampb.Position
		back bool // the Doppler is there again
		want bool
	}{
		"told by a Traffic Controller":    {gaps: lost(1), want: true},
		"told with a position of another": {gaps: lost(1), at: &streampb.Position{Doppler: "e", Epoch: 1}, want: true},
		"told by the Doppler as it is":    {gaps: lost(1), at: position(1, 5, 0, 5)},
		"of another epoch":                {gaps: lost(2)},
		"another reason":                  {gaps: []*streampb.Gap{{Reason: streampb.Gap_EVICTED, Doppler: "d", Epoch: 1}}},
		"but it came back":                {gaps: lost(1), back: true},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(nil, true)
			first := position(1, 0, 5, 0)
			p.done(p.at(first, 1, true), first)
			p.lose(tc.gaps, tc.at)
			if tc.back {
				p.at(position(1, 5, 0, 5), 2, false)
			}
			if e := p.cursor().GetEntries()[0]; e.GetFinished() != tc.want || e.GetOffset() != 5 {
				t.Errorf("got %v", e)
			}
		})
	}
}
