package reader

import (
	"runtime/debug"
	"slices"
	"testing"
)

// plant is a bug put into a group while it runs: do is called around every
// operation and spoils the machine or keeps it from hearing.
type plant struct {
	name string
	do   func(s *groupSim, at string)
}

// at makes a bug of one place.
func at(place string, do func(s *groupSim)) func(*groupSim, string) {
	return func(s *groupSim, now string) {
		if now == place {
			do(s)
		}
	}
}

// last is the actor's newest lease, nil if it has none.
func (s *groupSim) last() *lease {
	for _, l := range s.g.leases {
		if l != nil && l.member == s.actor.m && l.id == s.actor.m.nextID && !l.done {
			return l
		}
	}
	return nil
}

var groupPlants = []plant{
	{"ack lost", at("before ack", func(s *groupSim) { s.mute = s.chance(4) })},
	{"ack counted twice", at("after ack", func(s *groupSim) {
		if s.g.acked > 0 {
			s.g.acked++
		}
	})},
	{"ack takes the whole lease", at("before ack", func(s *groupSim) {
		for _, l := range s.g.leases {
			if l.member == s.actor.m && l.open > 1 && s.chance(4) {
				s.g.acked += uint64(l.ackAll())
				return
			}
		}
	})},
	{"lease dropped on leave", at("after leave", func(s *groupSim) {
		for _, l := range s.g.again {
			if !l.done && l.member == nil {
				l.done, l.open = true, 0
				s.g.acked += uint64(l.count)
			}
		}
	})},
	{"leases of a gone member kept", at("before leave", func(s *groupSim) { s.mute = true })},
	{"eviction of a leased range without gap", at("before next", func(s *groupSim) {
		for _, l := range s.g.leases {
			if l.first < s.oldest() && l.open > 0 {
				s.g.acked += uint64(l.ackAll())
				l.done, l.lost = true, true
			}
		}
	})},
	{"eviction skipped without gap", at("after append", func(s *groupSim) {
		oldest, gone, _, _ := s.g.evicted()
		if s.g.next < oldest {
			s.g.next, s.g.matched = oldest, max(gone, s.g.matched)
		}
	})},
	{"gap counted twice", at("before next", func(s *groupSim) {
		for _, gap := range s.g.pending {
			gap.Count *= 2
		}
	})},
	{"what has no old form counted twice", at("after next", func(s *groupSim) { s.g.noV1 += s.g.noV1 % 2 })},
	{"what has no old form not counted in a lease", at("after next", func(s *groupSim) {
		if l := s.last(); l != nil {
			l.noV1 = bitmap{}
		}
	})},
	{"group takes a blurred count for a sharp one", at("after open", func(s *groupSim) { s.g.blurred = false })},
	{"gap told twice", at("after next", func(s *groupSim) {
		for _, gap := range s.g.told {
			twin := *gap
			twin.lease = nil
			s.g.pending = append(s.g.pending, &twin)
			return
		}
	})},
	{"gap never told", at("before next", func(s *groupSim) { s.g.pending = nil })},
	{"gap range one too short", at("before next", func(s *groupSim) {
		for _, gap := range s.g.pending {
			if gap.To > gap.From && s.model.state[gap.To-1] == dropped {
				gap.To--
			}
		}
	})},
	{"gap not told again after its member left", at("before leave", func(s *groupSim) {
		for _, l := range s.g.leases {
			if l.member == s.actor.m {
				l.gaps = nil
			}
		}
	})},
	{"part of a gap acks it", at("before ack", func(s *groupSim) {
		r := s.acks[len(s.acks)-1]
		for i := len(s.g.told) - 1; i >= 0; i-- {
			if gap := s.g.told[i]; gap.lease.member == s.actor.m && gap.From >= r.first && gap.From <= r.last && gap.To > r.last+1 {
				s.g.ackGap(gap)
			}
		}
	})},
	{"gap of unknown size told when it is in the socket, whatever comes of it", at("after sent", func(s *groupSim) {
		for i := len(s.g.told) - 1; i >= 0; i-- {
			if gap := s.g.told[i]; gap.lease.member == s.actor.m && gap.From == gap.To && gap.lease.member.hasSent(gap.lease.id) {
				s.g.ackGap(gap)
			}
		}
	})},
	{"matched not advanced", at("after next", func(s *groupSim) {
		if l := s.last(); l != nil && l.count > 0 && s.chance(4) {
			s.g.matched--
		}
	})},
	{"low-water mark too high", at("after next", func(s *groupSim) {
		for i, l := range s.g.leases {
			if l.open > 0 {
				s.g.leases = slices.Delete(slices.Clone(s.g.leases), i, i+1)
				return
			}
		}
	})},
	{"low-water mark stuck", at("after ack", func(s *groupSim) {
		for _, l := range s.g.leases {
			if l.done && s.chance(8) {
				l.done = false
			}
		}
	})},
	{"double grant of a lease", at("after next", func(s *groupSim) {
		if l := s.last(); l != nil && l.open > 0 && s.chance(4) {
			twin := *l
			twin.member = nil
			s.g.again = append(s.g.again, &twin)
		}
	})},
	{"mark set back", at("after next", func(s *groupSim) {
		if l := s.last(); l != nil && l.count > 0 && s.chance(4) {
			s.g.next--
		}
	})},
	{"redelivery not marked", at("before next", func(s *groupSim) {
		for _, l := range s.g.again {
			l.again = false
		}
	})},
	{"seen of the cursor forgotten", at("after open", func(s *groupSim) { s.g.seen = 0 })},
	{"Sent does not open the window", at("before sent", func(s *groupSim) { s.mute = true })},
	{"Sent opens too much", at("after sent", func(s *groupSim) { s.actor.m.out = 0 })},
	{"window for acks not kept", at("before next", func(s *groupSim) {
		s.actor.m.leases = nil
	})},
	{"member never woken by appends", at("before pump", func(s *groupSim) { s.mute = true })},
	{"member never woken", func(s *groupSim, now string) {
		if now == "before sent" || now == "before ack" || now == "before blocked" || now == "before leave" {
			for _, m := range s.g.members {
				m.waiting = false
			}
		}
	}},
	{"socket stays blocked", at("after blocked", func(s *groupSim) { s.actor.m.blocked = true })},
	{"blocked socket is not seen", at("before next", func(s *groupSim) {
		for _, m := range s.g.members {
			if m.blocked {
				m.blocked, m.served = false, 0
			}
		}
	})},
	{"double join", at("after join", func(s *groupSim) { s.g.members = append(s.g.members, s.actor.m) })},
	{"peers wait for one that is gone", at("after leave", func(s *groupSim) {
		s.g.members = append(s.g.members, &Member{waiting: true})
	})},
	{"expiry not done", at("before expire", func(s *groupSim) { s.mute = true })},
	{"expiry too early", at("before expire", func(s *groupSim) {
		for _, l := range s.g.leases {
			l.granted = l.granted.Add(-s.cfg.AckTimeout)
		}
		for _, m := range s.g.members {
			m.progress = m.progress.Add(-s.cfg.AckTimeout)
		}
	})},
	{"name counter off by one", at("after append", func(s *groupSim) {
		if s.g.names != nil && s.g.names.upTo > s.g.next {
			s.g.names.gone++
		}
	})},
	{"name counter misses a segment", at("before append", func(s *groupSim) {
		if s.chance(3) {
			s.group = nil
		} else {
			s.group = s.g
		}
	})},
	{"foreign class let in", at("before next", func(s *groupSim) {
		s.g.match.mask |= 1 << s.rng.IntN(9)
	})},
	{"class left out", at("before next", func(s *groupSim) {
		if s.chance(10) {
			s.g.match.all = false
			s.g.match.mask &^= 1 << s.rng.IntN(9)
		}
	})},
	{"start counted wrong", at("after open", func(s *groupSim) { s.g.start++ })},
	{"gap of unknown size forgotten", at("after open", func(s *groupSim) { s.g.pending = nil })},
	{"loss told again with every member", at("before lose", func(s *groupSim) { s.g.loss = false })},
	{"loss that a later member knows of not told", at("before lose", func(s *groupSim) { s.mute = true })},
	{"source counters forgotten", at("after open", func(s *groupSim) {
		if len(s.g.counted.Of) > 0 {
			s.g.counted.Of[0].Source = s.log.Ref("another")
		}
	})},
	{"recycled under a grant", at("after next", func(s *groupSim) {
		for _, m := range s.members {
			for i := range m.held {
				m.held[i].grant.Release()
			}
		}
	})},
}

// Each planted bug has to be found within a bounded number of histories: the
// invariants mean something.
func TestPlantedGroupBugsAreFound(t *testing.T) {
	for _, p := range groupPlants {
		t.Run(p.name, func(t *testing.T) {
			for seed := uint64(1); seed <= plantSeeds; seed++ {
				if found(func() []string { return runGroup(t, seed, p.do) }) {
					t.Logf("found with seed %d", seed)
					return
				}
			}
			t.Errorf("not found in %d histories", plantSeeds)
		})
	}
}

// plantSeeds is how many histories a planted bug may survive.
const plantSeeds = 300

// found plays a spoiled history; a panic of the spoiled machine counts too,
// and so does a look at memory that it gave back.
func found(play func() []string) (found bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if recover() != nil {
			found = true
		}
	}()
	return len(play()) > 0
}
