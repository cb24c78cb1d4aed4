package reader

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// roomy is a world whose ring holds some thousands of small envelopes.
func roomy(t testing.TB) *world {
	t.Helper()
	w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 0, 4<<20 })
	t.Cleanup(w.close)
	return w
}

func everything() Filter { return Filter{{Mask: envelope.AllClasses}} }

// server drives the members of a group as their sessions would, in any order,
// with time for each grant in the member's hands.
type server struct {
	*world
	g       *Group
	rng     *rand.Rand
	members []*served
}

type served struct {
	m      *Member
	awake  bool
	got    int
	seen   map[uint64]bool
	leases []Grant
	keep   int  // grants to have in hand before saying Sent and Ack
	stuck  bool // takes its grants and says nothing
}

func newServer(t *testing.T, w *world, members int, acking bool) *server {
	t.Helper()
	s := &server{world: w, rng: rand.New(rand.NewPCG(uint64(members), 7))}
	s.g = NewGroup(w.log, everything(), Config{}, Start{})
	t.Cleanup(s.g.Close)
	for range members {
		s.join(acking)
	}
	return s
}

func (s *server) join(acking bool) *served {
	m := &served{m: s.g.Join(s.now, acking), awake: true, seen: map[uint64]bool{}}
	s.members = append(s.members, m)
	return m
}

func (s *server) wake(list []*Member) {
	for _, w := range list {
		for _, m := range s.members {
			if m.m == w {
				m.awake = true
			}
		}
	}
}

// run lets members take what there is until all of them wait.
func (s *server) run(t *testing.T) {
	t.Helper()
	s.wake(s.g.Appended())
	for {
		var ready []*served
		for _, m := range s.members {
			if m.awake || len(m.leases) > m.keep && !m.stuck {
				ready = append(ready, m)
			}
		}
		if len(ready) == 0 {
			return
		}
		m := ready[s.rng.IntN(len(ready))]
		if len(m.leases) > m.keep && !m.stuck {
			s.done(m)
			continue
		}
		s.take(t, m)
	}
}

func (s *server) take(t *testing.T, m *served) {
	t.Helper()
	grant, status, wake := s.g.Next(s.now, m.m)
	s.wake(wake)
	if status != Granted {
		m.awake = status == More
		return
	}
	for _, off := range s.unpack(grant.First, grant.Count, grant.Deltas) {
		if m.seen[off] && !grant.Redelivered {
			t.Errorf("%d twice", off)
		}
		m.seen[off] = true
	}
	m.got += grant.Count
	grant.Release()
	m.leases = append(m.leases, grant)
}

// done says that the member's oldest grant is written and taken.
func (s *server) done(m *served) {
	l := m.leases[0]
	m.leases = m.leases[1:]
	s.wake(s.g.Sent(m.m, l.Lease))
	if m.m.Acking() && l.Count > 0 {
		s.wake(s.g.Ack(s.now, m.m, l.First, l.Next-1))
	}
}

// Equal members get equal shares, within 5 % over 10,000 envelopes, whatever
// the order in which they run, and nothing twice or not at all.
func TestEqualMembersGetEqualShares(t *testing.T) {
	for k := 2; k <= 10; k++ {
		for _, burst := range []int{1, 40, 10_000} {
			t.Run(fmt.Sprintf("members=%d/burst=%d", k, burst), func(t *testing.T) {
				w := roomy(t)
				s := newServer(t, w, k, true)
				for n := 0; n < 10_000; n += burst {
					for range burst {
						w.append(w.make("a", 0, 0))
					}
					s.run(t)
				}
				all := map[uint64]bool{}
				for i, m := range s.members {
					if share := float64(m.got) * float64(k) / 10_000; share < 0.95 || share > 1.05 {
						t.Errorf("member %d got %d of 10000, %.3f of its share", i, m.got, share)
					}
					for off := range m.seen {
						all[off] = true
					}
					if granted, acked := m.m.Counters(); granted != uint64(m.got) || acked != granted {
						t.Errorf("member %d has %d granted, %d acked, got %d", i, granted, acked, m.got)
					}
				}
				if len(all) != 10_000 || !s.g.Drained() {
					t.Errorf("%d of 10000 were delivered, drained %v", len(all), s.g.Drained())
				}
			})
		}
	}
}

