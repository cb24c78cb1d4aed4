package canary

import (
	"cmp"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// reference is the ledger without bounds and without care for cost: everything
// is kept, and looked through again.
type reference struct {
	patience time.Duration
	numbers  []map[uint64]*refNumber // by lane
	clock    []time.Duration
	looked   []time.Duration
	gaps     []*refGap
	last     map[Place]*refPlace
	counts   Counts
}

type refNumber struct {
	state     state
	confirmed time.Duration // -1: not
	sent      time.Duration
	resent    bool
	place     Place
	offset    uint64
	gap       *refGap
}

type refGap struct {
	Gap
	used     uint64
	end, low []uint64
}

type refPlace struct {
	offset uint64
	number map[int]uint64
}

func newReference(lanes int, patience time.Duration) *reference {
	r := &reference{patience: patience, numbers: make([]map[uint64]*refNumber, lanes), clock: make([]time.Duration, lanes), looked: make([]time.Duration, lanes), last: map[Place]*refPlace{}}
	for i := range r.numbers {
		r.numbers[i] = map[uint64]*refNumber{}
	}
	return r
}

func (r *reference) sorted(lane int) []uint64 {
	return slices.SortedFunc(maps.Keys(r.numbers[lane]), cmp.Compare[uint64])
}

func (r *reference) send(lane int, now time.Duration) {
	r.numbers[lane][uint64(len(r.numbers[lane])+1)] = &refNumber{confirmed: -1, sent: now}
}

func (r *reference) confirm(lane int, end uint64, now time.Duration) {
	for number, n := range r.numbers[lane] {
		if number < end && n.confirmed < 0 {
			n.confirmed = r.clock[lane] + now - r.looked[lane]
		}
	}
}

func (r *reference) giveUp(lane int, now time.Duration) {
	for _, n := range r.numbers[lane] {
		if n.confirmed >= 0 {
			continue
		}
		n.confirmed, n.resent = r.clock[lane]+now-r.looked[lane], true
		if n.state == outstanding {
			n.state = given
		}
	}
}

func (r *reference) expire(now time.Duration, held func(int) bool) {
	for lane := range r.numbers {
		if !held(lane) {
			r.clock[lane] += now - r.looked[lane]
		}
		r.looked[lane] = now
		for _, number := range r.sorted(lane) {
			n := r.numbers[lane][number]
			n.confirmed = min(n.confirmed, r.clock[lane])
			if n.state == outstanding && n.confirmed >= 0 && r.clock[lane]-n.confirmed >= r.patience {
				n.state = lost
				for _, g := range r.gaps {
					if n.gap == nil && r.may(lane, number, g) {
						n.gap = g
						g.used++
					}
				}
			}
		}
	}
}

// may tells whether a gap can stand for a number that is lost.
func (r *reference) may(lane int, number uint64, g *refGap) bool {
	return (g.Open || g.used < g.Count) && number < g.end[lane] && r.leads(lane, g.Doppler)
}

func (r *reference) leads(lane int, doppler string) bool {
	some, own, others := false, false, false
	for i := range r.numbers {
		for _, n := range r.numbers[i] {
			if n.state != received {
				continue
			}
			some = some || i == lane
			own = own || i == lane && n.place.Doppler == doppler
			others = others || n.place.Doppler == doppler
		}
	}
	return doppler == "" || !some || own || !others
}

func (r *reference) gap(g Gap) {
	told := &refGap{Gap: g, end: make([]uint64, len(r.numbers)), low: make([]uint64, len(r.numbers))}
	for lane := range r.numbers {
		told.end[lane] = uint64(len(r.numbers[lane]) + 1)
		if p := r.last[g.Place]; p != nil && g.Open {
			told.low[lane] = p.number[lane]
		}
	}
	r.gaps = append(r.gaps, told)
	r.offer(told)
}

func (r *reference) offer(g *refGap) {
	for lane := range r.numbers {
		for _, number := range r.sorted(lane) {
			n := r.numbers[lane][number]
			if n.state == lost && n.gap == nil && number >= g.low[lane] && r.may(lane, number, g) {
				n.gap = g
				g.used++
			}
		}
	}
}

func (r *reference) receive(a Arrival) {
	n := r.numbers[a.Lane][a.Number]
	if n == nil {
		r.counts.Strange++
		return
	}
	p := r.last[a.Place]
	if p == nil {
		p = &refPlace{number: map[int]uint64{}}
		r.last[a.Place] = p
	}
	if n.state == received {
		same := n.place == a.Place && n.offset == a.Offset
		switch {
		case same && a.Redelivered:
			r.counts.Redelivered++
		case !same && n.resent:
			r.counts.Resent++
		default:
			r.counts.Duplicates++
		}
		return
	}
	if n.state == lost {
		r.counts.Late++
	}
	gap := n.gap
	n.state, n.gap, n.place, n.offset = received, nil, a.Place, a.Offset
	if gap != nil && !gap.Open {
		gap.used--
		// The ledger takes it back before it knows where the number came from.
		n.state = lost
		n.gap = gap
		r.offer(gap)
		n.state, n.gap = received, nil
	}
	if a.Redelivered {
		return
	}
	if a.Offset < p.offset || a.Number < p.number[a.Lane] && !n.resent {
		r.counts.OutOfOrder++
	}
	p.offset, p.number[a.Lane] = max(p.offset, a.Offset+1), max(p.number[a.Lane], a.Number+1)
}

func (r *reference) total() Counts {
	c := r.counts
	for _, lane := range r.numbers {
		for _, n := range lane {
			switch n.state {
			case outstanding:
				c.Outstanding++
			case given:
				c.Given++
			case received:
				c.Received++
			case lost:
				c.Lost++
				if n.gap == nil {
					c.Unexplained++
				}
			}
		}
	}
	return c
}

// TestRandomHistories compares the ledger with the reference, step by step.
func TestRandomHistories(t *testing.T) {
	steps := 400
	if testing.Short() {
		steps = 100
	}
	for seed := range uint64(300) {
		h := &history{rand: rand.New(rand.NewPCG(seed, 1)), t: t, seed: seed}
		h.lanes = 1 + h.rand.IntN(3)
		h.ledger, h.reference = NewLedger(h.lanes, 100_000, 10), newReference(h.lanes, 10)
		h.sent, h.confirmed = make([]uint64, h.lanes), make([]uint64, h.lanes)
		for step := range steps {
			h.step()
			if got, want := h.ledger.Counts(), h.reference.total(); got != want {
				t.Fatalf("seed %d, step %d (%s):\n got %+v\nwant %+v", seed, step, h.last, got, want)
			}
		}
	}
}

type history struct {
	t         *testing.T
	seed      uint64
	rand      *rand.Rand
	lanes     int
	ledger    *Ledger
	reference *reference
	now       time.Duration
	sent      []uint64
	confirmed []uint64
	last      string
}

func (h *history) step() {
	h.now += time.Duration(h.rand.IntN(3))
	lane := h.rand.IntN(h.lanes)
	number := 1 + h.rand.Uint64N(h.sent[lane]+1)
	switch h.rand.IntN(16) {
	case 0, 1, 2, 3:
		h.last = "send"
		h.sent[lane]++
		if got := h.ledger.Send(lane, h.now); got != h.sent[lane] {
			h.t.Fatalf("seed %d: sent %d, want %d", h.seed, got, h.sent[lane])
		}
		h.reference.send(lane, h.now)
	case 4, 5:
		h.last = "confirm"
		h.confirmed[lane] = max(h.confirmed[lane], number)
		h.ledger.Confirm(lane, number, h.now)
		h.reference.confirm(lane, number, h.now)
	case 6:
		h.breaks(lane)
	case 7, 8:
		h.last = "gap"
		g := Gap{Place: h.place(), Count: h.rand.Uint64N(4), Open: h.rand.IntN(4) == 0}
		h.ledger.Gap(g)
		h.reference.gap(g)
	case 9, 10:
		h.last = "expire"
		held := h.rand.IntN(2 * h.lanes)
		h.ledger.Expire(h.now, func(lane int) bool { return lane == held })
		h.reference.expire(h.now, func(lane int) bool { return lane == held })
	default:
		h.last = "receive"
		a := Arrival{Lane: lane, Number: number, Place: h.place(), Offset: number + h.rand.Uint64N(2) + 40*h.rand.Uint64N(2), Redelivered: h.rand.IntN(5) == 0}
		h.ledger.Receive(a, h.now)
		h.reference.receive(a)
	}
}

// breaks loses a connection, for a while or for ever.
func (h *history) breaks(lane int) {
	if h.rand.IntN(3) > 0 {
		h.last = "resend"
		h.ledger.Resend(lane, h.confirmed[lane], h.sent[lane]+1)
		for number, n := range h.reference.numbers[lane] {
			n.resent = n.resent || number >= h.confirmed[lane]
		}
		return
	}
	h.last = "give up"
	h.ledger.GiveUp(lane, h.now)
	h.reference.giveUp(lane, h.now)
}

func (h *history) place() Place {
	return [...]Place{{"a", 1}, {"a", 2}, {"b", 1}, {"", 0}}[h.rand.IntN(4)]
}
