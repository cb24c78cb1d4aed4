package fanout

import (
	"flag"
	"strings"
	"testing"
)

func historySteps() int { return 400 }

var (
	seeds = flag.Int("histories", 300, "random histories to live through")
	first = flag.Int("first-history", 0, "seed of the first of them")
)

// live runs one history and returns what went wrong.
func live(seed uint64, flaw string, loud bool) *world {
	w := newWorld(seed, flaw)
	w.loud = loud
	for range historySteps() {
		w.step()
		if w.fault != nil {
			return w
		}
	}
	w.settle()
	for _, c := range w.tails {
		if w.fault == nil {
			c.check()
		}
	}
	if w.fault == nil {
		w.empty()
	}
	return w
}

// empty closes every tail and finds what is left behind.
func (w *world) empty() {
	for len(w.tails) > 0 {
		w.closeOne()
	}
	w.hub.hello.release()
	if w.hub.beat != nil {
		w.hub.beat.release()
	}
	if used := w.hub.budget.used.Load(); used != 0 || w.hub.budget.first != nil {
		w.fail("%d bytes are held for nobody", used)
	}
	if len(w.hub.sources) != 0 || len(w.hub.joining) != 0 {
		w.fail("%d sources, %d joining tails are left", len(w.hub.sources), len(w.hub.joining))
	}
}

func TestHistories(t *testing.T) {
	for i := range *seeds {
		seed := uint64(*first + i)
		if w := live(seed, "", false); w.fault != nil {
			w = live(seed, "", true)
			t.Fatalf("seed %d: %v\n%s", seed, w.fault, strings.Join(w.trace[max(0, len(w.trace)-2000):], "\n"))
		}
	}
}

func TestPlantedBugsAreFound(t *testing.T) {
	t.Parallel()
	for _, flaw := range flaws {
		t.Run(flaw, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(500) {
				if w := live(seed, flaw, false); w.fault != nil {
					t.Logf("seed %d: %v", seed, w.fault)
					return
				}
			}
			t.Error("not found")
		})
	}
}
