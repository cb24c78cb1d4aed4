// Package reader holds the cursors into a Doppler's ring: the subscription
// group with its members and leases, and the tail link.
//
// Both are synchronous state machines. Time and events come in as calls,
// grants, gaps and the members to wake come out as results; there is no
// goroutine, clock or socket inside. Neither may be called concurrently with
// itself: the server holds one lock per group and per link.
package reader

import (
	"sort"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Gap is what a reader has missed.
type Gap struct {
	Source    string // link: whose envelopes; empty on a group
	From, To  uint64
	Count     uint64
	Classes   *ring.Counts // link: Count by class
	NoV1      uint64       // group: of Count, those that have no form in the old protocol
	Precision streampb.Gap_Precision
	Reason    streampb.Gap_Reason

	matched uint64 // matching envelopes before From
	lease   *lease // who has been told, until it is acked; nil while pending
	told    bool   // at least once, perhaps to a member that is gone
	watch   *watch // link: whose it is; not told any more when that is gone
}

// run is a piece of a chunk whose envelopes are all granted.
type run struct{ i, j int }

// pick collects matching envelopes of c, at most max envelopes and bytes, but
// at least one. It returns the runs, how many envelopes they hold, and how far
// it has looked.
func (m *matcher) pick(c ring.Chunk, runs []run, maxCount, maxBytes int) (_ []run, count, looked int) {
	n := min(c.Len(), maxLook)
	if m.all {
		count = min(n, maxCount)
		if c.Size(0, count) > maxBytes {
			count = max(1, sort.Search(count, func(i int) bool { return c.Size(0, i+1) > maxBytes }))
		}
		return append(runs, run{0, count}), count, count
	}
	if m.union != nil || m.share != nil {
		return m.pickEach(c, n, runs, maxCount, maxBytes)
	}
	bytes := 0
	for i := range n {
		// Not by way of match, which is not inlined.
		if !m.selects(c.Class(i), c.Source(i)) || m.names != nil && !m.match(c, i) {
			continue
		}
		size := c.Size(i, i+1)
		if count > 0 && (count == maxCount || bytes+size > maxBytes) {
			return runs, count, i
		}
		bytes += size
		count++
		if k := len(runs) - 1; k >= 0 && runs[k].j == i {
			runs[k].j++
		} else {
			runs = append(runs, run{i, i + 1})
		}
	}
	return runs, count, n
}

// pickEach is pick where each of the n envelopes has to be looked at closely.
func (m *matcher) pickEach(c ring.Chunk, n int, runs []run, maxCount, maxBytes int) (_ []run, count, looked int) {
	bytes := 0
	for i := range n {
		if !m.match(c, i) {
			continue
		}
		size := c.Size(i, i+1)
		if count > 0 && (count == maxCount || bytes+size > maxBytes) {
			return runs, count, i
		}
		bytes += size
		count++
		if k := len(runs) - 1; k >= 0 && runs[k].j == i {
			runs[k].j++
		} else {
			runs = append(runs, run{i, i + 1})
		}
	}
	return runs, count, n
}

// deltas returns the distances between the offsets of count envelopes in runs
// when they are not contiguous, and nothing when they are.
func deltas(runs []run, count int) []uint32 {
	if len(runs) < 2 {
		return nil
	}
	dst := make([]uint32, 0, count-1)
	prev := runs[0].i
	for _, r := range runs {
		for i := r.i; i < r.j; i++ {
			if i != runs[0].i {
				dst = append(dst, uint32(i-prev))
			}
			prev = i
		}
	}
	return dst
}

// pieces appends the records of runs, in as few pieces as there are runs.
func pieces(c ring.Chunk, runs []run) (list [][]byte, size int) {
	list = make([][]byte, len(runs))
	for i, r := range runs {
		list[i] = c.Bytes(r.i, r.j)
		size += len(list[i])
	}
	return list, size
}

func classCounts(c *ring.Counts) []uint64 {
	out := make([]uint64, envelope.NumClasses)
	copy(out, c[:])
	return out
}

// Proto returns the gap as the wire has it.
func (g *Gap) Proto(doppler string, epoch uint64) *streampb.Gap {
	p := &streampb.Gap{
		SourceId: g.Source, From: g.From, To: g.To, Count: g.Count,
		Precision: g.Precision, Reason: g.Reason, Doppler: doppler, Epoch: epoch, NoV1: g.NoV1,
	}
	if g.Classes != nil {
		p.ClassCounts = classCounts(g.Classes)
	}
	return p
}