// The fairness test means something: it finds a member that is served first.
func TestPlantedUnfairnessIsFound(t *testing.T) {
	w := roomy(t)
	s := newServer(t, w, 3, true)
	for range 10_000 {
		w.append(w.make("a", 0, 0))
		s.members[0].m.served = 0
		s.run(t)
	}
	if share := float64(s.members[0].got) * 3 / 10_000; share <= 1.05 {
		t.Errorf("a member that is never counted got %.3f of its share", share)
	}
}

// A member that stops taking sheds to its peers and delays nobody; when it
// takes again it gets at most a bounded part before them.
func TestSlowMembersShed(t *testing.T) {
	for name, stop := range map[string]func(s *server, m *served){
		"stuck":   func(_ *server, m *served) { m.stuck = true },
		"blocked": func(s *server, m *served) { s.wake(s.g.SetBlocked(m.m, true)) },
	} {
		t.Run(name, func(t *testing.T) {
			w := roomy(t)
			s := newServer(t, w, 3, true)
			s.g.cfg.WindowOffsets = func() uint64 { return 1000 }
			slow := s.members[0]
			stop(s, slow)
			appendLogs(w, 9000)
			s.run(t)
			if got := s.members[1].got + s.members[2].got + slow.got; got != 9000 || slow.got > 2000 {
				t.Fatalf("%d of 9000 were delivered, %d to the slow member", got, slow.got)
			}
			slow.stuck = false
			s.wake(s.g.SetBlocked(slow.m, false))
			for len(slow.leases) > 0 {
				s.done(slow)
			}
			before := []int{slow.got, s.members[1].got, s.members[2].got}
			appendLogs(w, 9000)
			s.run(t)
			if got := slow.got - before[0]; got < 3000+maxBehind/2 || got > 3000+2*maxBehind {
				t.Errorf("back again it got %d of 9000", got)
			}
			if !s.g.Drained() {
				t.Error("the group is not drained")
			}
		})
	}
}

// Who joins late gets its share from then on, not what it has missed.
func TestLateMembersGetTheirShare(t *testing.T) {
	w := roomy(t)
	s := newServer(t, w, 2, true)
	appendLogs(w, 6000)
	s.run(t)
	late := s.join(true)
	for range 60 {
		appendLogs(w, 100)
		s.run(t)
	}
	if late.got < 1900 || late.got > 2100 {
		t.Errorf("the late member got %d of 6000 that three share", late.got)
	}
}

// A member that may have what was granted before is woken when the one before
// it looked in vain for something new.
func TestReturnedLeasesWaitForNobody(t *testing.T) {
	w := roomy(t)
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"mine"}}}, Config{}, Start{})
	defer g.Close()
	gone, acking := g.Join(w.now, true), g.Join(w.now, true)
	w.logs("mine", 10)
	for _, m := range []*Member{gone, acking} {
		w.logs("mine", 10)
		grant, status, _ := g.Next(w.now, m)
		if status != Granted {
			t.Fatalf("status %v", status)
		}
		grant.Release()
	}
	auto := g.Join(w.now, false)
	auto.served--
	for _, m := range []*Member{auto, acking} {
		if _, status, _ := g.Next(w.now, m); status != Idle {
			t.Fatalf("status %v", status)
		}
	}
	w.logs("foreign", 10)
	if wake := g.Leave(gone); len(wake) != 1 || wake[0] != auto {
		t.Fatalf("woke %d, want the one whose turn it is", len(wake))
	}
	if _, status, _ := g.Next(w.now, acking); status != Wait {
		t.Fatalf("status %v", status)
	}
	_, status, wake := g.Next(w.now, auto)
	if status != Idle || len(wake) != 1 || wake[0] != acking {
		t.Fatalf("status %v, woke %d", status, len(wake))
	}
	grant, status, _ := g.Next(w.now, acking)
	if status != Granted || !grant.Redelivered {
		t.Errorf("status %v, granted %+v", status, grant)
	}
	grant.Release()
}

