package reader

import (
	"fmt"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// groupSim drives a Group by a random history as a server and its clients
// would: members are driven only when they have been woken, clients say Sent
// and Ack in any order, partly, twice, late or never.
type groupSim struct {
	*world
	g       *Group
	cfg     Config
	model   *groupModel
	members []*simMember
	former  []ackRange // received over connections that are gone
	acks    []ackRange // said before
	dirty   bool       // the ring has grown, Appended was not called yet
	windows uint64     // offsets

	plant func(s *groupSim, at string) // a planted bug, called around operations
	mute  bool                         // set by plant: the machine is not told
	actor *simMember                   // who the operation is about
}

type ackRange struct{ first, last uint64 }

// life of a member's driver
const (
	running = iota // has something to do: Next
	waiting        // Next gave nothing, waits to be woken
	writing        // its socket is full
)

// simMember is one connection with the client behind it.
type simMember struct {
	m        *Member
	acking   bool
	state    int
	gone     bool
	unsent   []sentBytes // granted, no Sent yet
	leases   []*simLease // in the order of their grants
	progress time.Time
	moved    bool
	held     []heldGrant // pinned across steps
	sentUpTo uint64      // lease
}

type heldGrant struct {
	grant Grant
	want  []byte
}

func newGroupSim(t testing.TB, seed uint64) *groupSim {
	w := newWorld(t, seed, nil)
	s := &groupSim{world: w, windows: 10 + w.rng.Uint64N(150)}
	s.cfg = Config{
		LeaseEnvelopes: 1 + w.rng.IntN(20), LeaseBytes: 100 + w.rng.IntN(1500),
		WindowBytes: 100 + w.rng.IntN(4000), AckTimeout: 30 * time.Second,
		WindowOffsets: func() uint64 { return s.windows },
	}
	if w.chance(4) {
		s.cfg.LeaseEnvelopes = maxLease
	}
	for range w.rng.IntN(20) {
		w.appendSome(10)
	}
	s.open(w.filter().Canonical(), s.anyStart())
	return s
}

// anyStart picks a place for a client that was never here.
func (s *groupSim) anyStart() Start {
	switch s.rng.IntN(6) {
	case 0:
		return Start{Place: PlaceOrigin}
	case 1:
		return Start{Place: PlaceOrigin, Lost: streampb.Gap_DOPPLER_LOST}
	case 2:
		return Start{Place: PlaceOffset, Offset: s.head() + 1 + s.rng.Uint64N(5), Matched: 3}
	case 3:
		return Start{Place: PlaceOffset, Offset: s.rng.Uint64N(s.head() + 1)}
	}
	return Start{}
}

// open makes the group, anew, with a start whose Matched is set here.
func (s *groupSim) open(f Filter, start Start) {
	if start.Place == PlaceOffset && start.Offset <= s.head() {
		start.Matched = 0
		for i := range start.Offset {
			if f.matches(&s.all[i]) {
				start.Matched++
			}
		}
	}
	s.does("open %s from %+v", f.Key(), start)
	s.g = NewGroup(s.log, f, s.cfg, start)
	s.group = s.g
	seen := s.model
	s.model = newGroupModel(s, f, start)
	if seen != nil && start.Seen > 0 {
		s.model.deliveries = seen.deliveries
	}
	s.after("open")
}

func (s *groupSim) close() {
	for _, m := range s.members {
		s.release(m)
	}
	s.g.Close()
	s.world.close()
}

// before and after let a planted bug in.
func (s *groupSim) before(op string) bool {
	s.mute = false
	if s.plant != nil {
		s.plant(s, "before "+op)
	}
	return !s.mute
}

func (s *groupSim) after(op string) {
	if s.plant != nil {
		s.plant(s, "after "+op)
	}
}

func (s *groupSim) pick(state int) *simMember {
	var list []*simMember
	for _, m := range s.members {
		if m.state == state || state < 0 {
			list = append(list, m)
		}
	}
	if len(list) == 0 {
		return nil
	}
	return list[s.rng.IntN(len(list))]
}

// wake does what the server does with a wake list.
func (s *groupSim) wake(list []*Member) {
	for _, w := range list {
		found := false
		for _, m := range s.members {
			if m.m == w {
				found = true
				if m.state == running {
					s.fault("a member is woken that does not wait")
				}
				if m.state == waiting {
					m.state = running
				}
			}
		}
		if !found {
			s.fault("a member is woken that is gone")
		}
	}
}

// step does one thing.
func (s *groupSim) step() {
	switch n := s.rng.IntN(100); {
	case n < 20:
		s.grow()
	case n < 30:
		s.pump()
	case n < 60:
		s.next(s.pick(running))
	case n < 68:
		s.sent(s.pick(-1))
	case n < 82:
		s.ack(s.pick(-1))
	case n < 85:
		s.join(!s.chance(4))
	case n < 87:
		s.leave(s.pick(-1))
	case n < 91:
		s.block(s.pick(-1))
	case n < 94:
		s.expire()
	case n < 96:
		s.log.EvictAhead()
		s.model.evict()
	case n < 97:
		s.windows = 10 + s.rng.Uint64N(150)
	case n < 98 && s.chance(3):
		s.restart()
	case n < 98 && s.chance(4):
		s.lose()
	default:
		for range 5 { // a busy moment
			s.next(s.pick(running))
		}
	}
	s.model.check()
}

func (s *groupSim) grow() {
	most := 10
	if s.chance(8) {
		most = 60
	}
	if s.before("append") {
		s.appendSome(most)
	}
	s.dirty = true
	s.model.appended()
	s.model.evict()
	s.after("append")
}

// pump is the server's waker.
func (s *groupSim) pump() {
	if !s.dirty {
		return
	}
	s.dirty = false
	if s.before("pump") {
		s.wake(s.g.Appended())
	}
	s.after("pump")
	s.does("pump")
}

func (s *groupSim) join(acking bool) {
	if len(s.members) >= 5 {
		return
	}
	m := &simMember{acking: acking, progress: s.now}
	m.m = s.g.Join(s.now, acking)
	s.members = append(s.members, m)
	s.actor = m
	s.after("join")
	s.does("join, acking %v: %d members", acking, len(s.members))
}

// next lets a member take its next batch.
func (s *groupSim) next(m *simMember) {
	if m == nil || m.state != running {
		return
	}
	s.actor = m
	s.before("next")
	peers, mark := len(s.members), s.g.Mark()
	grant, status, wake := s.g.Next(s.now, m.m)
	s.after("next")
	s.model.next(m, status)
	if status != Granted {
		s.does("next of %p: status %v", m, status)
		if peers == 1 && status == Wait {
			s.fault("a member alone waits for others")
		}
		m.state = waiting
		if status == More {
			m.state = running
		}
		s.wake(wake)
		return
	}
	s.does("next of %p: %d from %d, redelivered %v, gaps %s", m, grant.Count, grant.First, grant.Redelivered, show(grant.Gaps))
	s.model.granted(m, &grant, mark)
	s.wake(wake)
	m.unsent = append(m.unsent, sentBytes{grant.Lease, grant.Bytes})
	if s.chance(5) && len(m.held) < 2 {
		m.held = append(m.held, heldGrant{grant, join(grant.Pieces)})
		return
	}
	grant.Release()
}

func show(gaps []*Gap) (out string) {
	for _, g := range gaps {
		out += fmt.Sprintf("[%d,%d)=%d %v %v ", g.From, g.To, g.Count, g.Reason, g.Precision)
	}
	return out
}

func join(pieces [][]byte) (b []byte) {
	for _, p := range pieces {
		b = append(b, p...)
	}
	return b
}

// release lets go of what a member has pinned.
func (s *groupSim) release(m *simMember) {
	for i := range m.held {
		if string(join(m.held[i].grant.Pieces)) != string(m.held[i].want) {
			s.fault("a grant's bytes changed before its release")
		}
		m.held[i].grant.Release()
	}
	m.held = nil
}

func (s *groupSim) sent(m *simMember) {
	if m == nil || len(m.unsent) == 0 {
		return
	}
	id := m.unsent[s.rng.IntN(len(m.unsent))].id
	if s.chance(2) {
		id = m.unsent[len(m.unsent)-1].id
	}
	s.sentUpTo(m, id)
}

func (s *groupSim) sentUpTo(m *simMember, id uint64) {
	s.release(m)
	s.actor = m
	if s.before("sent") {
		s.wake(s.g.Sent(m.m, id))
	}
	s.model.sent(m, id)
	s.after("sent")
	for len(m.unsent) > 0 && m.unsent[0].id <= id {
		m.unsent = m.unsent[1:]
	}
	s.does("sent of %p up to lease %d", m, id)
}

// ack says something about what the client has, or had, or never had.
func (s *groupSim) ack(m *simMember) {
	if m == nil {
		return
	}
	var r ackRange
	switch n := s.rng.IntN(12); {
	case n < 7 && len(m.leases) > 0:
		l := m.leases[0]
		if s.chance(3) {
			l = m.leases[s.rng.IntN(len(m.leases))]
		}
		s.ackAllOf(m, l)
		return
	case n < 9 && len(m.leases) > 0:
		l := m.leases[s.rng.IntN(len(m.leases))]
		if len(l.offs) == 0 {
			return
		}
		i := s.rng.IntN(len(l.offs))
		r = ackRange{l.offs[i], l.offs[i+s.rng.IntN(len(l.offs)-i)]}
	case n < 10 && len(s.former) > 0:
		r = s.former[s.rng.IntN(len(s.former))]
	case n < 11 && len(s.acks) > 0:
		r = s.acks[s.rng.IntN(len(s.acks))]
	default:
		r.first = s.rng.Uint64N(s.head() + 1)
		r.last = r.first + s.rng.Uint64N(30)
	}
	s.ackRange(m, r)
}

// ackAllOf acks a lease with the gaps that came with it.
func (s *groupSim) ackAllOf(m *simMember, l *simLease) {
	for _, gap := range l.gaps {
		if gap.to > gap.from {
			s.ackRange(m, ackRange{gap.from, gap.to - 1})
		}
	}
	if n := len(l.offs); n > 0 {
		s.ackRange(m, ackRange{l.offs[0], l.offs[n-1]})
	}
}

func (s *groupSim) ackRange(m *simMember, r ackRange) {
	s.acks = append(s.acks, r)
	s.actor = m
	s.does("ack of %p: %d to %d", m, r.first, r.last)
	if s.before("ack") {
		s.wake(s.g.Ack(s.now, m.m, r.first, r.last))
	}
	s.model.ack(m, r)
	s.after("ack")
}

func (s *groupSim) leave(m *simMember) {
	if m == nil {
		return
	}
	s.release(m)
	for i, o := range s.members {
		if o == m {
			s.members = append(s.members[:i], s.members[i+1:]...)
			break
		}
	}
	for _, l := range m.leases {
		if n := len(l.offs); n > 0 {
			s.former = append(s.former, ackRange{l.offs[0], l.offs[n-1]})
		}
	}
	s.actor = m
	m.gone = true
	s.model.leave(m)
	if s.before("leave") {
		s.wake(s.g.Leave(m.m))
	}
	s.after("leave")
	s.does("leave of %p: %d members", m, len(s.members))
}

// block turns the state of a member's socket.
func (s *groupSim) block(m *simMember) {
	if m == nil || m.state == waiting {
		return
	}
	s.setBlocked(m, m.state == running)
}

func (s *groupSim) setBlocked(m *simMember, blocked bool) {
	s.does("blocked of %p: %v", m, blocked)
	m.state = running
	if blocked {
		m.state = writing
	}
	s.actor = m
	if s.before("blocked") {
		s.wake(s.g.SetBlocked(m.m, blocked))
	}
	s.after("blocked")
}

func (s *groupSim) expire() {
	s.now = s.now.Add(time.Duration(s.rng.IntN(40)) * time.Second)
	s.does("time goes on")
	s.model.expire()
	if s.before("expire") {
		s.wake(s.g.Expire(s.now))
	}
	s.after("expire")
}

// lose is a member that comes from an epoch which was lost.
func (s *groupSim) lose() {
	if s.model.lost != streampb.Gap_REASON_UNSPECIFIED {
		return // the model knows of one such gap at a time
	}
	s.does("somebody knows of a loss")
	s.model.lose()
	if s.before("lose") {
		s.wake(s.g.Lose())
	}
	s.after("lose")
}

// restart ends the group, as after its linger, and makes it again from a
// cursor that its client has kept, or for a new client.
func (s *groupSim) restart() {
	for len(s.members) > 0 {
		s.leave(s.members[0])
	}
	off, matched := s.g.Low()
	start := Start{Place: PlaceOffset, Offset: off, Matched: matched, Seen: max(s.g.Mark(), s.model.seen)}
	s.g.Close()
	if s.chance(3) {
		start = s.anyStart()
	}
	s.former, s.acks = nil, nil
	s.open(s.model.filter, start)
}
