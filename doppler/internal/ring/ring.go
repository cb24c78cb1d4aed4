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
	// Bytes bounds segments and index together.
	Bytes int64
	// SegmentBytes is the size of one segment's data; by default a 64th of
	// Bytes between 64 KiB and 4 MiB.
	SegmentBytes int
	// MaxIdleSources is how many sources without a held envelope and without
	// a reader are remembered for exact gaps.
	MaxIdleSources int
	// OnEvict, if set, is called for every envelope in the order of offsets
	// before it is let go. One call at a time; it must not call the ring and
	// must not keep env.
	OnEvict func(Evicted)
	// BeforeEvict, if set, is called once per segment before any counter
	// changes: offsets in [from, to) are about to go. The chunk is valid
	// during the call.
	BeforeEvict func(c Chunk)
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
	touched []*Source
	offered Counts

	// guarded by statMu: what eviction changes, consistent with oldest
	statMu  sync.Mutex
	evicted Counts
	idle    []*Source

	// guarded by dirMu: which segments exist and who uses them
	dirMu   sync.Mutex
	live    []*segment // ascending; the last one is active
	free    []*segment
	zombies int // retired but pinned
	made    int // segments of standard size in existence
	extra   int64
}

// New returns an empty ring or an error that names the limit.
func New(cfg Config) (*Ring, error) {
	if cfg.Bytes == 0 {
		cfg.Bytes = DefaultBytes
	}
	if cfg.Bytes < MinBytes {
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
	perSegment := int64(r.dataBytes) + int64(r.indexLen)*recordBytes
	r.maxLive = int(cfg.Bytes / perSegment)
	if r.maxLive < 3 {
		return nil, fmt.Errorf("segment bytes %d: the ring needs room for 3 segments of %d bytes in %d",
			cfg.SegmentBytes, perSegment, cfg.Bytes)
	}
	r.sources.init()
	return r, nil
}

// Close gives the memory back. No other call may run or follow.
func (r *Ring) Close() {
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	for _, s := range r.live {
		s.unmap()
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
	for i := range recs {
		r.appendOne(msg, &recs[i], off)
		off++
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

// appendOne is called with appendMu held.
func (r *Ring) appendOne(msg []byte, rec *envelope.Record, off uint64) {
	env := msg[rec.Start:rec.End]
	seg := r.active
	need := len(env) + maxRecordHeader
	if seg == nil || int(seg.fill)+need > len(seg.data) || int(seg.written) == len(seg.index) {
		r.publish(off)
		seg = r.nextSegment(off, need)
	}
	src := r.sources.lookup(rec.Hash, msg[rec.SourceStart:rec.SourceEnd], off)
	at := seg.fill
	n := putRecord(seg.data[at:], env)
	end := at + uint32(n)
	ix := &seg.index[seg.written]
	ix.end = end
	ix.source = src.number
	ix.class = rec.Class
	ix.prev = 0
	if src.used {
		if d := off - src.last; d <= maxPrev {
			ix.prev = uint32(d)
		}
	}
	src.used = true
	src.last = off
	count := &src.appended[rec.Class]
	count.Store(count.Load() + 1)
	src.appendedBytes += uint64(n)
	r.classes[rec.Class]++
	r.bytes += uint64(n)
	seg.fill = end
	seg.written++
}

// publish makes everything below off readable. appendMu is held.
func (r *Ring) publish(off uint64) {
	if r.active == nil {
		return
	}
	r.active.published.Store(r.active.written)
	r.head.Store(off)
}

// nextSegment seals the active segment and returns an empty one that has room
// for need bytes. appendMu is held.
func (r *Ring) nextSegment(off uint64, need int) *segment {
	if need > r.dataBytes {
		return r.oversizeSegment(off, need)
	}
	r.dirMu.Lock()
	seg := r.takeFree()
	r.dirMu.Unlock()
	for seg == nil {
		r.evictOldest(true)
		r.dirMu.Lock()
		seg = r.takeFree()
		if seg == nil && (len(r.live) == 0 || r.zombies > 0) {
			// Every segment that could go is pinned by a reader that the
			// scheduler holds up; readers never delay ingress.
			seg = r.makeSegment(r.dataBytes)
		}
		r.dirMu.Unlock()
	}
	r.activate(seg, off)
	return seg
}

func (r *Ring) activate(seg *segment, off uint64) {
	seg.reset(off)
	r.dirMu.Lock()
	r.live = append(r.live, seg)
	r.dirMu.Unlock()
	r.active = seg
}

// oversizeSegment makes a segment for one envelope that no standard segment
// can hold, within the same budget.
func (r *Ring) oversizeSegment(off uint64, need int) *segment {
	perSegment := int64(r.dataBytes) + int64(r.indexLen)*recordBytes
	for {
		r.dirMu.Lock()
		used := int64(len(r.live)+len(r.free)+r.zombies)*perSegment + r.extra
		fits := used+int64(need) <= r.cfg.Bytes
		if !fits && len(r.free) > 0 {
			s := r.free[len(r.free)-1]
			r.free = r.free[:len(r.free)-1]
			r.made--
			s.unmap()
			r.dirMu.Unlock()
			continue
		}
		if fits || len(r.live) == 0 || r.zombies > 0 {
			seg := newSegment(need, r.indexLen)
			seg.oversize = true
			r.extra += int64(need)
			r.dirMu.Unlock()
			r.activate(seg, off)
			return seg
		}
		r.dirMu.Unlock()
		r.evictOldest(true)
	}
}

// takeFree returns a free segment, or makes one while the budget allows.
// dirMu is held.
func (r *Ring) takeFree() *segment {
	if n := len(r.free); n > 0 {
		s := r.free[n-1]
		r.free = r.free[:n-1]
		return s
	}
	if r.made < r.budgetSegments() {
		return r.makeSegment(r.dataBytes)
	}
	return nil
}

// budgetSegments is how many standard segments fit beside the oversize ones.
func (r *Ring) budgetSegments() int {
	perSegment := int64(r.dataBytes) + int64(r.indexLen)*recordBytes
	return max(r.maxLive-int((r.extra+perSegment-1)/perSegment), 2)
}

func (r *Ring) makeSegment(size int) *segment {
	r.made++
	return newSegment(size, r.indexLen)
}

// Stats is a snapshot of the ring's size and counters.
type Stats struct {
	Oldest, Head uint64
	Bytes        uint64 // appended since the epoch began
	HeldBytes    uint64 // record bytes held now
	Budget       int64
	Segments     int
	Sources      int
	Classes      Counts // appended, by class
}

// Stats may be called at any time; it waits for a running Append.
func (r *Ring) Stats() Stats {
	r.appendMu.Lock()
	st := Stats{
		Head: r.head.Load(), Bytes: r.bytes, Budget: r.cfg.Bytes,
		Sources: len(r.sources.byNumber) - len(r.sources.unused), Classes: r.classes,
	}
	r.appendMu.Unlock()
	r.dirMu.Lock()
	st.Oldest = r.oldest.Load()
	st.Segments = len(r.live)
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