// What comes back is old, but the window for acks counts from when it was
// granted: a client that acks seldom gets all of it in a row.
func TestReturnedLeasesFitTheWindow(t *testing.T) {
	w := roomy(t)
	cfg := Config{LeaseEnvelopes: 10, WindowOffsets: func() uint64 { return 200 }}
	g := NewGroup(w.log, everything(), cfg, Start{})
	defer g.Close()
	dead, alive := g.Join(w.now, true), g.Join(w.now, true)
	take := func(m *Member, ack bool) (n int) {
		for {
			grant, status, _ := g.Next(w.now, m)
			if status != Granted {
				return n
			}
			n += grant.Count
			grant.Release()
			g.Sent(m, grant.Lease)
			if ack {
				g.Ack(w.now, m, grant.First, grant.Next-1)
			}
		}
	}
	g.SetBlocked(alive, true)
	appendLogs(w, 150)
	if n := take(dead, false); n != 150 {
		t.Fatalf("granted %d of 150", n)
	}
	g.SetBlocked(alive, false)
	g.SetBlocked(dead, true)
	appendLogs(w, 2000)
	if n := take(alive, true); n != 2000 {
		t.Fatalf("granted %d of 2000", n)
	}
	g.Leave(dead)
	if n := take(alive, false); n != 150 {
		t.Errorf("granted %d of the 150 that came back", n)
	}
	appendLogs(w, 1000)
	if n := take(alive, false); n < 190 || n > 210 {
		t.Errorf("granted %d more with a window of 200", n)
	}
}

func appendLogs(w *world, n int) {
	for range n {
		w.append(w.make("a", 0, 0))
	}
}

// What a member does not ack in time is given to another that acks, not to
// one for whom only the server could.
func TestExpiredLeasesGoToAckingMembers(t *testing.T) {
	w := roomy(t)
	s := newServer(t, w, 1, true)
	silent := s.members[0]
	silent.stuck = true
	appendLogs(w, 10)
	s.run(t)
	auto, acking := s.join(false), s.join(true)
	s.now = s.now.Add(29 * time.Second)
	s.wake(s.g.Expire(s.now))
	s.run(t)
	if auto.got+acking.got != 0 {
		t.Fatalf("%d and %d were given away before the time", auto.got, acking.got)
	}
	s.now = s.now.Add(time.Second)
	s.wake(s.g.SetBlocked(silent.m, true))
	s.wake(s.g.Expire(s.now))
	s.run(t)
	if auto.got != 0 || acking.got != 10 {
		t.Errorf("the auto member got %d, the acking one %d, want 0 and 10", auto.got, acking.got)
	}
	if a := s.g.Account(); a.Acked != 10 || a.Accepted != 10 {
		t.Errorf("account %+v", a)
	}
}

// A member alone for which the server acks keeps its leases: nobody else could
// have them, and the bytes are on their way.
func TestLoneAutoMemberKeepsItsLeases(t *testing.T) {
	w := roomy(t)
	s := newServer(t, w, 1, false)
	m := s.members[0]
	m.stuck = true
	appendLogs(w, 10)
	s.run(t)
	s.now = s.now.Add(time.Hour)
	s.wake(s.g.Expire(s.now))
	s.run(t)
	if a := s.g.Account(); m.got != 10 || a.InFlight != 10 {
		t.Errorf("got %d, account %+v", m.got, a)
	}
	// With a second one there is somebody.
	other := s.join(false)
	s.wake(s.g.SetBlocked(m.m, true))
	s.wake(s.g.Expire(s.now))
	s.run(t)
	if a := s.g.Account(); other.got != 10 || a.Acked != 10 {
		t.Errorf("the other got %d, account %+v", other.got, a)
	}
}

// Progress extends the time of all leases of a member, by Ack or by Sent.
func TestProgressExtendsLeases(t *testing.T) {
	for _, acking := range []bool{true, false} {
		w := roomy(t)
		s := newServer(t, w, 2, acking)
		a, b := s.members[0], s.members[1]
		b.stuck, a.keep = true, 1
		s.g.cfg.LeaseEnvelopes = 10
		a.stuck = true
		appendLogs(w, 100)
		s.run(t)
		for range 3 {
			s.now = s.now.Add(20 * time.Second)
			s.done(a)
			s.wake(s.g.Expire(s.now))
		}
		again := s.g.Account().Again
		if again != uint64(b.got) {
			t.Errorf("acking %v: %d are to be granted again, want those of the silent member, %d", acking, again, b.got)
		}
	}
}

