// Package ring is a Doppler's log: one append-only ring of encoded envelopes
// that every reader shares.
//
// The newest envelopes lie in segments of fixed size outside the garbage
// collector's heap; when the budget is used up the oldest segment is recycled.
// Beside the bytes runs an index of one small record per envelope. Offsets
// start at 0 with the epoch and grow by one per envelope. What a reader has
// missed is a difference of counters (see Counts), never a scan.
//
// The ring starts no goroutine and reads no clock. Append may be called
// concurrently with itself and with every reading method.
package ring

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// Limits and defaults of Config.
const (
	MinBytes            = 1 << 20
	DefaultBytes        = 256 << 20
	maxSegmentBytes     = 4 << 20
	minSegmentBytes     = 64 << 10
	segmentsWanted      = 64
	bytesPerIndexRecord = 128
	defaultMaxIdle      = 100_000
)

// Errors that Acquire returns.
var (
	// ErrEvicted says that the offset is older than the oldest one held.
	ErrEvicted = errors.New("offset is no longer held")
	// ErrHead says that the offset is not appended yet.
	ErrHead = errors.New("offset is not appended yet")
)

// Config is what New needs. The zero value of a field means its default.
type Config struct {
	// Bytes bounds segments and index together. Only an envelope that is
	// larger than all of it, and segments that readers pin while everything
	// else is gone, exceed it for as long as they are there.
	Bytes int64
	// SegmentBytes is the size of one segment's data; by default a 64th of
	// Bytes between 64 KiB and 4 MiB. Whoever sets it may go below MinBytes,
	// down to three segments.
	SegmentBytes int
	// MaxIdleSources is how many sources without a held envelope and without
	// a reader are remembered for exact gaps.
	MaxIdleSources int
	// OnEvict, if set, is called for every envelope in the order of offsets
	// before it is let go. One call at a time; it must not call the ring and
	// must not keep env.
	OnEvict func(Evicted)
	// OfferNewest, if set, keeps OnEvict from being called for an envelope of a
	// class that has so many newer ones of its source and class.
	OfferNewest *Counts
	// BeforeEvict, if set, is called once per segment before any counter
	// changes: the offsets of c are about to go. The chunk is valid during the
	// call. An Append may be waiting for it: like OnEvict it must not call the
	// ring, nor take a lock that is held anywhere while the ring is called.
	BeforeEvict func(c Chunk)
	// AfterOffer, if set, is called after the last OnEvict of a segment. The
	// same holds for it.
	AfterOffer func()
}

// Evicted is an envelope that the ring lets go of.
type Evicted struct {
	Source  string
	Class   envelope.Class
	Offset  uint64
	Ordinal uint64 // envelopes of the same source and class before it
	Newer   uint64 // envelopes of the same source and class after it
	Env     []byte // valid during the call
}

// Ring holds the newest envelopes of one epoch.
type Ring struct {
	// static after New
	cfg       Config
	dataBytes int
	indexLen  int
	maxLive   int

	head   atomic.Uint64 // next offset; everything below is published
	oldest atomic.Uint64 // written under statMu
	notify chan struct{} // capacity 1; marked by Append, never closed

	// guarded by appendMu: the writer's side
	appendMu sync.Mutex
	active   *segment
	sources  sourceTable
	classes  Counts // appended, by class
	bytes    uint64 // appended, records with tag and length

	// guarded by evictMu: one eviction at a time
	evictMu sync.Mutex
	touched []*Source // with an envelope in the segment that goes
	naming  []*Source // by number, as of when the eviction began
	offered Counts

	// guarded by statMu: what eviction changes, consistent with oldest
	statMu  sync.Mutex
	evicted Counts
	idle    []*Source

	// guarded by dirMu: which segments exist and who uses them
	dirMu   sync.Mutex
	live    []*segment // ascending; the last one is active
	free    []*segment
	zombies int   // retired but pinned
	used    int64 // bytes of all segments there are, index included
}

