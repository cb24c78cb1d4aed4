package reader

import (
	"errors"
	"slices"
	"sort"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// giveBack makes a lease one to be granted again.
func (g *Group) giveBack(l *lease) {
	g.untell(l)
	if l.lost || g.cfg.Share != nil && g.cfg.Share.Name != "" {
		g.giveUp(l)
		return
	}
	l.member = nil
	if l.open == 0 {
		l.done = true
		return
	}
	l.again = true
	g.again = append(g.again, l)
}

// Abandon ends the group of a share without members, and returns how many envelopes it has
// neither handed out nor told anybody about, and whether that is exact.
func (g *Group) Abandon() (n uint64, exact bool) {
	g.settle()
	for end := g.cfg.Share.Roster.End(g.cfg.Share.Name); g.next < end; {
		c, err := g.log.Acquire(g.next)
		if errors.Is(err, ring.ErrEvicted) {
			g.settle()
			continue
		}
		if err != nil {
			break
		}
		for i := range g.cfg.Share.within(c) {
			if g.match.match(c, i) {
				n++
			}
		}
		g.advance(uint64(c.Len()), 0)
		c.Release()
	}
	exact = true
	for _, gap := range g.pending {
		n += gap.Count
		g.dropped -= gap.Count // it is the heir's now
		exact = exact && gap.Precision == streampb.Gap_EXACT
	}
	return n, exact
}

// Inherit tells the group's next reader of what another one, which has ended,
// has not delivered.
func (g *Group) Inherit(n uint64, exact bool) {
	if n == 0 && exact {
		return
	}
	gap := &Gap{From: g.next, To: g.next, Count: n, Reason: streampb.Gap_UNCONFIRMED, matched: g.matched}
	if !exact {
		gap.Precision = streampb.Gap_AT_LEAST
	}
	g.miss(gap)
}

// untell makes the gaps of a lease pending again.
func (g *Group) untell(l *lease) {
	for _, gap := range l.gaps {
		gap.lease = nil
		g.told = removeGap(g.told, gap)
		at := g.placeOf(gap)
		g.pending = slices.Insert(g.pending, at, gap)
	}
	l.gaps = nil
}

func removeGap(list []*Gap, gap *Gap) []*Gap {
	for i, o := range list {
		if o == gap {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// Sent says that everything up to the lease is in the client's own socket. It
// opens the byte window. For a member whose client does not ack, it is the ack
// as well.
func (g *Group) Sent(m *Member, id uint64) (wake []*Member) {
	i := 0
	for i < len(m.sent) && m.sent[i].id <= id {
		m.out -= m.sent[i].bytes
		i++
	}
	m.sent = append(m.sent[:0], m.sent[i:]...)
	for j := len(g.told) - 1; j >= 0; j-- {
		if gap := g.told[j]; gap.lease.member == m && gap.lease.id <= id {
			g.ackUnplaced(gap, false)
		}
	}
	if !m.acking {
		g.ackSent(m, id)
	}
	return g.wakeNext()
}

// ackSent acks what a member has been granted up to a lease.
func (g *Group) ackSent(m *Member, id uint64) {
	g.settle()
	m.moved = true
	for _, l := range m.leases {
		if !l.with(m) || l.id > id {
			continue
		}
		fresh := uint64(l.ackAll())
		g.acked += fresh
		m.acked += fresh
		for len(l.gaps) > 0 {
			g.ackGap(l.gaps[0])
		}
		l.done = true
	}
	m.oldestOpen(g.next)
	g.low()
}

// SetBlocked says whether the member's socket has refused to take its last
// grant at once; a blocked member does not hold up its peers.
func (g *Group) SetBlocked(m *Member, blocked bool) (wake []*Member) {
	m.blocked = blocked
	return g.wakeNext()
}

// Ack takes responsibility for the offsets first to last, inclusive, and for the
// gaps that lie within. Part of a gap is not enough, nor are envelopes that came
// with it: the ack may be of an earlier delivery, said again, by a client that
// has yet to hear of the gap.
func (g *Group) Ack(now time.Time, m *Member, first, last uint64) (wake []*Member) {
	g.settle()
	m.progress = now
	for i := len(g.told) - 1; i >= 0; i-- {
		// An ack that reaches into a gap is of what the gap is about: it may have
		// been sent before the client was told.
		if gap := g.told[i]; gap.lease.member == m && gap.To > gap.From && gap.From >= first && gap.To-1 <= last {
			g.ackGap(gap)
		}
	}
	from := sort.Search(len(g.leases), func(i int) bool {
		return g.leases[i].end() > first
	})
	for _, l := range g.leases[from:] {
		if l.first > last {
			break
		}
		g.ackLease(m, l, first, last)
	}
	g.low()
	return g.wakeNext()
}

func (g *Group) ackLease(m *Member, l *lease, first, last uint64) {
	if l.done {
		return
	}
	var fresh int
	if first <= l.first && last >= l.end()-1 && l.count > 0 {
		fresh = l.ackAll()
	} else {
		fresh = l.ack(first, last)
	}
	g.acked += uint64(fresh)
	m.acked += uint64(fresh)
	for i := len(l.gaps) - 1; i >= 0 && fresh > 0; i-- {
		g.ackUnplaced(l.gaps[i], l.member == m && !l.again)
	}
	if l.open == 0 && len(l.gaps) == 0 {
		l.done = true
	}
}

// ackUnplaced settles a gap without offsets, which no range can ack: with an
// envelope that it came with, if it was received for the first time; else when
// nothing that it came with waits for an ack, and it is in the client's socket.
func (g *Group) ackUnplaced(gap *Gap, received bool) {
	l := gap.lease
	if gap.From == gap.To && (received || l.member.hasSent(l.id) && (l.open == 0 || !l.member.acking)) {
		g.ackGap(gap)
	}
}

// ackGap settles a gap that was told.
func (g *Group) ackGap(gap *Gap) {
	l := gap.lease
	l.gaps = removeGap(l.gaps, gap)
	g.told = removeGap(g.told, gap)
	if l.open == 0 && len(l.gaps) == 0 {
		l.done = true
	}
}

// Expire takes back the leases whose members have made no progress for the
// ack timeout, unless only the server could ack for them and nobody else
// could have them.
func (g *Group) Expire(now time.Time) (wake []*Member) {
	g.settle()
	for _, m := range g.members {
		if m.moved {
			m.moved, m.progress = false, now
		}
	}
	for _, l := range g.leases {
		m := l.member
		if l.done || m == nil {
			continue
		}
		if now.Sub(later(l.granted, m.progress)) < g.cfg.AckTimeout {
			continue
		}
		if !m.acking && len(g.members) == 1 {
			continue
		}
		g.giveBack(l)
	}
	return g.wakeNext()
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// settle turns what the ring has evicted into gaps.
func (g *Group) settle() {
	oldest := g.log.Oldest()
	if g.next >= oldest && (len(g.leases) == 0 || g.leases[0].first >= oldest) {
		return
	}
	oldest, gone, noV1, known := g.evicted()
	g.settleLeases(oldest)
	if g.next >= oldest {
		return
	}
	gap := &Gap{From: g.next, To: oldest, Reason: streampb.Gap_EVICTED, matched: g.matched}
	if gone > g.matched {
		gap.Count = gone - g.matched
	}
	switch {
	case known && gone >= g.matched:
		gap.NoV1 = g.missedNoV1(noV1, gap.Count)
	case gap.Count > 0:
		gap.Precision = streampb.Gap_AT_LEAST
	default:
		gap.Precision = streampb.Gap_UNKNOWN
	}
	if gap.Count > 0 || gap.Precision != streampb.Gap_EXACT {
		g.miss(gap)
	}
	// Differs only if the counters began anew since the cursor was made.
	g.start += gone - g.matched - gap.Count
	g.next, g.matched, g.unsure = oldest, gone, false
	g.noV1, g.blurred = noV1, false
	if g.names != nil {
		g.names.set(g.next, g.matched)
	}
}

// missedNoV1 is how many of count missed envelopes have no form in the old
// protocol, when gone of that kind are below the oldest offset. None are known
// to while the group does not know how many came before it.
func (g *Group) missedNoV1(gone, count uint64) uint64 {
	if g.blurred || gone < g.noV1 {
		return 0
	}
	return min(gone-g.noV1, count)
}

// settleLeases marks the leases that lie below oldest as lost. One that is
// with a member may still be acked, until the member leaves or its time is over.
func (g *Group) settleLeases(oldest uint64) {
	for _, l := range g.leases {
		if l.first >= oldest {
			break
		}
		if l.done || l.lost || l.count == 0 {
			continue
		}
		l.lost = true
		if l.member == nil {
			g.giveUp(l)
		}
	}
}

// giveUp turns what is not acked of a lost lease into a gap. The lease has no
// gaps of its own any more.
func (g *Group) giveUp(l *lease) {
	if i := l.firstOpen(); i < l.count {
		g.miss(&Gap{
			From: l.offset(i), To: l.end(), Count: uint64(l.open),
			Reason: streampb.Gap_UNCONFIRMED, matched: l.matched + uint64(i), NoV1: l.openNoV1(),
		})
	}
	l.ackAll()
	l.done = true
}

// evicted returns the oldest offset that the group can read, and the matching
// envelopes below it if they are known; noV1 is how many of those have no form
// in the old protocol.
func (g *Group) evicted() (oldest, gone, noV1 uint64, known bool) {
	if g.names != nil {
		oldest, gone, known = g.names.evicted(g.log.Oldest())
		return oldest, gone, 0, known // not counted: old clients do not select by name
	}
	oldest, counts := g.log.Evicted(g.counted)
	return oldest, counts.Total(), counts.Sum(envelope.NoV1), !g.unsure
}

// miss notes a gap to be told with the next grant, joined to the one before
// when it goes on from there. What was told once stays as it was told.
func (g *Group) miss(gap *Gap) {
	g.dropped += gap.Count
	at := g.placeOf(gap)
	if at > 0 {
		p := g.pending[at-1]
		joins := p.Reason == gap.Reason && p.Precision == gap.Precision && p.To > p.From && p.To <= gap.From
		if joins && !p.told && !g.openBetween(p.To, gap.From) {
			p.To = gap.To
			p.Count += gap.Count
			p.NoV1 += gap.NoV1
			return
		}
	}
	g.pending = slices.Insert(g.pending, at, gap)
}

// openBetween tells whether a lease or a gap that begins in [from, to) is not
// settled: it might yet have to be told.
func (g *Group) openBetween(from, to uint64) bool {
	for _, gap := range g.told {
		if gap.From >= from && gap.From < to {
			return true
		}
	}
	i := sort.Search(len(g.leases), func(i int) bool { return g.leases[i].first >= from })
	for ; i < len(g.leases) && g.leases[i].first < to; i++ {
		if g.leases[i].open > 0 {
			return true
		}
	}
	return false
}

// placeOf returns where gap belongs among the pending ones, which are in the
// order of offsets, those of unknown size first.
func (g *Group) placeOf(gap *Gap) int {
	at := len(g.pending)
	for at > 0 {
		p := g.pending[at-1]
		if p.From < gap.From || p.From == gap.From && p.To <= gap.To {
			break
		}
		at--
	}
	return at
}
