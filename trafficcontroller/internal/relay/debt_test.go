package relay

import (
	"math/rand/v2"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
)

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
