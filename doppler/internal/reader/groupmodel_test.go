package reader

import (
	"bytes"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Where an envelope is, for a group.
const (
	outside  = iota // does not match, or lies before the start
	lagging         // not granted yet
	inFlight        // with a member
	again           // to be granted again
	acked
	dropped // in a gap
)

// groupModel is the naive group: what happened to each envelope, kept per
// envelope. It knows nothing of marks and counters.
type groupModel struct {
	sim        *groupSim
	filter     Filter
	start      uint64
	base       uint64 // matching envelopes before the start, as far as they count
	state      []int
	granted1   []bool    // granted in this life
	deliveries []int     // in this life and those before that its cursor knows
	told       []*simGap // by offset: the gap that tells it is dropped
	gaps       []*simGap
	seen       uint64
	lost       streampb.Gap_Reason // a gap of unknown size is due
	loss       bool                // of an epoch was told, or is due
	unsure     uint64              // up to here nothing is counted by name
	middle     bool                // began at a cursor's offset, and nothing was evicted before it was read
}

// simLease is a grant as its client got it.
type simLease struct {
	id      uint64
	member  *simMember
	offs    []uint64
	again   bool // marked as redelivered
	gaps    []*simGap
	granted time.Time
	mark    uint64 // of the group
}

// simGap is a gap as it was told.
type simGap struct {
	from, to, count uint64
	reason          streampb.Gap_Reason
	unknown         bool
	lease           *simLease // who was told; nil when that was in vain
	acked           bool
}

func newGroupModel(s *groupSim, f Filter, start Start) *groupModel {
	x := &groupModel{sim: s, filter: f, lost: start.Lost}
	switch {
	case start.Place == PlaceOffset && start.Offset <= s.head():
		x.start, x.seen, x.middle = start.Offset, start.Seen, start.Offset > 0
	case start.Place == PlaceOffset:
		x.start, x.lost = s.head(), streampb.Gap_CURSOR_UNKNOWN
	case start.Place == PlaceHead:
		x.start = s.head()
	}
	x.loss = x.lost == streampb.Gap_DOPPLER_LOST
	for i := range x.start {
		if f.matches(&s.all[i]) && !f.named() {
			x.base++
		}
	}
	if f.named() && x.start < s.oldest() {
		x.unsure = s.oldest()
	}
	x.appended()
	x.evict()
	return x
}

// lose says that an epoch before this one was lost, of which is told once.
func (x *groupModel) lose() {
	if !x.loss {
		x.loss, x.lost = true, streampb.Gap_DOPPLER_LOST
	}
}

// appended takes in what the ring has got.
func (x *groupModel) appended() {
	for i := len(x.state); i < len(x.sim.all); i++ {
		state := outside
		if uint64(i) >= max(x.start, x.unsure) && x.filter.matches(&x.sim.all[i]) {
			state = lagging
		}
		x.state = append(x.state, state)
		x.granted1 = append(x.granted1, false)
		x.told = append(x.told, nil)
		if len(x.deliveries) < len(x.state) {
			x.deliveries = append(x.deliveries, 0)
		}
	}
}

// evict drops what the ring has let go of, but for what a member may still
// ack.
func (x *groupModel) evict() {
	for i := range x.sim.oldest() {
		if x.state[i] == lagging || x.state[i] == again {
			x.state[i] = dropped
		}
	}
}

// holder is the member whose latest grant has the offset.
func (x *groupModel) holder(off uint64) *simMember {
	for _, m := range x.sim.members {
		for i := len(m.leases) - 1; i >= 0; i-- {
			if slices.Contains(m.leases[i].offs, off) {
				return m
			}
		}
	}
	return nil
}

// reason is why an envelope was dropped.
func (x *groupModel) reason(off uint64) streampb.Gap_Reason {
	if x.granted1[off] {
		return streampb.Gap_UNCONFIRMED
	}
	return streampb.Gap_EVICTED
}

// next follows a call of Next.
func (x *groupModel) next(m *simMember, status Status) {
	if status == Idle {
		x.checkIdle(m)
	}
	if status == Full && m.state != writing && len(m.leases) == 0 && len(m.unsent) == 0 {
		x.sim.fault("a member is full that has nothing")
	}
}

// checkIdle makes sure that there was really nothing for m.
func (x *groupModel) checkIdle(m *simMember) {
	if why := x.due(m); why != "" {
		x.sim.fault("nothing for a member although %s", why)
	}
}

// due says what a member that is ready should get, if anything.
func (x *groupModel) due(m *simMember) string {
	acking := slices.ContainsFunc(x.sim.members, func(o *simMember) bool { return o.acking })
	for i, state := range x.state {
		switch {
		case state == lagging:
			return "envelopes lag"
		case state == again && (m.acking || !acking):
			return "envelopes wait to be granted again"
		case state == dropped && x.told[i] == nil && !x.granted1[i]:
			return "a loss is to be told"
		}
	}
	for _, gap := range x.gaps {
		if !gap.acked && gap.lease == nil {
			return "a gap is to be told again"
		}
	}
	if x.lost != streampb.Gap_REASON_UNSPECIFIED {
		return "a gap of unknown size is to be told"
	}
	return ""
}

// granted follows a grant. Before it the group's mark was at mark, or beyond.
func (x *groupModel) granted(m *simMember, g *Grant, mark uint64) {
	s := x.sim
	offs := s.unpack(g.First, g.Count, g.Deltas)
	l := &simLease{id: g.Lease, member: m, offs: offs, again: g.Redelivered, granted: s.now}
	x.checkWindows(m, mark)
	x.checkBatch(g, offs)
	for i, gap := range g.Gaps {
		x.gap(l, gap)
		if i > 0 && gap.From < g.Gaps[i-1].To {
			s.fault("gaps out of order: %s", show(g.Gaps))
		}
	}
	fresh := len(offs) > 0 && x.state[offs[0]] == lagging
	for _, off := range offs {
		x.grantOne(off, fresh, g)
	}
	if l.mark = g.Next; fresh {
		l.mark = offs[0]
	}
	m.leases = append(m.leases, l)
	for i, state := range x.state {
		if state == dropped && x.told[i] == nil {
			s.fault("a grant leaves out the gap of %d", i)
		}
		if state == lagging && uint64(i) < g.Next {
			s.fault("a grant's next is %d but %d was not granted", g.Next, i)
		}
	}
	for _, gap := range x.gaps {
		if !gap.acked && gap.lease == nil {
			s.fault("a grant leaves out %+v, told in vain before", *gap)
		}
	}
	if x.lost != streampb.Gap_REASON_UNSPECIFIED {
		s.fault("a grant leaves out the gap of unknown size")
	}
	if off, matched := s.g.Low(); off != g.Low || matched != g.LowMatched {
		s.fault("a grant says low is %d (%d), it is %d (%d)", g.Low, g.LowMatched, off, matched)
	}
}

func (x *groupModel) grantOne(off uint64, fresh bool, g *Grant) {
	s := x.sim
	switch x.state[off] {
	case lagging:
		for i := range off {
			if x.state[i] == lagging {
				s.fault("%d is granted before %d", off, i)
			}
		}
		if !fresh {
			s.fault("fresh and returned envelopes in one grant: %d", off)
		}
	case again:
		if fresh || !g.Redelivered {
			s.fault("%d is granted again in a grant that does not say so", off)
		}
	default:
		s.fault("%d is granted in state %d", off, x.state[off])
	}
	if x.deliveries[off] > 0 && !g.Redelivered {
		s.fault("%d is a duplicate and is not marked", off)
	}
	if g.Redelivered && x.deliveries[off] == 0 && off >= x.seen && g.First >= x.seen {
		s.fault("%d is marked redelivered the first time", off)
	}
	x.deliveries[off]++
	x.granted1[off] = true
	x.state[off] = inFlight
}

// checkBatch compares bytes and numbers of a grant.
func (x *groupModel) checkBatch(g *Grant, offs []uint64) {
	s := x.sim
	if got := join(g.Pieces); !bytes.Equal(got, s.records(offs)) || len(got) != g.Bytes {
		s.fault("a grant from %d has other bytes", g.First)
	}
	if g.Count > s.cfg.LeaseEnvelopes || g.Count > 1 && g.Bytes > s.cfg.LeaseBytes {
		s.fault("a lease of %d envelopes and %d bytes", g.Count, g.Bytes)
	}
	if g.Count == 0 && len(g.Gaps) == 0 {
		s.fault("an empty grant")
	}
	if want := x.matchedBelow(g.First); g.Matched != want {
		s.fault("%d matched below %d, want %d", g.Matched, g.First, want)
	}
	if g.Next > s.head() || g.Count > 0 && g.Next <= offs[len(offs)-1] {
		s.fault("next is %d", g.Next)
	}
}

// matchedBelow counts matching envelopes as the group's clients see them.
func (x *groupModel) matchedBelow(off uint64) uint64 {
	n := x.base
	for i := range off {
		if x.state[i] != outside {
			n++
		}
	}
	return n
}

// checkWindows makes sure that m could take the grant it got.
func (x *groupModel) checkWindows(m *simMember, mark uint64) {
	s := x.sim
	out := 0
	for _, b := range m.unsent {
		out += b.bytes
	}
	if out > 0 && out+s.cfg.LeaseBytes > s.cfg.WindowBytes {
		s.fault("granted with %d bytes unsent and a window of %d", out, s.cfg.WindowBytes)
	}
	for _, l := range m.leases {
		if l.mark > mark || !x.open(l) {
			continue
		}
		if mark-l.mark > s.windows {
			s.fault("granted at %d with a lease of %d unacked and a window of %d", mark, l.mark, s.windows)
		}
		break
	}
}

// open tells whether a lease still has something in flight.
func (x *groupModel) open(l *simLease) bool {
	return slices.ContainsFunc(l.offs, func(off uint64) bool {
		return x.state[off] == inFlight && off >= x.sim.oldest()
	})
}

// gap follows a gap that is told.
func (x *groupModel) gap(l *simLease, g *Gap) {
	if g.Precision == streampb.Gap_UNKNOWN {
		x.unknownGap(l, g)
		return
	}
	s := x.sim
	if g.Precision != streampb.Gap_EXACT || g.To <= g.From || g.To > s.oldest() || g.Count == 0 {
		s.fault("gap %+v", g)
	}
	for _, o := range x.gaps {
		if o.from == g.From && o.to == g.To && o.reason == g.Reason && !o.unknown {
			x.toldAgain(o, l, g.Count)
			return
		}
	}
	o := &simGap{from: g.From, to: g.To, count: g.Count, reason: g.Reason, lease: l}
	n, noV1 := uint64(0), uint64(0)
	for off := g.From; off < g.To; off++ {
		if x.state[off] == dropped && x.reason(off) == g.Reason && x.told[off] == nil {
			x.told[off] = o
			n++
			if c := s.all[off].class; c == envelope.Event || c == envelope.None {
				noV1++
			}
		}
	}
	if n != g.Count {
		s.fault("a gap %v of %d in [%d,%d), want %d", g.Reason, g.Count, g.From, g.To, n)
	}
	if known := !x.middle && !x.filter.named() || g.Reason != streampb.Gap_EVICTED; g.NoV1 > noV1 || g.NoV1 < noV1 && known {
		s.fault("a gap in [%d,%d) with %d that have no old form, want %d", g.From, g.To, g.NoV1, noV1)
	}
	x.middle = x.middle && g.Reason != streampb.Gap_EVICTED
	x.gaps = append(x.gaps, o)
	l.gaps = append(l.gaps, o)
}

// toldAgain follows a gap whose first telling was in vain.
func (x *groupModel) toldAgain(o *simGap, l *simLease, count uint64) {
	if o.lease != nil || o.acked || o.count != count {
		x.sim.fault("gap [%d,%d) is told twice, with %d and %d", o.from, o.to, o.count, count)
	}
	o.lease = l
	l.gaps = append(l.gaps, o)
}

func (x *groupModel) unknownGap(l *simLease, g *Gap) {
	for _, o := range x.gaps {
		if o.unknown && o.reason == g.Reason && o.lease == nil && !o.acked {
			x.toldAgain(o, l, 0)
			return
		}
	}
	o := &simGap{from: g.From, to: g.To, reason: g.Reason, unknown: true, lease: l}
	x.gaps = append(x.gaps, o)
	l.gaps = append(l.gaps, o)
	switch {
	case g.Reason == x.lost && g.From == 0 && g.To == 0:
		x.lost = streampb.Gap_REASON_UNSPECIFIED
	case g.Reason == streampb.Gap_EVICTED && g.From == x.start && g.To == x.unsure:
		x.unsure = 0
	default:
		x.sim.fault("gap %+v", g)
	}
}

func (x *groupModel) sent(m *simMember, id uint64) {
	m.sentUpTo = max(m.sentUpTo, id)
	if !m.acking {
		x.sentIsAck(m, id)
	}
	x.settleUnplaced()
	x.forget(m)
}

// settleUnplaced settles the gaps without offsets that are in a client's socket
// and came with nothing that is still to be acked.
func (x *groupModel) settleUnplaced() {
	for _, gap := range x.gaps {
		if l := gap.lease; l != nil && gap.from == gap.to && l.id <= l.member.sentUpTo && !x.inFlight(l) {
			gap.acked = true
		}
	}
}

// inFlight tells whether something of a lease is with its member, in the ring or
// not.
func (x *groupModel) inFlight(l *simLease) bool {
	return slices.ContainsFunc(l.offs, func(off uint64) bool {
		return x.state[off] == inFlight && x.holder(off) == l.member && x.latest(l.member, off) == l
	})
}

// sentIsAck: for a client that does not ack, what is in its socket is acked.
func (x *groupModel) sentIsAck(m *simMember, id uint64) {
	m.moved = true
	for _, l := range m.leases {
		if l.id > id {
			continue
		}
		for _, off := range l.offs {
			if x.state[off] == inFlight && x.holder(off) == m && x.latest(m, off) == l {
				x.state[off] = acked
			}
		}
		for _, gap := range l.gaps {
			gap.acked = gap.acked || gap.lease == l
		}
	}
}

// forget drops what a client has nothing to do for any more.
func (x *groupModel) forget(m *simMember) {
	m.leases = slices.DeleteFunc(m.leases, func(l *simLease) bool {
		return !slices.ContainsFunc(l.offs, func(off uint64) bool { return x.state[off] == inFlight }) &&
			!slices.ContainsFunc(l.gaps, func(gap *simGap) bool { return gap.lease == l && !gap.acked })
	})
}

func (x *groupModel) ack(m *simMember, r ackRange) {
	m.progress = x.sim.now
	for _, gap := range x.gaps {
		if gap.lease != nil && gap.lease.member == m && gap.to > gap.from && gap.from >= r.first && gap.to-1 <= r.last {
			gap.acked = true
		}
	}
	for _, o := range x.sim.members {
		for _, l := range o.leases {
			fresh := slices.ContainsFunc(l.offs, func(off uint64) bool {
				return off >= r.first && off <= r.last && x.state[off] == inFlight && x.holder(off) == o && x.latest(o, off) == l
			})
			// What was handed out before may have been acked before it came again.
			if !fresh || o != m || l.again {
				continue
			}
			for _, gap := range l.gaps {
				gap.acked = gap.acked || gap.lease == l && gap.from == gap.to
			}
		}
	}
	for off := r.first; off <= r.last && off < x.sim.head(); off++ {
		if x.state[off] == inFlight || x.state[off] == again {
			x.state[off] = acked
		}
	}
	x.settleUnplaced()
	for _, o := range x.sim.members {
		x.forget(o)
	}
}

// latest is the member's newest grant that has the offset.
func (x *groupModel) latest(m *simMember, off uint64) *simLease {
	for i := len(m.leases) - 1; i >= 0; i-- {
		if slices.Contains(m.leases[i].offs, off) {
			return m.leases[i]
		}
	}
	return nil
}

// takeBack undoes a grant.
func (x *groupModel) takeBack(m *simMember, l *simLease) {
	for _, off := range l.offs {
		if x.state[off] == inFlight && x.latest(m, off) == l {
			x.state[off] = again
		}
	}
	for _, gap := range l.gaps {
		if gap.lease == l && !gap.acked {
			gap.lease = nil
		}
	}
}

func (x *groupModel) leave(m *simMember) {
	for _, l := range m.leases {
		x.takeBack(m, l)
	}
	m.leases = nil
	x.evict()
}

func (x *groupModel) expire() {
	s := x.sim
	for _, m := range s.members {
		if m.moved {
			m.moved, m.progress = false, s.now
		}
		if !m.acking && len(s.members) == 1 {
			continue
		}
		for _, l := range m.leases {
			if s.now.Sub(later(l.granted, m.progress)) >= s.cfg.AckTimeout {
				x.takeBack(m, l)
			}
		}
	}
	x.evict()
	for _, m := range s.members {
		x.forget(m)
	}
}
