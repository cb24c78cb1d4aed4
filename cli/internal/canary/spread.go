package canary

import (
	"math/bits"
	"time"
)

// Spread counts durations, a few percent exact, in a fixed number of bytes.
// The zero value is ready.
type Spread struct {
	counts [64 * perDoubling]uint64
	total  uint64
	max    time.Duration
}

// perDoubling is how many counters there are from a duration to its double.
const (
	doublingBits = 4
	perDoubling  = 1 << doublingBits
)

// Add counts a duration.
func (s *Spread) Add(d time.Duration) {
	d = max(d, 0)
	s.counts[counterOf(uint64(d))]++
	s.total++
	s.max = max(s.max, d)
}

// Join adds what another Spread has counted.
func (s *Spread) Join(o *Spread) {
	for i, n := range o.counts {
		s.counts[i] += n
	}
	s.total += o.total
	s.max = max(s.max, o.max)
}

// Quantile returns the duration that a share q of all does not exceed.
func (s *Spread) Quantile(q float64) time.Duration {
	rank := uint64(q * float64(s.total))
	below := uint64(0)
	for i, n := range s.counts {
		if below += n; n > 0 && below > rank {
			return min(upperEnd(i), s.max)
		}
	}
	return s.max
}

// Max returns the longest duration.
func (s *Spread) Max() time.Duration { return s.max }

// Total returns how many were counted.
func (s *Spread) Total() uint64 { return s.total }

// counterOf numbers equal shares of each doubling.
func counterOf(n uint64) int {
	if n < perDoubling {
		return int(n)
	}
	shift := bits.Len64(n) - 1 - doublingBits
	return (shift+1)*perDoubling + int(n>>shift) - perDoubling
}

// upperEnd is the longest duration that a counter counts.
func upperEnd(i int) time.Duration {
	if i < perDoubling {
		return time.Duration(i)
	}
	shift := i/perDoubling - 1
	return time.Duration(uint64(i%perDoubling+perDoubling+1)<<shift - 1)
}
