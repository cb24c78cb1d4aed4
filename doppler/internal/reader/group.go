package reader

import (
	"errors"
	"sort"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Config bounds what a group hands out. The zero value of a field means its
// default.
type Config struct {
	LeaseEnvelopes int           // per lease, at most 256
	LeaseBytes     int           // per lease, unless one envelope is larger; 64 KiB
	WindowBytes    int           // granted to a member and not in its client's socket; 256 KiB
	WindowOffsets  func() uint64 // granted to a member and not acked, as a span of offsets
	AckTimeout     time.Duration // without progress a lease is handed out again; 30 s
}

func (c Config) withDefaults() Config {
	if c.LeaseEnvelopes <= 0 || c.LeaseEnvelopes > maxLease {
		c.LeaseEnvelopes = maxLease
	}
	if c.LeaseBytes <= 0 {
		c.LeaseBytes = 64 << 10
	}
	if c.WindowBytes <= 0 {
		c.WindowBytes = 256 << 10
	}
	if c.WindowOffsets == nil {
		c.WindowOffsets = func() uint64 { return 1 << 20 }
	}
	if c.AckTimeout <= 0 {
		c.AckTimeout = 30 * time.Second
	}
	return c
}

// Group is a subscription group: one low-water mark in the ring, and leases
// to the members that share it.
type Group struct {
	cfg     Config
	log     *ring.Ring
	filter  Filter
	sources []*ring.Source // kept until Close
	match   matcher
	names   *nameCounter // nil without a name filter

	next    uint64 // next offset to be granted
	matched uint64 // matching envelopes before next
	seen    uint64 // offsets below it may have been received in an earlier life
	leases  []*lease
	again   []*lease // to be granted again
	pending []*Gap   // to be told with the next grant
	told    []*Gap   // told, not acked
	members []*Member
	runs    []run // scratch of Next

	start   uint64 // matched when the group was made
	acked   uint64 // envelopes
	dropped uint64 // envelopes in gaps with an exact count
}

// Status says why Next granted nothing.
type Status int

// What Next answers.
const (
	Granted Status = iota
	Idle           // nothing to hand out
	Full           // the member's windows are shut
	Wait           // other members are to be served first
	More           // a long stretch without a match; call again
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

// NewGroup makes a group that starts at start. Close has to follow.
func NewGroup(log *ring.Ring, filter Filter, cfg Config, start Start) *Group {
	g := &Group{cfg: cfg.withDefaults(), log: log, filter: filter.Canonical()}
	for _, id := range g.filter.Sources {
		g.sources = append(g.sources, log.Ref(id))
	}
	g.match = newMatcher(g.filter, g.sources)
	g.next, g.matched, g.seen = start.resolve(log, g.counted())
	g.start = g.matched
	if g.filter.Names != nil {
		// Nothing was counted by name before the group: it counts from here.
		g.matched, g.start = 0, 0
		g.names = &nameCounter{match: g.match, next: g.next}
	}
	if start.Lost != streampb.Gap_REASON_UNSPECIFIED {
		g.miss(&Gap{Precision: streampb.Gap_UNKNOWN, Reason: start.Lost, matched: g.matched})
	}
	return g
}

// Close lets go of the sources of the filter.
func (g *Group) Close() {
	for _, s := range g.sources {
		g.log.Unref(s)
	}
	g.sources = nil
}

func (g *Group) counted() ring.Filter {
	f := ring.Filter{Mask: g.filter.Mask}
	if g.filter.Sources != nil {
		f.Sources = g.sources
	}
	return f
}

// BeforeEvict has to be called, for groups with a name filter, from the ring's
// hook of that name. Unlike the other methods it may run concurrently with
// them.
func (g *Group) BeforeEvict(c ring.Chunk) {
	if g.names != nil {
		g.names.beforeEvict(c)
	}
}

// CountsNames tells whether BeforeEvict is needed.
func (g *Group) CountsNames() bool { return g.names != nil }

// Join adds a member. acking says that the client itself acks; otherwise the
// server acks for it when the batch is in its socket.
func (g *Group) Join(now time.Time, acking bool) *Member {
	m := &Member{acking: acking, progress: now}
	for i, o := range g.members {
		if i == 0 || o.served < m.served {
			m.served = o.served
		}
	}
	g.members = append(g.members, m)
	return m
}

// Leave removes a member. What it has not acked will be granted again.
func (g *Group) Leave(m *Member) (wake []*Member) {
	for i, o := range g.members {
		if o == m {
			g.members = append(g.members[:i], g.members[i+1:]...)
			break
		}
	}
	for _, l := range g.leases {
		if l.member == m && !l.done {
			g.giveBack(l)
		}
	}
	m.leases = nil
	return g.wakeable()
}

// Members is the number of members.
func (g *Group) Members() int { return len(g.members) }

// giveBack makes a lease one to be granted again.
func (g *Group) giveBack(l *lease) {
	g.untell(l)
	l.member = nil
	if l.open == 0 {
		l.done = true
		return
	}
	l.again = true
	g.again = append(g.again, l)
}

// untell makes the gaps of a lease pending again.
func (g *Group) untell(l *lease) {
	for _, gap := range l.gaps {
		gap.lease = nil
		g.pending = append(g.pending, gap)
		g.told = removeGap(g.told, gap)
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

// ready tells whether a member could take a grant.
func (g *Group) ready(m *Member) bool {
	if m.blocked || m.out > 0 && m.out+g.cfg.LeaseBytes > g.cfg.WindowBytes {
		return false
	}
	return g.next-m.oldestOpen(g.next) <= g.cfg.WindowOffsets()
}

// wakeable returns the members whose last Next gave nothing and that should
// try again.
func (g *Group) wakeable() []*Member {
	if !g.available() {
		return nil
	}
	var wake []*Member
	for _, m := range g.members {
		if m.waiting && g.ready(m) {
			m.waiting = false
			wake = append(wake, m)
		}
	}
	return wake
}

func (g *Group) available() bool {
	return len(g.again) > 0 || len(g.pending) > 0 || g.next < g.log.Head()
}

// Appended says that the ring has grown. It returns the members to wake: none
// when nothing of what is new matches.
func (g *Group) Appended() (wake []*Member) {
	if len(g.again) == 0 && len(g.pending) == 0 && !g.match.all && g.anyWaiting() {
		g.settle()
		g.skipAhead()
	}
	return g.wakeable()
}

func (g *Group) anyWaiting() bool {
	for _, m := range g.members {
		if m.waiting {
			return true
		}
	}
	return false
}

// skipAhead moves the mark to the next match or to the end of the ring.
func (g *Group) skipAhead() {
	for {
		c, err := g.log.Acquire(g.next)
		if err != nil {
			return
		}
		i, n := 0, c.Len()
		for i < n && !g.match.match(c, i) {
			i++
		}
		c.Release()
		if i > 0 {
			g.advance(uint64(i), 0)
		}
		if i < n {
			return
		}
	}
}

// Mark is the next offset to be granted.
func (g *Group) Mark() uint64 { return g.next }

// Low returns the low-water mark, below which every matching envelope is acked
// or was told as a gap, and the matching envelopes before it.
func (g *Group) Low() (off, matched uint64) {
	g.settle()
	return g.low()
}

// Next grants m its next batch. The first result is valid with Granted only.
// wake names other members that should call Next now.
func (g *Group) Next(now time.Time, m *Member) (grant Grant, status Status, wake []*Member) {
	g.settle()
	if !g.ready(m) {
		m.waiting = true
		return Grant{}, Full, g.wakeable()
	}
	if !g.turn(m) {
		m.waiting = true
		return Grant{}, Wait, nil
	}
	m.waiting = false
	status = g.grant(now, m, &grant)
	switch status {
	case Granted:
		wake = g.wakeable()
	case Idle:
		m.waiting = true
	}
	return grant, status, wake
}

// maxBehind bounds how much a member that could not take for a while is
// served before its peers.
const maxBehind = 4 * maxLease

// turn tells whether m is not ahead of a peer that could take as well.
func (g *Group) turn(m *Member) bool {
	if len(g.members) == 1 {
		return true
	}
	lowest, other := uint64(0), false
	for _, o := range g.members {
		if o != m && g.ready(o) {
			if !other || o.served < lowest {
				lowest = o.served
			}
			other = true
		}
	}
	if other && lowest > maxBehind && m.served < lowest-maxBehind {
		m.served = lowest - maxBehind
	}
	return !other || m.served <= lowest
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
		if l == nil && status != Granted {
			l, status = g.nextFresh(out)
		}
		if errorsEvicted(status) {
			g.settle()
			continue
		}
		if l == nil && len(g.pending) > 0 {
			l = &lease{first: g.next, matched: g.matched}
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

func errorsEvicted(s Status) bool { return s == statusEvicted }

// nextAgain returns a lease that waits to be granted again, if m may have it.
func (g *Group) nextAgain(m *Member, out *Grant) (*lease, Status) {
	if len(g.again) == 0 || !m.acking && g.hasAcking() {
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
		out.Deltas = deltas(nil, g.runs)
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

func (g *Group) hasAcking() bool {
	for _, m := range g.members {
		if m.acking {
			return true
		}
	}
	return false
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
		g.runs, count, n = g.match.pick(c, g.runs[:0], g.leaseEnvelopes(), g.cfg.LeaseBytes, maxLook)
		if count == 0 {
			c.Release()
			g.advance(uint64(n), 0)
			looked += n
			continue
		}
		l := &lease{
			first: c.First + uint64(g.runs[0].i), count: count, open: count,
			matched: g.matched, deltas: deltas(nil, g.runs),
		}
		if g.seen > l.first {
			l.again = true
		}
		g.leases = append(g.leases, l)
		g.advance(uint64(n), uint64(count))
		out.chunk, out.held = c, true
		out.First, out.Count, out.Deltas, out.Matched = l.first, count, l.deltas, l.matched
		return l, Granted
	}
	return nil, More
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
		gap.lease = l
		l.gaps = append(l.gaps, gap)
		g.told = append(g.told, gap)
	}
	g.pending = g.pending[:0]
	out.Lease, out.Redelivered, out.Next = l.id, l.again, g.next
	out.Gaps = l.gaps
	for _, r := range g.runs {
		if out.held {
			b := out.chunk.Bytes(r.i, r.j)
			out.Pieces = append(out.Pieces, b)
			out.Bytes += len(b)
		}
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

// Sent says that everything up to the lease is in the client's own socket.
func (g *Group) Sent(m *Member, id uint64) (wake []*Member) {
	i := 0
	for i < len(m.sent) && m.sent[i].id <= id {
		m.out -= m.sent[i].bytes
		i++
	}
	m.sent = append(m.sent[:0], m.sent[i:]...)
	for j := len(g.told) - 1; j >= 0; j-- {
		// A gap without offsets cannot be acked by range.
		if gap := g.told[j]; gap.From == gap.To && gap.lease.member == m && gap.lease.id <= id {
			g.ackGap(gap)
		}
	}
	return g.wakeable()
}

// SetBlocked says whether the member's socket has refused to take its last
// grant at once; a blocked member does not hold up its peers.
func (g *Group) SetBlocked(m *Member, blocked bool) (wake []*Member) {
	m.blocked = blocked
	return g.wakeable()
}

// Ack takes responsibility for the offsets first to last, inclusive.
func (g *Group) Ack(now time.Time, m *Member, first, last uint64) (wake []*Member) {
	g.settle()
	m.progress = now
	for i := len(g.told) - 1; i >= 0; i-- {
		if gap := g.told[i]; gap.lease.member == m && gap.From >= first && gap.From <= last && gap.To > gap.From {
			g.ackGap(gap)
		}
	}
	from := sort.Search(len(g.leases), func(i int) bool {
		l := g.leases[i]
		return l.end() > first || l.count == 0 && l.first >= first
	})
	for _, l := range g.leases[from:] {
		if l.first > last {
			break
		}
		g.ackLease(m, l, first, last)
	}
	g.low()
	return g.wakeable()
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
	if l.member == m && fresh > 0 {
		for len(l.gaps) > 0 {
			g.ackGap(l.gaps[0])
		}
	}
	if l.open == 0 && len(l.gaps) == 0 {
		l.done = true
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
	for _, l := range g.leases {
		m := l.member
		if l.done || m == nil || l.count == 0 {
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
	return g.wakeable()
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
	oldest, gone, known := g.evicted()
	g.settleLeases(oldest)
	if g.next >= oldest {
		return
	}
	gap := &Gap{From: g.next, To: oldest, Reason: streampb.Gap_EVICTED, matched: g.matched}
	switch {
	case !known || gone < g.matched:
		// Not counted by name, or the counters of a source were lost; see
		// ring.Config.MaxIdleSources.
		gap.Precision = streampb.Gap_UNKNOWN
		gone = max(gone, g.matched)
		g.miss(gap)
	case gone > g.matched:
		gap.Count = gone - g.matched
		g.miss(gap)
	}
	g.next, g.matched = oldest, gone
	if g.names != nil {
		g.names.set(g.next, g.matched)
	}
}

// settleLeases ends the leases that lie below oldest.
func (g *Group) settleLeases(oldest uint64) {
	for _, l := range g.leases {
		if l.first >= oldest {
			break
		}
		if l.done || l.count == 0 {
			continue
		}
		g.untell(l)
		i := l.firstOpen()
		if i < l.count {
			g.miss(&Gap{
				From: l.offset(i), To: l.end(), Count: uint64(l.open),
				Reason: streampb.Gap_UNCONFIRMED, matched: l.matched + uint64(i),
			})
		}
		l.ackAll()
		l.done, l.member = true, nil
	}
}

// evicted returns the oldest offset that the group can read, and the matching
// envelopes below it if they are known.
func (g *Group) evicted() (oldest, gone uint64, known bool) {
	if g.names != nil {
		return g.names.evicted(g.log.Oldest())
	}
	oldest, gone = g.log.Evicted(g.counted())
	return oldest, gone, true
}

// miss notes a gap to be told with the next grant, joined to the one before
// when it goes on from there.
func (g *Group) miss(gap *Gap) {
	g.countDropped(gap)
	if n := len(g.pending); n > 0 {
		p := g.pending[n-1]
		if p.Reason == gap.Reason && p.Precision == gap.Precision && p.To > p.From && p.To <= gap.From {
			p.To = gap.To
			p.Count += gap.Count
			return
		}
	}
	g.pending = append(g.pending, gap)
}

func (g *Group) countDropped(gap *Gap) {
	if gap.Precision == streampb.Gap_EXACT {
		g.dropped += gap.Count
	}
}

// Account is where every matching envelope since the group began is.
type Account struct {
	Accepted uint64 // matching envelopes appended
	Acked    uint64
	Dropped  uint64 // in gaps
	InFlight uint64 // granted, not acked
	Again    uint64 // waiting to be granted again
	Lag      uint64 // not granted yet
}

// Account adds up the group. With exact counters
// Accepted = Acked + Dropped + InFlight + Again + Lag.
func (g *Group) Account() Account {
	g.settle()
	a := Account{Acked: g.acked, Dropped: g.dropped}
	for _, l := range g.leases {
		if l.done {
			continue
		}
		if l.member == nil {
			a.Again += uint64(l.open)
		} else {
			a.InFlight += uint64(l.open)
		}
	}
	if g.names == nil {
		_, matched := g.log.Appended(g.counted())
		a.Accepted = matched - g.start
		a.Lag = matched - g.matched
		return a
	}
	a.Accepted = g.matched - g.start
	return a
}

// Drained tells whether every member and the group have all that was appended.
func (g *Group) Drained() bool {
	g.settle()
	if len(g.again) > 0 || len(g.pending) > 0 || len(g.told) > 0 || g.next < g.log.Head() {
		return false
	}
	off, _ := g.low()
	return off == g.next
}
