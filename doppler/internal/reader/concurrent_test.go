package reader

import (
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// rush is a ring that is appended to and evicted while readers run, each
// under its own lock, as in the server.
type rush struct {
	w    *world
	log  *ring.Ring
	mu   sync.Mutex // of the groups that count names
	hook []*Group
	done chan struct{}
}

func newRush(t *testing.T) *rush {
	r := &rush{done: make(chan struct{})}
	r.w = newWorld(t, 1, func(c *ring.Config) {
		c.SegmentBytes, c.Bytes, c.MaxIdleSources = 4<<10, 64<<10, 100
		c.BeforeEvict = func(chunk ring.Chunk) {
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, g := range r.hook {
				g.BeforeEvict(chunk)
			}
		}
	})
	r.log = r.w.log
	t.Cleanup(r.w.close)
	return r
}

// append adds count envelopes in batches and ends the rush.
func (r *rush) append(count int) {
	defer close(r.done)
	var recs []envelope.Record
	var msg []byte
	for n := 0; n < count; {
		msg = msg[:0]
		for range 1 + r.w.rng.IntN(20) {
			msg = append(msg, r.w.make(r.w.source(), r.w.rng.IntN(kinds), r.w.rng.IntN(40)).record...)
			n++
		}
		recs, _ = envelope.ScanBatch(msg, envelope.Limits{}, recs[:0])
		r.log.Append(msg, recs)
		if r.w.rng.IntN(10) == 0 {
			r.log.EvictAhead()
		}
	}
}

func (r *rush) over() bool {
	select {
	case <-r.done:
		return true
	default:
		return false
	}
}

// member takes batches of g, which mu guards, until the rush is over and there
// is nothing left, and returns how many it got and was told to have missed.
func (r *rush) member(t *testing.T, g *Group, mu *sync.Mutex, pause bool) (got, missed uint64) {
	mu.Lock()
	m := g.Join(time.Now(), true)
	mu.Unlock()
	for n := 0; ; n++ {
		over := r.over()
		mu.Lock()
		grant, status, _ := g.Next(time.Now(), m)
		mu.Unlock()
		if status != Granted {
			if over && status == Idle {
				return got, missed
			}
			continue
		}
		if size := len(join(grant.Pieces)); size != grant.Bytes {
			t.Errorf("%d bytes, want %d", size, grant.Bytes)
		}
		seen := 0
		for _, p := range grant.Pieces {
			for range envelope.Walk(p) {
				seen++
			}
		}
		if seen != grant.Count {
			t.Errorf("%d envelopes, want %d", seen, grant.Count)
		}
		grant.Release()
		got += uint64(grant.Count)
		for _, gap := range grant.Gaps {
			missed += gap.Count
		}
		if pause && n%20 == 0 {
			for to := r.log.Head(); r.log.Oldest() < to && !r.over(); {
				_ = r.log.Stats()
			}
		}
		mu.Lock()
		g.Sent(m, grant.Lease)
		g.Ack(time.Now(), m, 0, grant.Next)
		mu.Unlock()
	}
}

// What was appended is delivered once or told, to the envelope, with the ring
// running over the readers all the time. A lease that was evicted before its
// ack was received and acked all the same.
func TestGroupsInARush(t *testing.T) {
	r := newRush(t)
	filters := []Filter{
		everything(),
		{{Mask: envelope.Mask(envelope.Log, envelope.Counter)}},
		{{Mask: envelope.AllClasses, Sources: []string{"a", "c"}}},
		{{Mask: envelope.AllClasses, Names: []string{"x", "w"}}},
		{{Mask: envelope.Mask(envelope.Log), Sources: []string{"a"}}, {Mask: envelope.Mask(envelope.Counter)}},
		{{Mask: envelope.Mask(envelope.Event)}, {Mask: envelope.AllClasses, Names: []string{"x"}}, {Mask: envelope.AllClasses, Names: []string{"w"}, Exact: true}},
	}
	var wg sync.WaitGroup
	for i, f := range filters {
		g := NewGroup(r.log, f, Config{}, Start{})
		t.Cleanup(g.Close)
		if g.CountsNames() {
			r.hook = append(r.hook, g)
		}
		var mu sync.Mutex
		var all sync.WaitGroup
		var total, lost [2]uint64
		for k := range 2 {
			all.Go(func() { total[k], lost[k] = r.member(t, g, &mu, k == 1) })
		}
		wg.Go(func() {
			all.Wait()
			a := g.Account()
			if got, missed := total[0]+total[1], lost[0]+lost[1]; got != a.Acked || missed != a.Dropped || a.Accepted != got+missed {
				t.Errorf("group %d: got %d and missed %d, account %+v", i, got, missed, a)
			}
			if !g.Drained() {
				t.Errorf("group %d is not drained", i)
			}
		})
	}
	wg.Go(func() { r.append(20 * groupHistories) })
	wg.Wait()
}

// The same for a link whose watches come and go.
func TestLinkInARush(t *testing.T) {
	r := newRush(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	l := NewLink(r.log, LinkConfig{ShareBytes: 8 << 10}, Start{})
	l.Add(1, 1, "a", nil)
	l.Add(2, 2, "b", nil)
	wg.Go(func() {
		for id := uint32(10); !r.over(); id++ {
			mu.Lock()
			l.Add(uint64(id), id, "c", nil)
			mu.Unlock()
			_ = r.log.Stats()
			mu.Lock()
			l.Remove(id)
			mu.Unlock()
		}
	})
	got := map[string]uint64{}
	wg.Go(func() {
		for {
			over := r.over()
			mu.Lock()
			b, more := l.Next()
			for _, id := range b.Watches {
				got[map[uint32]string{1: "a", 2: "b"}[id]]++
			}
			mu.Unlock()
			for _, g := range b.Gaps {
				got[g.Source] += g.Count
			}
			b.Release()
			if over && !more && b.Count == 0 && len(b.Gaps) == 0 {
				return
			}
		}
	})
	wg.Go(func() { r.append(20 * linkHistories) })
	wg.Wait()
	for _, id := range []string{"a", "b"} {
		s, _ := r.log.Find(id)
		want := r.log.Totals(s)
		if got[id] != want.Sum(envelope.AllClasses) {
			t.Errorf("%q: received and told %d of %d", id, got[id], want.Sum(envelope.AllClasses))
		}
	}
	l.Close()
}
