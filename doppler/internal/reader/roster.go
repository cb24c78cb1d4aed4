package reader

import (
	"math"
	"slices"
	"sort"
	"sync/atomic"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Roster tells which of the deterministic names that share a subscription an
// envelope belongs to: each to exactly one. Counters and gauges go by the hash of
// their names, everything else by its offset. Names come and go at an offset:
// what lies below it belongs to whom it did before.
//
// Owner may be called concurrently with everything; Change is for one goroutine
// at a time.
type Roster struct{ changes atomic.Pointer[[]change] }

// change is who is there from an offset on.
type change struct {
	from  uint64
	names []string // ascending, each once
}

// Change says who is there from an offset on. No group of the roster may be
// granting meanwhile, nor have been granted anything from there on: the offset
// is the head of the ring while all of them are locked. Below the first change
// everything belongs to whom the first change names. held is the oldest offset
// that anybody can still read.
func (r *Roster) Change(from uint64, names []string, held uint64) {
	names = append([]string{}, names...)
	slices.Sort(names)
	var list []change
	if old := r.changes.Load(); old != nil {
		list = slices.Clone(*old)
	}
	list = append(list, change{from, slices.Compact(names)})
	// What is in force at the oldest offset stays.
	first := sort.Search(len(list), func(i int) bool { return list[i].from > held })
	list = list[max(0, first-1):]
	r.changes.Store(&list)
}

// Names returns who is there now, nil before the first Change.
func (r *Roster) Names() []string {
	list := r.changes.Load()
	if list == nil {
		return nil
	}
	return slices.Clone((*list)[len(*list)-1].names)
}

// Owner returns whom an envelope belongs to; empty for those without a name,
// which get something only while no name is there.
func (r *Roster) Owner(off uint64, class envelope.Class, hash uint16) string {
	list := r.changes.Load()
	if list == nil {
		return ""
	}
	now := (*list)[0]
	for _, c := range slices.Backward(*list) {
		if c.from <= off {
			now = c
			break
		}
	}
	if len(now.names) == 0 {
		return ""
	}
	by := off
	switch class {
	case envelope.Counter, envelope.Gauge, envelope.ContainerGauge:
		by = uint64(hash)
	}
	return now.names[spread(by)%uint64(len(now.names))]
}

// End returns the offset from which on nothing belongs to a name, as far as is
// known now; empty is for those without one.
func (r *Roster) End(name string) uint64 {
	end := uint64(math.MaxUint64)
	list := r.changes.Load()
	if list == nil {
		return 0
	}
	for _, c := range slices.Backward(*list) {
		_, there := slices.BinarySearch(c.names, name)
		if there || name == "" && len(c.names) == 0 {
			return end
		}
		end = c.from
	}
	return 0
}

// spread makes numbers in a row, or hashes alike, differ in all their bits.
func spread(n uint64) uint64 { return n * 0x9e3779b97f4a7c15 >> 33 }

// Share is the part of a subscription that belongs to one deterministic name,
// or to all that have none.
type Share struct {
	Roster *Roster
	Name   string
}

// within is how many of the envelopes of c, from the first on, may belong to the
// share.
func (s *Share) within(c ring.Chunk) int {
	end := s.Roster.End(s.Name)
	return int(min(uint64(c.Len()), end-min(end, c.First)))
}

func (s *Share) has(c ring.Chunk, i int) bool {
	return s.Roster.Owner(c.First+uint64(i), c.Class(i), c.Name(i)) == s.Name
}
