package reader

import (
	"errors"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Grant is one batch for one member. Pieces are the ring's own bytes: they
// are valid until Release, which is to be called exactly once, soon.
type Grant struct {
	Lease       uint64
	Redelivered bool
	First       uint64
	Count       int
	Deltas      []uint32 // shared with the lease: read only
	Matched     uint64
	Low         uint64
	LowMatched  uint64
	Next        uint64
	Gaps        []*Gap // read only
	Pieces      [][]byte
	Bytes       int

	chunk ring.Chunk
	held  bool
}

// Release lets the ring have its memory back.
func (g *Grant) Release() {
	if g.held {
		g.chunk.Release()
		g.held = false
	}
}

// maxBehind bounds how much a member that could not take for a while is
// served before its peers.
const maxBehind = 4 * maxLease

// ahead returns the peer that comes before m: one that could take what there
// is as well and was served less. It returns nil when it is the turn of m.
func (g *Group) ahead(m *Member) *Member {
	if len(g.members) == 1 {
		return nil
	}
	lowest := g.first(m)
	if lowest == nil {
		return nil
	}
	if lowest.served > maxBehind && m.served < lowest.served-maxBehind {
		m.served = lowest.served - maxBehind
	}
	if m.served <= lowest.served {
		return nil
	}
	return lowest
}

// leaseEnvelopes is how many envelopes a lease may hold so that equal members
// get equal shares, to a few percent over 10,000 envelopes.
func (g *Group) leaseEnvelopes() int {
	n := g.cfg.LeaseEnvelopes
	if k := len(g.members); k > 1 {
		n = min(n, max(480/k, 8))
	}
	return n
}

// grant fills out for m: a lease to be granted again first, else what comes
// next in the ring.
func (g *Group) grant(now time.Time, m *Member, out *Grant) Status {
	for {
		l, status := g.nextAgain(m, out)
		if l == nil && status == Idle {
			l, status = g.nextFresh(out)
		}
		if status == statusEvicted {
			g.settle()
			continue
		}
		if l == nil && len(g.pending) > 0 {
			l = &lease{first: g.next, mark: g.next, matched: g.matched}
			g.leases = append(g.leases, l)
			out.First, out.Matched = l.first, l.matched
			status = Granted
		}
		if l == nil {
			return status
		}
		g.hand(now, m, l, out)
		return Granted
	}
}

// statusEvicted is an internal answer: the ring moved on, settle first.
const statusEvicted Status = -1

// nextAgain returns a lease that waits to be granted again, if m may have it.
func (g *Group) nextAgain(m *Member, out *Grant) (*lease, Status) {
	if len(g.again) == 0 || !g.mayAgain(m) {
		return nil, Idle
	}
	for len(g.again) > 0 {
		l := g.again[0]
		if l.done || l.member != nil {
			g.again = g.again[1:]
			continue
		}
		c, err := g.log.Acquire(l.first)
		if err != nil {
			return nil, statusEvicted
		}
		g.again = g.again[1:]
		out.chunk, out.held = c, true
		l.mark = g.next
		g.runs = g.runs[:0]
		idx := l.firstOpen()
		out.First, out.Matched = l.offset(idx), l.matched+uint64(idx)
		off := l.first
		for i := range l.count {
			if i > 0 {
				off = l.step(off, i)
			}
			if l.isAcked(i) {
				continue
			}
			at := int(off - l.first)
			if k := len(g.runs) - 1; k >= 0 && g.runs[k].j == at {
				g.runs[k].j++
			} else {
				g.runs = append(g.runs, run{at, at + 1})
			}
		}
		out.Count = l.open
		out.Deltas = deltas(g.runs, l.open)
		return l, Granted
	}
	return nil, Idle
}

// step returns the offset of envelope i from that of envelope i-1.
func (l *lease) step(off uint64, i int) uint64 {
	if l.deltas == nil {
		return off + 1
	}
	return off + uint64(l.deltas[i-1])
}

// maxLook bounds the index records looked at in one call.
const maxLook = 1 << 15

// nextFresh makes a lease of the next matching envelopes of the ring.
func (g *Group) nextFresh(out *Grant) (*lease, Status) {
	for looked := 0; looked < maxLook; {
		c, err := g.log.Acquire(g.next)
		if errors.Is(err, ring.ErrEvicted) {
			return nil, statusEvicted
		}
		if err != nil {
			return nil, Idle
		}
		var count, n int
		g.runs, count, n = g.match.pick(c, g.runs[:0], g.leaseEnvelopes(), g.cfg.LeaseBytes)
		if count == 0 {
			c.Release()
			g.advance(uint64(n), 0)
			looked += n
			continue
		}
		l := &lease{
			first: c.First + uint64(g.runs[0].i), count: count, open: count,
			mark: g.next, matched: g.matched, deltas: deltas(g.runs, count),
		}
		if g.seen > l.first {
			l.again = true
		}
		g.markNoV1(l, c)
		g.leases = append(g.leases, l)
		g.advance(uint64(n), uint64(count))
		out.chunk, out.held = c, true
		out.First, out.Count, out.Deltas, out.Matched = l.first, count, l.deltas, l.matched
		return l, Granted
	}
	return nil, More
}

// markNoV1 notes which envelopes of a fresh lease, those in runs, have no form
// in the old protocol.
func (g *Group) markNoV1(l *lease, c ring.Chunk) {
	if !c.Holds(g.match.mask & envelope.NoV1) {
		return
	}
	n := 0
	for _, r := range g.runs {
		for i := r.i; i < r.j; i++ {
			bit := uint64(envelope.NoV1>>c.Class(i)) & 1 // a branch would cost more
			l.noV1[n/64] |= bit << (n % 64)
			g.noV1 += bit
			n++
		}
	}
}

// advance moves the mark past n envelopes of which count matched.
func (g *Group) advance(n, count uint64) {
	g.next += n
	g.matched += count
	if g.names != nil {
		g.names.set(g.next, g.matched)
	}
}

// hand gives the lease to m and completes the grant.
func (g *Group) hand(now time.Time, m *Member, l *lease, out *Grant) {
	m.nextID++
	l.member, l.id, l.granted = m, m.nextID, now
	m.leases = append(m.leases, l)
	for _, gap := range g.pending {
		gap.lease, gap.told = l, true
		l.gaps = append(l.gaps, gap)
		g.told = append(g.told, gap)
	}
	g.pending = g.pending[:0]
	out.Lease, out.Redelivered, out.Next = l.id, l.again, g.next
	out.Gaps = slices.Clone(l.gaps)
	if out.held {
		out.Pieces, out.Bytes = pieces(out.chunk, g.runs)
	}
	out.Low, out.LowMatched = g.low()
	m.sent = append(m.sent, sentBytes{l.id, out.Bytes})
	m.out += out.Bytes
	m.served += uint64(out.Count)
	m.granted += uint64(out.Count)
}

// low returns the group's low-water mark and the matching envelopes before it.
func (g *Group) low() (off, matched uint64) {
	off, matched = g.next, g.matched
	for len(g.leases) > 0 && g.leases[0].done {
		g.leases[0] = nil
		g.leases = g.leases[1:]
	}
	if len(g.leases) > 0 {
		l := g.leases[0]
		i := l.firstOpen()
		if i < l.count {
			off, matched = l.offset(i), l.matched+uint64(i)
		} else if l.first < off {
			off, matched = l.first, l.matched
		}
	}
	for _, list := range [][]*Gap{g.pending, g.told} {
		for _, gap := range list {
			if gap.To > gap.From && gap.From < off {
				off, matched = gap.From, gap.matched
			}
		}
	}
	return off, matched
}
