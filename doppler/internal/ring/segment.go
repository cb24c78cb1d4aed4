package ring

import (
	"math"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/internal/offheap"
)

const (
	recordBytes     = int64(unsafe.Sizeof(indexRecord{}))
	maxRecordHeader = 6 // tag and length of an envelope below 4 GiB
	maxPrev         = 1<<32 - 1
)

// indexRecord describes one envelope of a segment.
type indexRecord struct {
	end    uint32 // where its field-1 record ends in the segment's data
	source uint32 // number of its source
	prev   uint32 // distance to the source's previous envelope, 0 for none
	name   uint16 // see envelope.Record
	class  envelope.Class
}

// segment is a run of consecutive offsets. Bytes and index records below
// published are never written again until the segment is recycled.
type segment struct {
	// static
	data  []byte
	index []indexRecord

	// written by reset, while the segment is in nobody's hands
	first uint64

	// owned by the appender
	fill    uint32
	written uint32
	holds   envelope.ClassMask // of the records written

	published atomic.Uint32
	classes   atomic.Uint32 // holds, or more, of the records published
	latest    atomic.Int64  // timestamp, once somebody asked; see Chunk.latest

	// guarded by Ring.dirMu
	pins    int
	retired bool
}

// segmentBytes is what a segment takes of the budget.
func segmentBytes(size, indexLen int) int64 { return int64(size) + int64(indexLen)*recordBytes }

func newSegment(size, indexLen int) *segment {
	return &segment{data: offheap.Map(size), index: make([]indexRecord, indexLen)}
}

func (s *segment) unmap() {
	offheap.Unmap(s.data)
	s.data, s.index = nil, nil
}

func (s *segment) reset(first uint64) {
	s.first, s.fill, s.written, s.holds, s.retired = first, 0, 0, 0, false
	s.published.Store(0)
	s.classes.Store(0)
	s.latest.Store(math.MinInt64)
}

// publish makes what is written readable.
func (s *segment) publish() {
	if holds := uint32(s.holds); s.classes.Load() != holds {
		s.classes.Store(holds)
	}
	s.published.Store(s.written)
}

func (s *segment) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return s.index[i-1].end
}

func (s *segment) publishedBytes() uint32 { return s.start(int(s.published.Load())) }

// recordHead is the size of tag and length of an envelope in a record.
func recordHead(size uint32) uint32 { return 1 + uint32(bits.Len32(size|1)+6)/7 }

// putRecord writes env as a field-1 record and returns its size. dst has room.
func putRecord(dst, env []byte) int {
	dst[0] = 0x0a
	n := 1
	v := uint(len(env))
	for v >= 0x80 {
		dst[n] = byte(v) | 0x80
		v >>= 7
		n++
	}
	dst[n] = byte(v)
	n++
	return n + copy(dst[n:], env)
}

// content strips tag and length from a record of the ring.
func content(record []byte) []byte {
	n := 1
	for record[n] >= 0x80 {
		n++
	}
	return record[n+1:]
}