// New returns an empty ring or an error that names the limit.
func New(cfg Config) (*Ring, error) {
	if cfg.Bytes == 0 {
		cfg.Bytes = DefaultBytes
	}
	if cfg.Bytes < MinBytes && cfg.SegmentBytes == 0 {
		return nil, fmt.Errorf("ring bytes %d: at least %d are needed", cfg.Bytes, MinBytes)
	}
	if cfg.SegmentBytes == 0 {
		cfg.SegmentBytes = min(max(int(cfg.Bytes/segmentsWanted), minSegmentBytes), maxSegmentBytes)
	}
	if cfg.MaxIdleSources == 0 {
		cfg.MaxIdleSources = defaultMaxIdle
	}
	r := &Ring{cfg: cfg, notify: make(chan struct{}, 1)}
	r.dataBytes = cfg.SegmentBytes
	r.indexLen = max(cfg.SegmentBytes/bytesPerIndexRecord, 16)
	perSegment := segmentBytes(r.dataBytes, r.indexLen)
	r.maxLive = int(cfg.Bytes / perSegment)
	if r.maxLive < 3 {
		return nil, fmt.Errorf("segment bytes %d: the ring needs room for 3 segments of %d bytes in %d",
			cfg.SegmentBytes, perSegment, cfg.Bytes)
	}
	r.sources.init()
	return r, nil
}

// Close gives the memory back, but for segments that are still read. No Append
// may run or follow; a late reader finds nothing held.
func (r *Ring) Close() {
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	for _, s := range r.live {
		if s.pins == 0 {
			s.unmap()
		}
	}
	for _, s := range r.free {
		s.unmap()
	}
	r.live, r.free = nil, nil
}

// Head is the offset the next envelope will get. Everything below it that is
// held can be read.
func (r *Ring) Head() uint64 { return r.head.Load() }

// Oldest is the lowest offset that is held; equal to Head when nothing is.
func (r *Ring) Oldest() uint64 { return r.oldest.Load() }

// Notify is marked after every Append. One goroutine may receive from it.
func (r *Ring) Notify() <-chan struct{} { return r.notify }

// Append copies the envelopes that recs index out of msg and returns the
// offset of the first. It blocks only for other appends and, when no segment
// is free, for the eviction of one; never for a reader. msg is the caller's
// again when it returns.
func (r *Ring) Append(msg []byte, recs []envelope.Record) uint64 {
	r.appendMu.Lock()
	first := r.head.Load()
	off := first
	for i := 0; i < len(recs); i = int(off - first) {
		off += uint64(r.appendRun(msg, recs[i:], off))
	}
	r.publish(off)
	r.appendMu.Unlock()
	if off != first {
		select {
		case r.notify <- struct{}{}:
		default:
		}
	}
	return first
}

// appendRun copies the first of recs, and with it those behind it that lie in
// msg as the ring holds them and fit into the same segment. It returns how many
// they are. appendMu is held.
func (r *Ring) appendRun(msg []byte, recs []envelope.Record, off uint64) int {
	seg, rec := r.active, &recs[0]
	need := int(rec.End-rec.Start) + maxRecordHeader
	if seg == nil || int(seg.fill)+need > len(seg.data) || int(seg.written) == len(seg.index) {
		r.publish(off)
		seg = r.nextSegment(off, need)
	}
	if !rec.Canonical {
		end := seg.fill + uint32(putRecord(seg.data[seg.fill:], msg[rec.Start:rec.End]))
		r.index(seg, msg, rec, off, end)
		return 1
	}
	start := rec.Start - recordHead(rec.End-rec.Start)
	room := start + uint32(len(seg.data)) - seg.fill
	most := min(len(recs), len(seg.index)-int(seg.written))
	n := 1
	for ; n < most; n++ {
		next := &recs[n]
		behind := next.Canonical && next.Start-recordHead(next.End-next.Start) == recs[n-1].End
		if !behind || next.End > room {
			break
		}
	}
	shift := seg.fill - start
	copy(seg.data[seg.fill:], msg[start:recs[n-1].End])
	for i := range recs[:n] {
		r.index(seg, msg, &recs[i], off+uint64(i), recs[i].End+shift)
	}
	return n
}

