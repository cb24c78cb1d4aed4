package reader

import (
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Config bounds what a group hands out. The zero value of a field means its
// default.
type Config struct {
	LeaseEnvelopes int           // per lease, at most 256
	LeaseBytes     int           // per lease, unless one envelope is larger; 128 KiB
	WindowBytes    int           // granted to a member and not in its client's socket; 256 KiB
	WindowOffsets  func() uint64 // granted to a member and not acked, as a span of offsets
	AckTimeout     time.Duration // without progress a lease is handed out again; 30 s
	// Share, if set, is what the group is about. That of a name delivers at most
	// once: what a member has not acked when it leaves becomes a gap.
	Share *Share
}

func (c Config) withDefaults() Config {
	if c.LeaseEnvelopes <= 0 || c.LeaseEnvelopes > maxLease {
		c.LeaseEnvelopes = maxLease
	}
	if c.LeaseBytes <= 0 {
		c.LeaseBytes = 128 << 10
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
	sources map[string]*ring.Source // of the filter, kept until Close
	counted ring.Filter             // what the ring counts of the filter
	match   matcher
	names   *nameCounter // nil without a name filter

	next    uint64 // next offset to be granted
	matched uint64 // matching envelopes before next
	seen    uint64 // offsets below it may have been received in an earlier life
	unsure  bool   // matched may be too high: a source was forgotten meanwhile
	noV1    uint64 // of matched, those that have no form in the old protocol
	blurred bool   // noV1 is not known: the group began in the middle
	leases  []*lease
	again   []*lease // to be granted again
	pending []*Gap   // to be told with the next grant
	told    []*Gap   // told, not acked
	members []*Member
	acking  int   // members that ack for themselves
	runs    []run // scratch of Next
	wake    [1]*Member

	loss    bool   // was told, or is to be, that an epoch before this one was lost
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

// NewGroup makes a group that starts at start. Close has to follow.
func NewGroup(log *ring.Ring, filter Filter, cfg Config, start Start) *Group {
	g := &Group{cfg: cfg.withDefaults(), log: log, filter: filter.Canonical(), sources: map[string]*ring.Source{}}
	for _, s := range g.filter {
		for _, id := range s.Sources {
			if g.sources[id] == nil {
				g.sources[id] = log.Ref(id)
			}
		}
	}
	g.counted = wholeOf(g.filter).counted(g.sources)
	g.match = newMatcher(g.filter, g.sources)
	g.match.shared(g.cfg.Share)
	at := start.resolve(log, g.counted)
	g.next, g.matched, g.seen, g.unsure = at.next, at.matched, at.seen, !at.sure
	g.noV1, g.blurred = at.noV1, at.blurred
	g.start = g.matched
	if g.filter.named() || g.cfg.Share != nil {
		// Nothing was counted so before the group: it counts from here.
		g.matched, g.start = 0, 0
		g.names = &nameCounter{match: g.match.clone(), next: g.next}
	}
	if start.Lost != streampb.Gap_REASON_UNSPECIFIED {
		g.miss(&Gap{Precision: streampb.Gap_UNKNOWN, Reason: start.Lost, matched: g.matched})
		g.loss = start.Lost == streampb.Gap_DOPPLER_LOST
	}
	g.settle()
	return g
}

// Lose says that a member comes with a cursor of an epoch that was lost. The
// group is told once in its life: another member may have brought the news, but
// the first one need not have been there before.
func (g *Group) Lose() (wake []*Member) {
	if g.loss {
		return nil
	}
	g.loss = true
	g.settle()
	g.miss(&Gap{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST, matched: g.matched})
	return g.wakeNext()
}

// Restrict leaves the group no more than a share, of which it has all up to the
// mark. From then on it has to look at what is evicted, see BeforeEvict.
func (g *Group) Restrict(s *Share) {
	g.settle()
	g.cfg.Share = s
	g.match.shared(s)
	if g.names != nil {
		g.names.restrict(s)
		return
	}
	g.names = &nameCounter{match: g.match.clone()}
	g.names.set(g.next, g.matched)
}

// Close lets go of the sources of the filter.
func (g *Group) Close() {
	for _, s := range g.sources {
		g.log.Unref(s)
	}
	g.sources = nil
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
	if acking {
		g.acking++
	}
	return m
}

// Leave removes a member. What it has not acked will be granted again.
func (g *Group) Leave(m *Member) (wake []*Member) {
	for i, o := range g.members {
		if o == m {
			g.members = append(g.members[:i], g.members[i+1:]...)
			if m.acking {
				g.acking--
			}
			break
		}
	}
	for _, l := range g.leases {
		if l.member == m && !l.done {
			g.giveBack(l)
		}
	}
	m.leases = nil
	return g.wakeNext()
}

// Members is the number of members.
func (g *Group) Members() int { return len(g.members) }

// ready tells whether a member could take a grant.
func (g *Group) ready(m *Member) bool {
	if m.blocked || m.out > 0 && m.out+g.cfg.LeaseBytes > g.cfg.WindowBytes {
		return false
	}
	open := m.oldestOpen(g.next)
	return open == g.next || g.next-open <= g.cfg.WindowOffsets()
}

// first returns the member other than m whose turn it is: of those that could
// take what there is, the one that was served least. It may be nil.
func (g *Group) first(m *Member) *Member {
	var lowest *Member
	for _, o := range g.members {
		if o != m && (lowest == nil || o.served < lowest.served) && g.available(o) && g.ready(o) {
			lowest = o
		}
	}
	return lowest
}

// wakeNext returns the member whose turn it is if its last Next gave nothing.
// One is enough: its grant wakes the one after it.
func (g *Group) wakeNext() []*Member { return g.rouse(g.first(nil)) }

// rouse returns m in a list if it waits. The list is good until the next call.
func (g *Group) rouse(m *Member) []*Member {
	if m == nil || !m.waiting {
		return nil
	}
	m.waiting = false
	g.wake[0] = m
	return g.wake[:]
}

// available tells whether there may be something for m.
func (g *Group) available(m *Member) bool {
	return g.next < g.log.Head() || len(g.pending) > 0 || len(g.again) > 0 && g.mayAgain(m)
}

// mayAgain tells whether m may have what was granted before: where there are
// members that ack for themselves, only they.
func (g *Group) mayAgain(m *Member) bool { return m.acking || g.acking == 0 }

// Appended says that the ring has grown. It returns the member to wake: none
// when nothing of what is new matches, or when it is awake.
func (g *Group) Appended() (wake []*Member) {
	if len(g.again) == 0 && len(g.pending) == 0 && !g.match.all && g.anyWaiting() {
		g.settle()
		g.skipAhead()
	}
	return g.wakeNext()
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
// wake names another member that should call Next now; like every list of
// members to wake it is good until the next call.
func (g *Group) Next(now time.Time, m *Member) (grant Grant, status Status, wake []*Member) {
	g.settle()
	if !g.ready(m) {
		m.waiting = true
		return Grant{}, Full, g.wakeNext()
	}
	if o := g.ahead(m); o != nil {
		m.waiting = true
		return Grant{}, Wait, g.rouse(o)
	}
	m.waiting = false
	status = g.grant(now, m, &grant)
	switch status {
	case Granted:
		wake = g.wakeNext()
	case Idle:
		m.waiting = true
		g.focus()
		wake = g.wakeNext() // there may be something that only others may have
	}
	return grant, status, wake
}

// focus learns at the head of the ring what a group that began in the middle
// could not know.
func (g *Group) focus() {
	if !g.blurred {
		return
	}
	if head, counts := g.log.Appended(g.counted); head == g.next {
		g.noV1, g.blurred = counts.Sum(envelope.NoV1), false
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
		_, counts := g.log.Appended(g.counted)
		matched := max(counts.Total(), g.matched) // which came with a cursor
		a.Accepted = matched - g.start
		a.Lag = matched - g.matched
		return a
	}
	a.Accepted = g.matched - g.start
	return a
}

// Waits returns the offset of the oldest matching envelope that is to be
// granted, and false when there is none.
func (g *Group) Waits() (off uint64, waits bool) {
	g.settle()
	if !g.match.all {
		g.skipAhead() // where members are full, nobody else does
	}
	off, waits = g.next, g.next < g.log.Head()
	for _, l := range g.again {
		if !l.done && l.member == nil && (!waits || l.first < off) {
			off, waits = l.first, true
		}
	}
	return off, waits
}

// Drained tells whether every member and the group have all that was appended.
func (g *Group) Drained() bool {
	g.settle()
	if !g.match.all {
		g.skipAhead() // nobody else does while the group lingers
	}
	if len(g.again) > 0 || len(g.pending) > 0 || len(g.told) > 0 || g.next < g.log.Head() {
		return false
	}
	off, _ := g.low()
	return off == g.next
}
