package reader

import (
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// linkPlant is a bug put into a link while it runs.
type linkPlant struct {
	name string
	do   func(s *linkSim, at string)
}

func when(place string, do func(s *linkSim)) func(*linkSim, string) {
	return func(s *linkSim, now string) {
		if now == place {
			do(s)
		}
	}
}

// someWatch is a watch of the machine.
func (s *linkSim) someWatch() *watch {
	for _, w := range s.watches {
		if m := s.l.watches[w.id]; m != nil {
			return m
		}
	}
	return nil
}

// spoilGaps changes every gap about to be told of a source.
func spoilGaps(change func(g *Gap)) func(*linkSim, string) {
	return when("before next", func(s *linkSim) {
		s.l.settle()
		for _, g := range s.l.gaps {
			if g.Source != "" {
				change(g)
			}
		}
	})
}

var linkPlants = []linkPlant{
	{"counts not restored on resume", when("before resume", func(s *linkSim) { s.mute = true })},
	{"gap without counts", spoilGaps(func(g *Gap) { g.Classes = nil })},
	{"gap with the counts of another class", spoilGaps(func(g *Gap) {
		g.Classes[0], g.Classes[6] = g.Classes[6], g.Classes[0]
	})},
	{"gap counted twice", spoilGaps(func(g *Gap) {
		g.Count *= 2
		for c := range g.Classes {
			g.Classes[c] *= 2
		}
	})},
	{"gap begins too early", spoilGaps(func(g *Gap) { g.From = 0 })},
	{"gap ends too late", spoilGaps(func(g *Gap) { g.To += 20 })},
	{"gap not told", when("before next", func(s *linkSim) {
		s.l.settle()
		s.l.gaps = nil
	})},
	{"gap told twice", when("after next", func(s *linkSim) {
		s.l.settle()
		s.l.gaps = append(s.l.gaps, s.l.gaps...)
	})},
	{"gap told after the envelopes", when("before next", func(s *linkSim) {
		s.l.settle()
		s.l.share()
		gaps := s.l.gaps
		s.l.gaps = nil
		b, _ := s.l.Next()
		b.Release()
		s.l.gaps = append(s.l.gaps, gaps...)
	})},
	{"gap of another source", spoilGaps(func(g *Gap) { g.Source = "z" })},
	{"eviction skipped without gap", when("before next", func(s *linkSim) {
		for _, w := range s.l.watches {
			s.log.EvictedOf([]*ring.Source{w.source}, func(_ int, c *ring.Counts) {
				if s.l.next < s.oldest() {
					w.counts = *c
				}
			})
		}
		s.l.next = max(s.l.next, s.oldest())
	})},
	{"skipped envelopes not told", when("before next", func(s *linkSim) {
		for _, w := range s.l.skipping {
			w.missed = nil
		}
	})},
	{"skipped envelopes told with too few", when("before next", func(s *linkSim) {
		for _, w := range s.l.skipping {
			if w.missed != nil && w.missed.Count > 1 {
				w.missed.Count--
				for c := range w.missed.Classes {
					if w.missed.Classes[c] > 0 {
						w.missed.Classes[c]--
						break
					}
				}
			}
		}
	})},
	{"counts of a watch not advanced", when("after next", func(s *linkSim) {
		if w := s.someWatch(); w != nil && s.chance(4) {
			w.counts[w.id%9]++
		}
	})},
	{"envelope skipped", when("before next", func(s *linkSim) {
		if s.l.next < s.head() && s.chance(4) {
			s.l.next++
		}
	})},
	{"envelope doubled", when("after next", func(s *linkSim) {
		if s.l.next > s.oldest() && s.chance(4) {
			s.l.next--
		}
	})},
	{"removed watch goes on", when("after remove", func(s *linkSim) {
		w := &watch{id: 77, source: s.log.Ref("a")}
		if int(w.source.Number()) < len(s.l.byNumber) && s.l.byNumber[w.source.Number()] == nil {
			s.l.byNumber[w.source.Number()] = w
			s.l.watches[77] = w
		}
	})},
	{"gaps of a removed watch told", when("after remove", func(s *linkSim) {
		s.l.settle()
		for _, g := range s.l.gaps {
			g.watch = nil
		}
	})},
	{"two watches mixed up", when("after add", func(s *linkSim) {
		ids := s.l.watches
		for _, w := range ids {
			w.id ^= 1
			return
		}
	})},
	{"join too early", when("after add", func(s *linkSim) { s.l.replies[len(s.l.replies)-1].Join-- })},
	{"join too late", when("after add", func(s *linkSim) { s.l.replies[len(s.l.replies)-1].Join++ })},
	{"join with counts of now", when("after add", func(s *linkSim) {
		r := s.l.replies[len(s.l.replies)-1]
		if src, ok := s.log.Find(r.SourceId); ok && r.ClassCounts != nil {
			now := s.log.Totals(src)
			r.ClassCounts = now[:]
		}
	})},
	{"answer lost", when("before next", func(s *linkSim) {
		if s.chance(4) {
			s.l.replies = nil
		}
	})},
	{"answers out of order", when("before next", func(s *linkSim) { slices.Reverse(s.l.replies) })},
	{"refusal without its reason", when("after add", func(s *linkSim) { s.l.replies[len(s.l.replies)-1].Error = "" })},
	{"limit of watches not kept", when("after open", func(s *linkSim) { s.l.cfg.MaxWatches++ })},
	{"limit of a batch not kept", when("after open", func(s *linkSim) { s.l.cfg.BatchEnvelopes *= 2 })},
	{"bytes of a batch not kept", when("after open", func(s *linkSim) { s.l.cfg.BatchBytes *= 2 })},
	{"class changed", when("after next", func(s *linkSim) {
		if len(s.l.class) > 0 {
			s.l.class[0]++
		}
	})},
	{"link not woken", when("before pump", func(s *linkSim) { s.mute, s.idle = true, true })},
	{"gap of unknown size forgotten", when("after open", func(s *linkSim) { s.l.gaps = nil })},
	{"recycled under a batch", when("after next", func(s *linkSim) {
		for i := range s.held {
			s.held[i].batch.Release()
		}
	})},
}

func TestPlantedLinkBugsAreFound(t *testing.T) {
	for _, p := range linkPlants {
		t.Run(p.name, func(t *testing.T) {
			for seed := uint64(1); seed <= plantSeeds; seed++ {
				if found(func() []string { return runLink(t, seed, p.do) }) {
					t.Logf("found with seed %d", seed)
					return
				}
			}
			t.Errorf("not found in %d histories", plantSeeds)
		})
	}
}