// A batch that is a gap alone is told again when its ack is lost, so that it
// does not hold the low-water mark for ever.
func TestUnackedGapIsToldAgain(t *testing.T) {
	w := forgetful(t)
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"s"}}}, Config{}, Start{})
	defer g.Close()
	m := g.Join(w.now, true)
	w.logs("s", 3)
	w.churn("other")
	first, status, _ := g.Next(w.now, m)
	if status != Granted || first.Count != 0 || len(first.Gaps) != 1 || first.Gaps[0].Count != 3 {
		t.Fatalf("status %v, granted %+v, gaps %s", status, first, show(first.Gaps))
	}
	g.Sent(m, first.Lease)
	if _, status, _ := g.Next(w.now, m); status != Idle {
		t.Fatalf("status %v", status)
	}
	if wake := g.Expire(w.now.Add(29 * time.Second)); wake != nil {
		t.Error("the gap's time was over too early")
	}
	if wake := g.Expire(w.now.Add(30 * time.Second)); len(wake) != 1 {
		t.Error("nobody is woken to be told again")
	}
	again, _, _ := g.Next(w.now, m)
	if len(again.Gaps) != 1 || show(again.Gaps) != show(first.Gaps) {
		t.Errorf("told %s, then %s", show(first.Gaps), show(again.Gaps))
	}
	if off, _ := g.Low(); off != again.Gaps[0].From || g.Drained() {
		t.Errorf("low is %d, drained %v before the ack", off, g.Drained())
	}
	g.Ack(w.now, m, again.Gaps[0].From, again.Gaps[0].To-1)
	if off, _ := g.Low(); off != w.head() || !g.Drained() {
		t.Errorf("low is %d of %d, drained %v", off, w.head(), g.Drained())
	}
}

// An ack of what was handed out over a lost connection may come after a gap was
// told over the next one, and says nothing of that gap: should that connection
// be lost as well, the client has never heard of it.
func TestLateAckSettlesNoGap(t *testing.T) {
	for name, late := range map[string]func(lost, held []Grant) (first, last uint64){
		"of what is granted with the gap": func(_, held []Grant) (uint64, uint64) { return held[0].First, held[0].First },
		"of a part of the gap":            func(lost, _ []Grant) (uint64, uint64) { return lost[0].First, lost[0].First },
	} {
		t.Run(name, func(t *testing.T) {
			w := forgetful(t)
			g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"s"}}}, Config{}, Start{})
			defer g.Close()
			m := g.Join(w.now, true)
			next := func() Grant {
				t.Helper()
				grant, status, _ := g.Next(w.now, m)
				if status != Granted {
					t.Fatalf("status %v", status)
				}
				grant.Release()
				return grant
			}
			grants := func(n int) (list []Grant) {
				for range n {
					w.logs("s", 1)
					list = append(list, next())
				}
				return list
			}
			lost := grants(2)
			w.churn("other")
			held := grants(1)
			g.Leave(m)

			m = g.Join(w.now, true)
			told := next()
			if told.Count != 1 || len(told.Gaps) != 1 || told.Gaps[0].Count != 2 {
				t.Fatalf("granted %+v, gaps %s", told, show(told.Gaps))
			}
			first, last := late(lost, held)
			g.Ack(w.now, m, first, last)
			g.Leave(m)

			m = g.Join(w.now, true)
			if again := next(); show(again.Gaps) != show(told.Gaps) {
				t.Errorf("told %s, and after a late ack %s", show(told.Gaps), show(again.Gaps))
			}
			g.Ack(w.now, m, told.Gaps[0].From, told.Gaps[0].To-1)
			if a := g.Account(); len(g.told)+len(g.pending) != 0 || a.Dropped != 2 {
				t.Errorf("the gap is not settled by its own ack: %+v", a)
			}
		})
	}
}

// An ack of all that was given up settles the gap, although its client may not
// have been told: it has the envelopes. They stay counted as dropped.
func TestLateAckOfWhatWasGivenUp(t *testing.T) {
	w := forgetful(t)
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"s"}}}, Config{}, Start{})
	defer g.Close()
	m := g.Join(w.now, true)
	w.logs("s", 2)
	had, _, _ := g.Next(w.now, m)
	had.Release()
	w.churn("other")
	g.Leave(m)

	m = g.Join(w.now, true)
	if told, _, _ := g.Next(w.now, m); len(told.Gaps) != 1 || told.Gaps[0].Count != 2 {
		t.Fatalf("told %s", show(told.Gaps))
	}
	g.Ack(w.now, m, had.First, had.First+1)
	g.Leave(m)

	m = g.Join(w.now, true)
	if again, status, _ := g.Next(w.now, m); status != Idle {
		t.Errorf("status %v, told %s", status, show(again.Gaps))
	}
	if a := g.Account(); a.Dropped != 2 || a.Acked != 0 || !g.Drained() {
		t.Errorf("account %+v, drained %v", a, g.Drained())
	}
}

