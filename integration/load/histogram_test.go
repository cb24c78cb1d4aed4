package load

import (
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var all []time.Duration
	var h Histogram
	for range 20000 {
		d := time.Duration(1) << rng.IntN(40)
		d += time.Duration(rng.Int64N(int64(d)))
		all = append(all, d)
		h.Add(d, 1)
	}
	slices.Sort(all)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		exact := all[max(0, int(q*float64(len(all))+0.5)-1)]
		got := h.Quantile(q)
		if got < exact || got > exact+exact/subBuckets+1 {
			t.Errorf("quantile %v is %d, want %d or up to 1/64 more", q, got, exact)
		}
	}
	if h.Max() != all[len(all)-1] || h.Count() != uint64(len(all)) {
		t.Errorf("max %d count %d, want %d %d", h.Max(), h.Count(), all[len(all)-1], len(all))
	}
}

func TestHistogramBuckets(t *testing.T) {
	for i := range 64 * 40 {
		if got := bucket(upper(i)); got != i {
			t.Fatalf("largest value of bucket %d falls into %d", i, got)
		}
		if got := bucket(upper(i) + 1); got != i+1 {
			t.Fatalf("value after bucket %d falls into %d", i, got)
		}
	}
}

func TestHistogramTravels(t *testing.T) {
	var h, back, sum Histogram
	h.Add(time.Millisecond, 3)
	h.Add(-1, 1)
	b, err := json.Marshal(&h)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	if back != h {
		t.Errorf("%s is not what was written", b)
	}
	sum.Merge(&h)
	sum.Merge(&back)
	if sum.Count() != 8 || sum.Max() != time.Millisecond {
		t.Errorf("merged %d up to %s, want 8 up to 1ms", sum.Count(), sum.Max())
	}
}
