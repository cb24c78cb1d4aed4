package reader

import (
	"sync"

	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// nameCounter counts, for a filter by name, the matches that the ring lets go
// of before the group has read them. Names are not in the index, so this is
// the one case that looks at the bytes; it costs nothing while the group keeps
// up.
type nameCounter struct {
	match matcher

	mu      sync.Mutex
	share   *Share // beside that of match
	next    uint64 // the group's mark
	matched uint64
	upTo    uint64 // counted for eviction up to here
	gone    uint64 // matches below upTo
	unsure  bool   // gone leaves something out
}

// set follows the group's mark.
func (n *nameCounter) set(next, matched uint64) {
	n.mu.Lock()
	n.next, n.matched = next, matched
	n.mu.Unlock()
}

// restrict counts no more than a share from now on.
func (n *nameCounter) restrict(s *Share) {
	n.mu.Lock()
	n.share = s
	n.mu.Unlock()
}

// beforeEvict counts what of c the group has not read.
func (n *nameCounter) beforeEvict(c ring.Chunk) {
	n.mu.Lock()
	next, matched, upTo, gone, unsure, share := n.next, n.matched, n.upTo, n.gone, n.unsure, n.share
	n.mu.Unlock()
	end := c.First + uint64(c.Len())
	if next >= end {
		return
	}
	from := c.First
	switch {
	case next >= from:
		from, gone, unsure = next, matched, false
	case upTo != from:
		gone, unsure = matched, true
	}
	last := c.Len()
	if s := n.match.share; s != nil {
		last = s.within(c) // a name that lingers may own nothing more
	}
	for i := int(from - c.First); i < last; i++ {
		if n.match.match(c, i) && (share == nil || share.has(c, i)) {
			gone++
		}
	}
	n.mu.Lock()
	n.upTo, n.gone, n.unsure = end, gone, unsure
	n.mu.Unlock()
}

// evicted returns the offset up to which the group cannot read, given the
// ring's oldest, the matches below it, and whether that count is exact.
func (n *nameCounter) evicted(oldest uint64) (upTo, gone uint64, known bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.upTo >= oldest && n.upTo > n.next {
		return n.upTo, n.gone, !n.unsure
	}
	// Evicted before the group was there to count, or not past its mark.
	return oldest, n.matched, n.next >= oldest
}
