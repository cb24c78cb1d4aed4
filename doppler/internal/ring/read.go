package ring

import (
	"sort"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// Chunk is a pinned run of envelopes within one segment. Its bytes stay as
// they are until Release; a reader must not wait for anything while it holds
// one.
type Chunk struct {
	ring *Ring
	seg  *segment
	// First is the offset of the chunk's first envelope.
	First uint64
	skip  int // records of the segment before First
	n     int
}

// Acquire pins the run that starts at off. It returns ErrHead when off is not
// appended yet and ErrEvicted when it is held no more.
func (r *Ring) Acquire(off uint64) (Chunk, error) {
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	if off >= r.head.Load() {
		return Chunk{}, ErrHead
	}
	if len(r.live) == 0 || off < r.live[0].first {
		return Chunk{}, ErrEvicted
	}
	i := sort.Search(len(r.live), func(i int) bool { return r.live[i].first > off }) - 1
	seg := r.live[i]
	seg.pins++
	skip := int(off - seg.first)
	return Chunk{ring: r, seg: seg, First: off, skip: skip, n: int(seg.published.Load()) - skip}, nil
}

// Release lets go of the chunk. It is called exactly once.
func (c Chunk) Release() {
	r := c.ring
	r.dirMu.Lock()
	c.seg.pins--
	if c.seg.retired && c.seg.pins == 0 {
		r.zombies--
		r.recycle(c.seg)
	}
	r.dirMu.Unlock()
}

// Len is the number of envelopes in the chunk, at least one.
func (c Chunk) Len() int { return c.n }

// Source is the number of the source of envelope i.
func (c Chunk) Source(i int) uint32 { return c.seg.index[c.skip+i].source }

// Class is the class of envelope i.
func (c Chunk) Class(i int) envelope.Class { return c.seg.index[c.skip+i].class }

// Name is the hash of the name of envelope i, a counter or gauge; 0 of others.
func (c Chunk) Name(i int) uint16 { return c.seg.index[c.skip+i].name }

// Holds tells whether the chunk may have envelopes of a class in mask. No is
// certain.
func (c Chunk) Holds(mask envelope.ClassMask) bool {
	return envelope.ClassMask(c.seg.classes.Load())&mask != 0
}

// Bytes returns the field-1 records of envelopes i up to j.
func (c Chunk) Bytes(i, j int) []byte {
	return c.seg.data[c.seg.start(c.skip+i):c.seg.start(c.skip+j)]
}

// Size is the number of bytes of the records of envelopes i up to j.
func (c Chunk) Size(i, j int) int {
	return int(c.seg.start(c.skip+j) - c.seg.start(c.skip+i))
}

// Envelope returns the encoded envelope i without tag and length.
func (c Chunk) Envelope(i int) []byte { return content(c.Bytes(i, i+1)) }

// walker follows the chain of one source's envelopes from new to old.
type walker struct {
	ring *Ring
	at   Chunk
	held bool
}

// back visits the source's envelopes from offset last down to low, newest
// first, until visit returns false. It reports false when it met an envelope
// that is held no more.
func (w *walker) back(last, low uint64, visit func(off uint64, c Chunk, i int) bool) bool {
	defer w.done()
	for off := last; off >= low; {
		if !w.held || off < w.at.seg.first {
			w.done()
			c, err := w.ring.Acquire(off)
			if err != nil {
				return false
			}
			w.at, w.held = c, true
		}
		c := w.at
		c.First, c.skip, c.n = c.seg.first, 0, int(off-c.seg.first)+1
		i := c.n - 1
		if !visit(off, c, i) {
			return true
		}
		prev := c.seg.index[i].prev
		if prev == 0 || uint64(prev) > off {
			return true
		}
		off -= uint64(prev)
	}
	return true
}

func (w *walker) done() {
	if w.held {
		w.at.Release()
		w.held = false
	}
}

// Newest visits the held envelopes of s below offset to whose class is in
// mask, newest first, until visit returns false. env is valid during the
// visit, which must not wait for anything. What lies below the lowest offset
// visited is either not there or was offered to OnEvict before Newest
// returned.
func (r *Ring) Newest(s *Source, mask envelope.ClassMask, to uint64, visit func(off uint64, class envelope.Class, env []byte) bool) {
	r.appendMu.Lock()
	last, used := s.last, s.used
	r.appendMu.Unlock()
	if !used {
		return
	}
	w := walker{ring: r}
	w.back(last, r.Oldest(), func(off uint64, c Chunk, i int) bool {
		if off >= to || !mask.Has(c.Class(i)) {
			return true
		}
		return visit(off, c.Class(i), c.Envelope(i))
	})
}
