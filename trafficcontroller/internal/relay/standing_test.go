package relay

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

func batchAt(doppler string, epoch, low, lowMatched, next uint64) *streampb.Batch {
	return &streampb.Batch{Position: &streampb.Position{Doppler: doppler, Epoch: epoch, Low: low, LowMatched: lowMatched, Next: next}}
}

func entries(t *testing.T, s *standing) map[string]*streampb.CursorEntry {
	t.Helper()
	out := map[string]*streampb.CursorEntry{}
	text := s.cursor()
	if text == "" {
		return out
	}
	c, err := stream.DecodeCursor(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range c.GetEntries() {
		out[fmt.Sprintf("%s/%d", e.GetDoppler(), e.GetEpoch())] = e
	}
	return out
}

func TestStandingKeepsWhatTheClientCameWith(t *testing.T) {
	s := &standing{first: []*streampb.CursorEntry{
		{Doppler: "a", Epoch: 1, Offset: 5, Matched: 5}, {Doppler: "a", Epoch: 2, Offset: 7}, {Doppler: "b", Epoch: 1, Offset: 9},
	}}
	if got := entries(t, s); len(got) != 3 || got["a/2"].GetOffset() != 7 {
		t.Errorf("at first: %v", got)
	}
	s.note(batchAt("a", 3, 1, 1, 4))
	if got := entries(t, s); len(got) != 2 || got["a/3"].GetOffset() != 1 || got["a/3"].GetSeen() != 4 || got["b/1"].GetOffset() != 9 {
		t.Errorf("when a has spoken: %v", got)
	}
	if got := entries(t, &standing{}); len(got) != 0 {
		t.Errorf("of nothing: %v", got)
	}
}

// The cursor never lies before what a group has told as its low mark, never
// after it, and a fin counts for its epoch only.
func TestStandingThroughRandomHistories(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		type truth struct {
			epoch, low, matched, seen uint64
			finished                  bool
		}
		s, model := &standing{}, map[string]*truth{}
		for range 300 {
			name := fmt.Sprint("d", rng.IntN(3))
			m := model[name]
			switch {
			case m == nil || rng.IntN(40) == 0:
				epoch := uint64(1)
				if m != nil {
					epoch = m.epoch + 1
				}
				m = &truth{epoch: epoch}
				model[name] = m
			case rng.IntN(20) == 0:
				s.note(&streampb.Batch{Fins: []*streampb.Fin{{Doppler: name, Epoch: m.epoch}}})
				m.finished = m.finished || s.entry(name).GetEpoch() == m.epoch
				continue
			case rng.IntN(20) == 0:
				s.note(&streampb.Batch{Fins: []*streampb.Fin{{Doppler: name, Epoch: m.epoch + 100}}})
				continue
			}
			m.low += rng.Uint64N(5)
			m.matched = m.low / 2
			next := m.low + rng.Uint64N(20)
			m.seen = max(m.seen, next)
			s.note(batchAt(name, m.epoch, m.low, m.matched, next))
			// What a batch under way says may be older.
			s.note(batchAt(name, m.epoch, m.low/2, m.matched/2, m.low/2))
			got := entries(t, s)
			for name, m := range model {
				e := got[fmt.Sprintf("%s/%d", name, m.epoch)]
				if s.entry(name).GetEpoch() != m.epoch {
					continue // has not spoken in this epoch
				}
				if e.GetOffset() != m.low || e.GetMatched() != m.matched || e.GetSeen() != m.seen || e.GetFinished() != m.finished {
					t.Fatalf("seed %d: %s: %v, want %+v", seed, name, e, m)
				}
			}
		}
	}
}

// Whatever is written is paid for, in order and once, before the Doppler has
// to wait for it.
func TestDebtThroughRandomHistories(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		const window = 1000
		var d debt
		var written, paid uint64
		unpaid := 0
		for range 300 {
			written += 1 + rng.Uint64N(3)
			size := rng.IntN(200)
			unpaid += size
			if rng.IntN(50) == 0 {
				size += 2 * window
				unpaid += 2 * window
			}
			if d.add(written, size); d.due(window) != (unpaid >= window/4) {
				t.Fatalf("seed %d: due is %v with %d unpaid", seed, d.due(window), unpaid)
			}
			if d.due(window) || rng.IntN(10) == 0 {
				c, err := stream.DecodeControl(d.pay(nil))
				if err != nil || c.GetSent().GetLease() != written || c.GetSent().GetLease() <= paid {
					t.Fatalf("seed %d: paid %v, %v; written %d, paid before %d", seed, c, err, written, paid)
				}
				paid, unpaid = written, 0
				if again := d.pay(nil); len(again) != 0 {
					t.Fatalf("seed %d: paid twice", seed)
				}
			}
		}
	}
}

// A Doppler that was told to be lost is asked again only for its place.
func TestStandingOfALostDoppler(t *testing.T) {
	s := &standing{}
	s.note(batchAt("a", 3, 1, 1, 4))
	if epoch := s.lose("a"); epoch != 3 || !entries(t, s)["a/3"].GetFinished() || entries(t, s)["a/3"].GetOffset() != 1 {
		t.Errorf("epoch %d, %v", epoch, entries(t, s))
	}
	s.note(batchAt("a", 3, 2, 2, 5))
	if got := entries(t, s)["a/3"]; got.GetFinished() || got.GetOffset() != 2 {
		t.Errorf("when it is back: %v", got)
	}
	if epoch := s.lose("nobody"); epoch != 0 {
		t.Errorf("epoch %d of nobody", epoch)
	}
}
