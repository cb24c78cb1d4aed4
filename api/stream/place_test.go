package stream

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// world is a Doppler with one subscription, reduced to what a Place sees of
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
	Delivery
	offsets []uint64
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
	b := &simBatch{Delivery: Delivery{Redelivered: again}}
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
	b.Position = &streampb.Position{
		Doppler: "d", Epoch: 1, First: b.offsets[0], Count: uint32(len(b.offsets)),
		Matched: w.matchedBefore(b.offsets[0]), Low: low, LowMatched: lowMatched,
	}
	contiguous := true
	for i, off := range b.offsets[1:] {
		b.Position.Deltas = append(b.Position.Deltas, uint32(off-b.offsets[i]))
		contiguous = contiguous && off == b.offsets[i]+1
	}
	if contiguous {
		b.Position.Deltas = nil
	}
	return b
}

// ack acks a run of a batch; lost acks do not reach the server.
func (w *world) ack(t *testing.T, p *Place, b *simBatch, from, to int, mine []bool, lost bool) (settled bool) {
	for _, off := range b.offsets[from:to] {
		mine[off] = true
	}
	settled = p.Ack(&b.Delivery, from, to)
	w.hear(t, p, mine, lost)
	return settled
}

// hear is the server taking acks, of which none may be for what was not acked.
func (w *world) hear(t *testing.T, p *Place, mine []bool, lost bool) {
	for _, a := range p.TakeAcks() {
		for _, r := range a.Ranges {
			for off := r.First; off <= r.Last && !lost; off++ {
				if w.match[off] && !mine[off] && !w.acked[off] {
					t.Fatalf("an ack for %d, which was never acked", off)
				}
				w.acked[off] = w.acked[off] || w.match[off]
			}
		}
	}
	if p.Owes() {
		t.Fatal("acks are owed that were taken")
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
		p := NewPlace(nil, false)
		mine := make([]bool, len(w.match)) // acked by this reader
		for range 600 {
			w.step(t, p, alone, mine)
			check := p.Cursor().GetEntries()
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
		w.finish(t, p, alone, mine, seed)
	}
}

// step lets one random thing happen.
func (w *world) step(t *testing.T, p *Place, alone bool, mine []bool) {
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
		p.Receive(&b.Delivery, w.link)
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
		if w.ack(t, p, b, from, to, mine, w.rng.IntN(10) == 0) {
			w.batches = slices.Delete(w.batches, i, i+1)
		}
	case n == 18:
		w.link++
		p.Reconnected()
		w.hear(t, p, mine, false)
	default:
		low, matched := w.low()
		p.Told(&streampb.Position{Doppler: "d", Epoch: 1, First: low, Next: low, Matched: matched, Low: low, LowMatched: matched}, w.link)
	}
}

// finish acks everything in order; a reader that is alone then knows that it
// is at the end, without being told.
func (w *world) finish(t *testing.T, p *Place, alone bool, mine []bool, seed uint64) {
	for _, b := range w.batches {
		w.ack(t, p, b, 0, len(b.offsets), mine, false)
	}
	w.link++
	low, matched := w.low()
	p.Told(&streampb.Position{Doppler: "d", Epoch: 1, First: low, Matched: matched, Low: low, LowMatched: matched}, w.link)
	for {
		b := w.grant(10, false, 0)
		if b == nil {
			break
		}
		p.Receive(&b.Delivery, w.link)
		w.ack(t, p, b, 0, len(b.offsets), mine, false)
	}
	low, _ = w.low()
	e := p.Cursor().GetEntries()[0]
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
	p := NewPlace(nil, false)
	old := position(1, 0, 5, 0)
	m := p.at(old, 1, true)
	fresh := position(2, 0, 3, 0)
	n := p.at(fresh, 1, true)
	if e := p.Cursor().GetEntries(); len(e) != 1 || e[0].GetEpoch() != 1 || e[0].GetOffset() != 0 {
		t.Fatalf("got %v", e)
	}
	m.ack(whole(old, false))
	p.done(m, old)
	if e := p.Cursor().GetEntries(); len(e) != 1 || e[0].GetEpoch() != 2 || e[0].GetSeen() != 3 {
		t.Fatalf("got %v", e)
	}
	p.Finish("d", 2)
	if e := p.Cursor().GetEntries()[0]; e.GetFinished() {
		t.Fatalf("finished before its last ack: %v", e)
	}
	n.ack(whole(fresh, false))
	p.done(n, fresh)
	if e := p.Cursor().GetEntries()[0]; !e.GetFinished() || e.GetOffset() != 3 {
		t.Fatalf("got %v", e)
	}
	p.Finish("nobody", 1)
}