// Gaps that are told stay as they were told.
func TestToldGapsDoNotGrow(t *testing.T) {
	w := forgetful(t)
	g := NewGroup(w.log, everything(), Config{}, Start{})
	defer g.Close()
	m := g.Join(w.now, true)
	w.logs("a", 1)
	w.churn("a")
	grant, status, _ := g.Next(w.now, m)
	if status != Granted || len(grant.Gaps) != 1 {
		t.Fatalf("status %v, gaps %s", status, show(grant.Gaps))
	}
	grant.Release()
	gap := *grant.Gaps[0]
	g.Leave(m)
	w.churn("a")
	m = g.Join(w.now, true)
	again, _, _ := g.Next(w.now, m)
	again.Release()
	if len(again.Gaps) < 2 || again.Gaps[0].From != gap.From || again.Gaps[0].To != gap.To || again.Gaps[0].Count != gap.Count {
		t.Errorf("told %s first, then %s", show(grant.Gaps), show(again.Gaps))
	}
}

// A long stretch without a match is looked at in pieces.
func TestNextLooksInPieces(t *testing.T) {
	w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 0, 16<<20 })
	defer w.close()
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"rare"}}}, Config{}, Start{})
	defer g.Close()
	m := g.Join(w.now, true)
	appendLogs(w, 2*maxLook+100)
	w.append(w.make("rare", 0, 0))
	more := 0
	for {
		grant, status, _ := g.Next(w.now, m)
		if status == Granted {
			if grant.First != w.head()-1 || grant.Count != 1 || grant.Matched != 0 {
				t.Errorf("granted %+v", grant)
			}
			grant.Release()
			break
		}
		if more++; status != More || more > 3 {
			t.Fatalf("status %v after %d", status, more)
		}
	}
	if more < 1 {
		t.Error("all of it in one call")
	}
}

// Appended wakes nobody for envelopes that do not match, and the mark goes on.
func TestAppendedWakesForMatchesOnly(t *testing.T) {
	w := roomy(t)
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"mine"}}}, Config{}, Start{})
	defer g.Close()
	m := g.Join(w.now, true)
	if _, status, _ := g.Next(w.now, m); status != Idle {
		t.Fatalf("status %v", status)
	}
	appendLogs(w, 50)
	if wake := g.Appended(); wake != nil || g.Mark() != 50 {
		t.Errorf("woke %d for foreign envelopes, mark %d", len(wake), g.Mark())
	}
	w.append(w.make("mine", 0, 0))
	if wake := g.Appended(); len(wake) != 1 || wake[0] != m {
		t.Errorf("woke %d", len(wake))
	}
	if wake := g.Appended(); wake != nil {
		t.Error("woke a member that is awake")
	}
}

// A group that lingers is drained when nothing of the rest matches.
func TestLingeringGroupDrains(t *testing.T) {
	w := roomy(t)
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses, Sources: []string{"mine"}}}, Config{}, Start{})
	defer g.Close()
	appendLogs(w, 50)
	if !g.Drained() {
		t.Error("not drained although nothing matches")
	}
	w.append(w.make("mine", 0, 0))
	if g.Drained() {
		t.Error("drained although one matches")
	}
}

// The loss that a cursor of another epoch means is told, first and once, until
// the batch that says it is in the client's socket.
func TestLossOfAnEpochIsToldOnce(t *testing.T) {
	for _, held := range []uint64{0, 5} {
		w := roomy(t)
		appendLogs(w, int(held))
		g := NewGroup(w.log, everything(), Config{}, Start{Place: PlaceOrigin, Lost: streampb.Gap_DOPPLER_LOST})
		defer g.Close()
		tell := func(m *Member) Grant {
			grant, _, _ := g.Next(w.now, m)
			grant.Release()
			if len(grant.Gaps) != 1 || grant.Gaps[0].Reason != streampb.Gap_DOPPLER_LOST ||
				grant.Gaps[0].Precision != streampb.Gap_UNKNOWN || grant.Count != int(held) {
				t.Fatalf("granted %+v with gaps %s", grant, show(grant.Gaps))
			}
			return grant
		}
		first := g.Join(w.now, true)
		tell(first)
		g.Leave(first)
		m := g.Join(w.now, true)
		m.nextID = 7
		grant := tell(m)
		g.Sent(m, grant.Lease-1)
		if g.Drained() || len(g.told) != 1 {
			t.Errorf("%d held: drained before the loss is known to be told", held)
		}
		g.Sent(m, grant.Lease)
		g.Ack(w.now, m, 0, held)
		if off, _ := g.Low(); off != held || !g.Drained() {
			t.Errorf("%d held: low is %d, drained %v", held, off, g.Drained())
		}
	}
}
