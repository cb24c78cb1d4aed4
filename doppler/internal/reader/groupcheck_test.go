package reader

import (
	"fmt"
	"testing"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// check compares the group with the model after a step.
func (x *groupModel) check() {
	x.checkAccount()
	x.checkLow()
	x.checkLiveness()
}

func (x *groupModel) tally() (n [dropped + 1]uint64) {
	for _, state := range x.state {
		n[state]++
	}
	return n
}

// checkAccount is the promise: accepted = acked + dropped + in flight + to be
// granted again + lag, and each is what the model has.
func (x *groupModel) checkAccount() {
	s := x.sim
	n := x.tally()
	want := Account{Acked: n[acked], Dropped: n[dropped], InFlight: n[inFlight], Again: n[again], Lag: n[lagging]}
	if x.filter.named() {
		want.Lag = 0 // not known
	}
	want.Accepted = want.Acked + want.Dropped + want.InFlight + want.Again + want.Lag
	if got := s.g.Account(); got != want {
		s.fault("account %+v, want %+v", got, want)
	}
}

// checkLow makes sure that low is as high as it can be and no higher.
func (x *groupModel) checkLow() {
	s := x.sim
	off, matched := s.g.Low()
	settled, unknown := x.base, false
	first := s.g.Mark()
	for _, gap := range x.gaps {
		unknown = unknown || gap.unknown && !gap.acked
	}
	for i := x.start; i < s.head(); i++ {
		if x.state[i] == outside {
			continue
		}
		if x.state[i] == acked || x.state[i] == dropped && x.told[i] != nil && x.told[i].acked {
			settled++
			continue
		}
		first = min(first, i)
		break
	}
	if off < x.start {
		s.fault("low is %d below the start %d", off, x.start)
	}
	if off > first {
		s.fault("low is %d but %d is not settled", off, first)
	}
	if n := x.matchedBelow(off); matched != n {
		s.fault("low says %d matched below %d, want %d", matched, off, n)
	}
	if matched != settled && !unknown {
		s.fault("low has %d settled below %d, want %d", matched, off, settled)
	}
	if s.g.Mark() > s.head() {
		s.fault("the mark is %d, head %d", s.g.Mark(), s.head())
	}
}

// checkLiveness: as long as there is something for a member that could take
// it, somebody is running.
func (x *groupModel) checkLiveness() {
	s := x.sim
	if s.dirty {
		return
	}
	for _, m := range s.members {
		if m.state == running {
			return
		}
	}
	for _, m := range s.members {
		if m.state == waiting && len(m.unsent) == 0 && len(m.leases) == 0 {
			if why := x.due(m); why != "" {
				s.fault("everybody waits although %s for a member that has nothing", why)
			}
		}
	}
}

// finish ends the history: every client takes and acks everything. Only
// members that are woken are driven.
func (s *groupSim) finish() {
	if len(s.members) == 0 {
		s.join(true)
	}
	s.pump()
	for _, m := range s.members {
		if m.state == writing {
			s.setBlocked(m, false)
		}
	}
	for busy := true; busy && len(s.faults) == 0; {
		busy = false
		for _, m := range s.members {
			for m.state == running && len(s.faults) == 0 {
				s.next(m)
				busy = true
			}
			if n := len(m.unsent); n > 0 {
				s.sentUpTo(m, m.unsent[n-1].id)
				busy = true
			}
			for len(m.leases) > 0 && len(s.faults) == 0 {
				before := len(m.leases)
				s.ackAllOf(m, m.leases[0])
				if len(m.leases) == before {
					s.fault("a lease is not settled by its acks: %+v", *m.leases[0])
				}
				busy = true
			}
			s.model.check()
		}
	}
	s.model.checkEnd()
}

func (x *groupModel) checkEnd() {
	s := x.sim
	if len(s.faults) > 0 {
		return
	}
	n := x.tally()
	if n[lagging]+n[inFlight]+n[again] != 0 {
		s.fault("in the end %d lag, %d are in flight, %d wait to be granted again", n[lagging], n[inFlight], n[again])
	}
	for i, state := range x.state {
		if state == dropped && x.told[i] == nil {
			s.fault("%d was lost silently", i)
		}
		if state == acked && x.deliveries[i] == 0 {
			s.fault("%d is acked and was never delivered", i)
		}
	}
	if x.lost != streampb.Gap_REASON_UNSPECIFIED {
		s.fault("the gap of unknown size was never told")
	}
	if !s.g.Drained() {
		s.fault("the group is not drained")
	}
	if off, _ := s.g.Low(); off != s.head() {
		s.fault("in the end low is %d, head %d", off, s.head())
	}
}

// runGroup plays the history of a seed and returns what went wrong.
func runGroup(t testing.TB, seed uint64, plant func(*groupSim, string)) []string {
	t.Helper()
	s := newGroupSim(t, seed)
	defer s.close()
	s.plant = plant

	for i := range 30 + s.rng.IntN(120) {
		s.step()
		if len(s.faults) > 0 {
			return append(s.faults, fmt.Sprintf("at step %d", i))
		}
	}
	s.finish()
	return s.faults
}

func TestGroupHistories(t *testing.T) {
	if *groupSeed != 0 {
		if faults := runGroup(t, *groupSeed, nil); faults != nil {
			t.Fatal(faults)
		}
		return
	}
	for seed := uint64(1); seed <= groupHistories; seed++ {
		if faults := runGroup(t, seed, nil); faults != nil {
			t.Fatalf("seed %d: %v (replay with -group.seed=%d -history)", seed, faults, seed)
		}
	}
}
