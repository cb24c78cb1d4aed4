package reader

import (
	"math/rand/v2"
	"testing"
)

// A lease of any size, with or without holes between its offsets, keeps what
// was acked like a set of offsets does.
func TestLeaseAcksLikeASet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		l := &lease{first: rng.Uint64N(1000), count: 1 + rng.IntN(maxLease)}
		l.open = l.count
		offs := []uint64{l.first}
		holes := rng.IntN(2) == 0
		for i := 1; i < l.count; i++ {
			d := uint32(1)
			if holes {
				d += rng.Uint32N(4)
				l.deltas = append(l.deltas, d)
			}
			offs = append(offs, offs[i-1]+uint64(d))
		}
		acked := map[uint64]bool{}
		for l.open > 0 {
			first := l.first + rng.Uint64N(l.end()-l.first+2) - min(l.first, 1)
			last := first + rng.Uint64N(100)
			fresh := 0
			for _, off := range offs {
				if off >= first && off <= last && !acked[off] {
					acked[off] = true
					fresh++
				}
			}
			if got := l.ack(first, last); got != fresh || l.open != len(offs)-len(acked) {
				t.Fatalf("ack of [%d,%d]: %d fresh and %d open, want %d and %d", first, last, got, l.open, fresh, len(offs)-len(acked))
			}
			checkLease(t, l, offs, acked)
		}
		if l.firstOpen() < l.count || l.ackAll() != 0 {
			t.Fatal("something is open in the end")
		}
	}
}

func checkLease(t *testing.T, l *lease, offs []uint64, acked map[uint64]bool) {
	t.Helper()
	firstOpen := l.count
	for i, off := range offs {
		if l.offset(i) != off || l.isAcked(i) != acked[off] {
			t.Fatalf("envelope %d is %d, acked %v, want %d and %v", i, l.offset(i), l.isAcked(i), off, acked[off])
		}
		if !acked[off] {
			firstOpen = min(firstOpen, i)
		}
	}
	if got := l.firstOpen(); firstOpen < l.count && got != firstOpen || l.end() != offs[len(offs)-1]+1 {
		t.Fatalf("first open %d, end %d, want %d and %d", got, l.end(), firstOpen, offs[len(offs)-1]+1)
	}
}

func TestAckAll(t *testing.T) {
	l := &lease{first: 5, count: 200, open: 200}
	if l.ack(10, 19) != 10 || l.ackAll() != 190 || l.open != 0 || l.firstOpen() < l.count {
		t.Errorf("%d open, first %d", l.open, l.firstOpen())
	}
}
