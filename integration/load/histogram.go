package load

import (
	"encoding/json"
	"math/bits"
	"time"
)

// Histogram counts durations in buckets that are at most 1/64 of their value
// wide, from a nanosecond to hours. The zero value is empty. It is not safe
// for concurrent use.
type Histogram struct {
	counts [64 * subBuckets]uint64
	total  uint64
	max    time.Duration
}

const (
	subBits    = 6
	subBuckets = 1 << subBits
)

// Add counts n times the same duration; a negative one counts as 0.
func (h *Histogram) Add(d time.Duration, n uint64) {
	if n == 0 {
		return
	}
	d = max(d, 0)
	h.counts[bucket(uint64(d))] += n
	h.total += n
	h.max = max(h.max, d)
}

// Merge adds all of another histogram.
func (h *Histogram) Merge(other *Histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.total += other.total
	h.max = max(h.max, other.max)
}

// Quantile returns the duration that a share q of all counted ones did not
// exceed, at most 1/64 too high; 0 when there are none.
func (h *Histogram) Quantile(q float64) time.Duration {
	if h.total == 0 {
		return 0
	}
	rank := max(1, uint64(q*float64(h.total)+0.5))
	for i, n := range h.counts {
		if n >= rank {
			return min(h.max, time.Duration(upper(i)))
		}
		rank -= n
	}
	return h.max
}

// Max is the longest duration counted.
func (h *Histogram) Max() time.Duration { return h.max }

// Count is how many were counted.
func (h *Histogram) Count() uint64 { return h.total }

func bucket(v uint64) int {
	if v < subBuckets {
		return int(v)
	}
	shift := bits.Len64(v) - subBits - 1
	return (shift+1)<<subBits | int(v>>shift)&(subBuckets-1)
}

// upper is the largest value of a bucket.
func upper(i int) uint64 {
	octave, sub := i>>subBits, uint64(i&(subBuckets-1))
	if octave == 0 {
		return sub
	}
	return (subBuckets+sub+1)<<(octave-1) - 1
}

// MarshalJSON writes bucket numbers and counts, as pairs.
func (h *Histogram) MarshalJSON() ([]byte, error) {
	w := wireHistogram{Max: h.max}
	for i, n := range h.counts {
		if n > 0 {
			w.Buckets = append(w.Buckets, [2]uint64{uint64(i), n})
		}
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (h *Histogram) UnmarshalJSON(b []byte) error {
	var w wireHistogram
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*h = Histogram{max: w.Max}
	for _, pair := range w.Buckets {
		if pair[0] < uint64(len(h.counts)) {
			h.counts[pair[0]] = pair[1]
			h.total += pair[1]
		}
	}
	return nil
}

type wireHistogram struct {
	Max     time.Duration
	Buckets [][2]uint64
}
