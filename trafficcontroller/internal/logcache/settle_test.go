package logcache

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// Somebody who asks again and again, each time from the timestamp after the
// last one on, gets every envelope once, whatever it asks for at a time and
// however late envelopes come, as long as that is less than Settle.
func TestPollersMissNothing(t *testing.T) {
	for seed := range uint64(60) {
		synctest.Test(t, func(t *testing.T) { pollThrough(t, seed) })
	}
}

// arrival is an envelope on its way to a Doppler.
type arrival struct {
	at      time.Duration // after the start
	stamp   int64
	doppler int
	text    string
}

// arrivals makes envelopes of 10 s that take less than settle. Some have the
// same timestamps, many come in the wrong order.
func arrivals(rng *rand.Rand, dopplers int, settle time.Duration) []arrival {
	list := make([]arrival, 50+rng.IntN(150))
	begin := time.Now()
	for i := range list {
		emitted := time.Duration(rng.Int64N(int64(10 * time.Second)))
		if rng.IntN(2) == 0 {
			emitted = emitted.Truncate(200 * time.Millisecond)
		}
		late := time.Duration(rng.Int64N(int64(settle)))
		list[i] = arrival{emitted + late, begin.Add(emitted).UnixNano(), rng.IntN(dopplers), fmt.Sprint(i)}
	}
	slices.SortStableFunc(list, func(a, b arrival) int { return cmp.Compare(a.at, b.at) })
	return list
}

func pollThrough(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	s := newStage(t, 1+rng.IntN(4))
	for _, d := range s.dopplers {
		d.PageLimit = rng.IntN(4) * 20 // more than there are of one time
	}
	s.cfg.Settle = time.Duration(1 + rng.Int64N(int64(2*time.Second)))
	begin := time.Now()
	coming := arrivals(rng, len(s.dopplers), s.cfg.Settle)
	all := len(coming)
	var got []string
	next := begin.UnixNano()
	for len(coming) > 0 || time.Since(begin) < 15*time.Second {
		time.Sleep(time.Duration(rng.Int64N(int64(300 * time.Millisecond))))
		for len(coming) > 0 && coming[0].at <= time.Since(begin) {
			s.take(t, coming[0].doppler, logAt("app", coming[0].stamp, coming[0].text))
			coming = coming[1:]
		}
		for _, e := range envelopesOf(t, s.get(fmt.Sprintf("/api/v1/read/app?start_time=%d&limit=%d", next, 1+rng.IntN(50)))) {
			got = append(got, string(e.GetLog().GetPayload()))
			next = max(next, e.GetTimestamp()+1)
		}
	}
	slices.Sort(got)
	if distinct := len(slices.Compact(slices.Clone(got))); len(got) != all || distinct != all {
		t.Fatalf("seed %d: %d envelopes read, %d different ones, of %d", seed, len(got), distinct, all)
	}
}