func TestPlaceOfATail(t *testing.T) {
	p := NewPlace(&streampb.Cursor{Entries: []*streampb.CursorEntry{{Doppler: "e", Epoch: 9, Offset: 7}}}, true)
	first := &streampb.Position{Doppler: "d", Epoch: 1, First: 10, Count: 2, Deltas: []uint32{5}, Matched: 3, Next: 20}
	p.at(first, 1, false)
	m := p.at(first, 1, true)
	if e := p.Cursor().GetEntries()[0]; e.GetOffset() != 20 || e.GetMatched() != 5 || e.GetSeen() != 0 {
		t.Fatalf("got %v", e)
	}
	second := &streampb.Position{Doppler: "d", Epoch: 1, First: 30, Count: 1, Matched: 5, Next: 31}
	p.at(second, 1, true)
	if e := p.Cursor().GetEntries(); e[0].GetOffset() != 20 || e[1].GetOffset() != 7 {
		t.Fatalf("got %v", e)
	}
	p.done(m, second)
	if e := p.Cursor().GetEntries()[0]; e.GetOffset() != 31 || e.GetMatched() != 6 {
		t.Fatalf("got %v", e)
	}
}

func TestPlaceForgetsTheLongFinished(t *testing.T) {
	p := NewPlace(nil, true)
	for i := range 3 * maxFinished {
		name := string(rune('A'+i/26)) + string(rune('a'+i%26))
		p.at(&streampb.Position{Doppler: name, Epoch: 1, First: 5}, 1, false)
		if i != 0 {
			p.Finish(name, 1)
		}
	}
	if n := len(p.Cursor().GetEntries()); n != maxFinished+1 {
		t.Fatalf("%d entries", n)
	}
}

// What the server says on one connection may be older than what was acked.
func TestPlaceDoesNotGoBack(t *testing.T) {
	p := NewPlace(nil, false)
	first, second := position(1, 0, 5, 0), position(1, 5, 5, 0)
	m := p.at(first, 1, true)
	m.ack(whole(first, false))
	p.done(m, first)
	p.at(second, 1, true)
	if e := p.Cursor().GetEntries()[0]; e.GetOffset() != 5 || e.GetMatched() != 5 {
		t.Fatalf("got %v", e)
	}
	// What it has heard of only in part is said again.
	m.ack(whole(second, false))
	p.done(m, second)
	p.at(position(1, 10, 0, 7), 1, false)
	p.Reconnected()
	if again := p.TakeAcks(); len(again) != 1 || len(again[0].Ranges) != 1 || again[0].Ranges[0].Last != 9 {
		t.Fatalf("got %v", again)
	}
	p.Told(position(1, 10, 0, 10), 1)
	if p.Reconnected(); p.Owes() {
		t.Fatalf("%v is kept for nothing", p.TakeAcks())
	}
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
			p := NewPlace(nil, true)
			first := position(1, 0, 5, 0)
			p.done(p.at(first, 1, true), first)
			p.lose(tc.gaps, tc.at)
			if tc.back {
				p.at(position(1, 5, 0, 5), 2, false)
			}
			if e := p.Cursor().GetEntries()[0]; e.GetFinished() != tc.want || e.GetOffset() != 5 {
				t.Errorf("got %v", e)
			}
		})
	}
}