// index counts an envelope whose record lies behind the last one of seg, up to
// end. appendMu is held.
func (r *Ring) index(seg *segment, msg []byte, rec *envelope.Record, off uint64, end uint32) {
	src := r.sources.lookup(rec.Hash, msg[rec.SourceStart:rec.SourceEnd], off)
	ix := &seg.index[seg.written]
	ix.end = end
	ix.source = src.number
	ix.class = rec.Class
	ix.name = rec.Name
	seg.holds |= 1 << rec.Class
	ix.prev = 0
	if src.used {
		if d := off - src.last; d <= maxPrev {
			ix.prev = uint32(d)
		}
	}
	size := uint64(end - seg.fill)
	src.used = true
	src.last = off
	src.appended[rec.Class]++
	src.appendedBytes += size
	r.classes[rec.Class]++
	r.bytes += size
	seg.fill = end
	seg.written++
}

// publish makes everything below off readable. appendMu is held.
func (r *Ring) publish(off uint64) {
	if r.active == nil {
		return
	}
	r.active.publish()
	r.head.Store(off)
}

// nextSegment follows the active segment, which is published whole, with an
// empty one that has room for need bytes. It evicts until the budget allows
// that. appendMu is held.
func (r *Ring) nextSegment(off uint64, need int) *segment {
	size, records := r.dataBytes, r.indexLen
	if need > size {
		size, records = need, 1
	}
	for {
		r.dirMu.Lock()
		if seg := r.take(size, records); seg != nil {
			seg.reset(off)
			r.live = append(r.live, seg)
			r.dirMu.Unlock()
			r.active = seg
			return seg
		}
		r.dirMu.Unlock()
		r.evictOldest(true)
	}
}

// take returns a free segment or makes one; nil when something has to be
// evicted first. When nothing is left to evict, the rest of the budget is
// pinned by readers that the scheduler holds up, or the envelope is larger than
// all of it: it is exceeded then, for readers never delay ingress. dirMu is
// held.
func (r *Ring) take(size, records int) *segment {
	if n := len(r.free); n > 0 && size == r.dataBytes {
		seg := r.free[n-1]
		r.free = r.free[:n-1]
		return seg
	}
	want := segmentBytes(size, records)
	for n := len(r.free); n > 0 && r.used+want > r.cfg.Bytes; n-- {
		r.drop(r.free[n-1])
		r.free = r.free[:n-1]
	}
	if r.used+want > r.cfg.Bytes && len(r.live) > 0 {
		return nil
	}
	r.used += want
	return newSegment(size, records)
}

// drop gives a segment's memory back. dirMu is held.
func (r *Ring) drop(seg *segment) {
	r.used -= segmentBytes(len(seg.data), len(seg.index))
	seg.unmap()
}

// Stats is a snapshot of the ring's size and counters.
type Stats struct {
	Oldest, Head uint64
	Bytes        uint64 // appended since the epoch began
	HeldBytes    uint64 // record bytes held now
	UsedBytes    int64  // of the budget: all segments there are, index included
	Budget       int64
	Segments     int // that hold envelopes
	Sources      int
	Classes      Counts // appended, by class
}

// Stats may be called at any time; it waits for a running Append.
func (r *Ring) Stats() Stats {
	r.appendMu.Lock()
	st := Stats{
		Head: r.head.Load(), Bytes: r.bytes, Budget: r.cfg.Bytes,
		Sources: r.sources.known(), Classes: r.classes,
	}
	r.appendMu.Unlock()
	r.dirMu.Lock()
	st.Oldest = r.oldest.Load()
	st.Segments, st.UsedBytes = len(r.live), r.used
	for _, s := range r.live {
		st.HeldBytes += uint64(s.publishedBytes())
	}
	r.dirMu.Unlock()
	return st
}

// CapacityOffsets estimates how many envelopes of the present mean size the
// ring can hold.
func (r *Ring) CapacityOffsets() uint64 {
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	held := r.head.Load() - r.oldest.Load()
	if n := len(r.live); n > 1 && held > 0 {
		return held * uint64(r.maxLive) / uint64(n)
	}
	return uint64(r.maxLive * r.indexLen)
}
