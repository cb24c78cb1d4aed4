package egress

import (
	"flag"
	"testing"
	"testing/synctest"
)

var pathSeed = flag.Uint64("path.seed", 0, "replay the random history of the Firehose of this seed alone, and print it")

// runPath plays the history of a seed and returns what went wrong.
func runPath(t testing.TB, seed uint64, plant pathPlant) []string {
	w := newPathWorld(t, seed, plant, seed == *pathSeed)
	defer w.close()
	for range 100 + w.rng.IntN(300) {
		if w.step(); len(w.faults) > 0 {
			return w.faults
		}
	}
	w.settle()
	return w.faults
}

// TestPathHistories: whatever happens between a Doppler and the clients of a
// subscription, they get everything or are told exactly what they miss.
func TestPathHistories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if *pathSeed != 0 {
			if faults := runPath(t, *pathSeed, pathPlant{}); faults != nil {
				t.Fatal(faults)
			}
			return
		}
		for seed := uint64(1); seed <= pathHistories; seed++ {
			if faults := runPath(t, seed, pathPlant{}); faults != nil {
				t.Fatalf("seed %d: %v (replay with -path.seed=%d)", seed, faults, seed)
			}
		}
	})
}