func told(doppler string, epoch, low, lowMatched, next uint64) *streampb.Position {
	return &streampb.Position{Doppler: doppler, Epoch: epoch, Low: low, LowMatched: lowMatched, Next: next}
}

func entries(p *Place) map[string]*streampb.CursorEntry {
	out := map[string]*streampb.CursorEntry{}
	for _, e := range p.Cursor().GetEntries() {
		out[fmt.Sprintf("%s/%d", e.GetDoppler(), e.GetEpoch())] = e
	}
	return out
}

func TestPlaceKeepsWhatItCameWith(t *testing.T) {
	p := NewPlace(&streampb.Cursor{Entries: []*streampb.CursorEntry{
		{Doppler: "a", Epoch: 2, Offset: 7}, {Doppler: "b", Epoch: 1, Offset: 9},
	}}, false)
	if got := entries(p); len(got) != 2 || got["a/2"].GetOffset() != 7 {
		t.Errorf("at first: %v", got)
	}
	p.Told(told("a", 3, 1, 1, 4), 1)
	if got := entries(p); len(got) != 2 || got["a/3"].GetOffset() != 1 || got["a/3"].GetSeen() != 4 || got["b/1"].GetOffset() != 9 {
		t.Errorf("when a has spoken: %v", got)
	}
	if got := entries(NewPlace(nil, false)); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// A Traffic Controller acks nothing, and hears of a group on any connection. Its
// cursor is never before what the group has told as its low mark, never after it,
// and a fin counts for its epoch only.
func TestPlaceThatIsOnlyTold(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		type truth struct {
			epoch, low, matched, seen uint64
			finished                  bool
		}
		p, model := NewPlace(nil, false), map[string]*truth{}
		for range 300 {
			name := fmt.Sprint("d", rng.IntN(3))
			m := model[name]
			switch {
			case m == nil || rng.IntN(40) == 0:
				epoch := uint64(1)
				if m != nil {
					epoch = m.epoch + 1
				}
				m = &truth{epoch: epoch}
				model[name] = m
			case rng.IntN(20) == 0:
				p.Finish(name, m.epoch)
				m.finished = true
				if p.Expects(name) {
					t.Fatalf("seed %d: more is expected after a fin", seed)
				}
				continue
			case rng.IntN(20) == 0:
				p.Finish(name, m.epoch+100)
				continue
			}
			m.low += rng.Uint64N(5)
			m.matched = m.low / 2
			next := m.low + rng.Uint64N(20)
			m.seen = max(m.seen, next)
			p.Told(told(name, m.epoch, m.low, m.matched, next), 1)
			// What a batch under way says may be older.
			p.Told(told(name, m.epoch, m.low/2, m.matched/2, m.low/2), 1)
			got := entries(p)
			for name, m := range model {
				e := got[fmt.Sprintf("%s/%d", name, m.epoch)]
				if e.GetOffset() != m.low || e.GetMatched() != m.matched || e.GetSeen() != m.seen || e.GetFinished() != m.finished {
					t.Fatalf("seed %d: %s: %v, want %+v", seed, name, e, m)
				}
			}
		}
	}
}

// A Doppler that was told to be lost is asked again only for its place.
func TestPlaceOfALostDoppler(t *testing.T) {
	p := NewPlace(nil, false)
	p.Told(told("a", 3, 1, 1, 4), 1)
	if !p.Expects("a") || p.Expects("nobody") {
		t.Error("more is expected of those that are not lost, and known")
	}
	if epoch := p.LoseDoppler("a"); epoch != 3 || p.Expects("a") || !entries(p)["a/3"].GetFinished() || entries(p)["a/3"].GetOffset() != 1 {
		t.Errorf("epoch %d, %v", epoch, entries(p))
	}
	p.Told(told("a", 3, 2, 2, 5), 1)
	if got := entries(p)["a/3"]; got.GetFinished() || got.GetOffset() != 2 || !p.Expects("a") {
		t.Errorf("when it is back: %v", got)
	}
	if epoch := p.LoseDoppler("nobody"); epoch != 0 {
		t.Errorf("epoch %d of nobody", epoch)
	}
}
