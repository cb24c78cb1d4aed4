package reader

import (
	"math/bits"
	"time"
)

// maxLease is the largest number of envelopes in a lease.
const maxLease = 256

// bitmap has a bit for each envelope of a lease.
type bitmap [maxLease / 64]uint64

func (b *bitmap) has(i int) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b *bitmap) set(i int) { b[i/64] |= 1 << (i % 64) }

// lease is a member's responsibility for some envelopes. It holds no ring
// memory. All its envelopes lie in one segment of the ring, so they are
// evicted together.
type lease struct {
	first   uint64 // offset of the first envelope; with count 0 where it was made
	count   int
	deltas  []uint32 // as in streampb.Position
	matched uint64   // matching envelopes before first
	acked   bitmap
	noV1    bitmap // without a form in the old protocol
	open    int    // envelopes not acked
	gaps    []*Gap

	member  *Member // nil while it waits to be leased again
	mark    uint64  // where the group was when it was granted, for the window of acks
	id      uint64
	granted time.Time
	again   bool // was granted before
	lost    bool // evicted; becomes a gap unless its member acks before it leaves or its time is over
	done    bool
}

// with tells whether m has the lease and has to do something about it.
func (l *lease) with(m *Member) bool { return !l.done && l.member == m }

// offset returns the offset of envelope i.
func (l *lease) offset(i int) uint64 {
	if l.deltas == nil {
		return l.first + uint64(i)
	}
	off := l.first
	for _, d := range l.deltas[:i] {
		off += uint64(d)
	}
	return off
}

// end is one past the last offset.
func (l *lease) end() uint64 {
	if l.count == 0 {
		return l.first
	}
	return l.offset(l.count-1) + 1
}

// firstOpen returns the index of the first envelope that is not acked.
func (l *lease) firstOpen() int {
	for w, word := range l.acked {
		if n := bits.TrailingZeros64(^word); n < 64 {
			return w*64 + n
		}
	}
	return l.count
}

func (l *lease) isAcked(i int) bool { return l.acked.has(i) }

// openNoV1 is how many of the open envelopes have no form in the old protocol.
func (l *lease) openNoV1() (n uint64) {
	for w, word := range l.noV1 {
		n += uint64(bits.OnesCount64(word &^ l.acked[w]))
	}
	return n
}

// ack marks the envelopes with offsets in [first, last] and returns how many
// were not marked before.
func (l *lease) ack(first, last uint64) (fresh int) {
	off := l.first
	for i := range l.count {
		if i > 0 {
			if l.deltas == nil {
				off++
			} else {
				off += uint64(l.deltas[i-1])
			}
		}
		if off > last {
			break
		}
		if off >= first && !l.isAcked(i) {
			l.acked.set(i)
			fresh++
		}
	}
	l.open -= fresh
	return fresh
}

// ackAll marks everything and returns how many were not marked before.
func (l *lease) ackAll() (fresh int) {
	fresh, l.open = l.open, 0
	for i := range l.acked {
		l.acked[i] = ^uint64(0)
	}
	return fresh
}
