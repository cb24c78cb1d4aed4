package fanout

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// frame is one message to tails, encoded. It is never changed once it is
// made, and shared by all tails it is for; each queue holds a reference.
type frame struct {
	buf    *stream.Buffer
	budget *budget
	refs   atomic.Int32

	doppler string
	epoch   uint64
	first   uint64
	end     uint64 // position.next
	matched uint64 // by class, before end
	count   uint64
	deltas  []uint32
	records []byte // in buf
	gaps    []*streampb.Gap
	placed  bool
	made    int64 // unix ns; of those with envelopes
	pinned  bool  // told whatever else is dropped
	old     bool  // buf holds finished frames of the old framing, maybe none

	// in the budget's list; guarded by its mu
	prev, next *frame
	listed     bool
	holders    holders
	share      *atomic.Int64 // of its source, or nil
}

// holders finds the queues a frame may be in.
type holders interface {
	eachTail(func(*Tail))
	// share counts the bytes of all frames of their source; nil if they are of
	// several.
	share() *atomic.Int64
}

// overhead is about what a frame costs beside its bytes.
const overhead = 384

func (f *frame) size() int64 { return int64(f.buf.Len()) + overhead }

// wire is what is written to a connection.
func (f *frame) wire() []byte {
	if f.old {
		return f.buf.Bytes()
	}
	return f.buf.Frame()
}

func (f *frame) retain() *frame {
	f.refs.Add(1)
	return f
}

func (f *frame) release() {
	if f.refs.Add(-1) == 0 {
		f.budget.remove(f)
		f.buf.Release()
	}
}

// budget counts the bytes that all tails together hold, shared frames once,
// and remembers the order in which frames were made.
type budget struct {
	limit   int64
	used    atomic.Int64
	dropped atomic.Uint64 // envelopes that tails were told they miss, once for each tail

	mu          sync.Mutex
	first, last *frame
}

func (b *budget) add(f *frame) {
	b.used.Add(f.size())
	if f.share != nil {
		f.share.Add(f.size())
	}
	b.list(f)
}

// list puts a frame at the end.
func (b *budget) list(f *frame) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f.prev, f.listed = b.last, true
	if b.last == nil {
		b.first = f
	} else {
		b.last.next = f
	}
	b.last = f
}

func (b *budget) remove(f *frame) {
	b.used.Add(-f.size())
	if f.share != nil {
		f.share.Add(-f.size())
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.unlist(f)
}

func (b *budget) unlist(f *frame) {
	if !f.listed {
		return
	}
	if f.prev == nil {
		b.first = f.next
	} else {
		f.prev.next = f.next
	}
	if f.next == nil {
		b.last = f.prev
	} else {
		f.next.prev = f.prev
	}
	f.prev, f.next, f.listed = nil, nil, false
}

// oldest takes the oldest frame off the list and returns it with a reference,
// when too much is held.
func (b *budget) oldest() *frame {
	if b.used.Load() <= b.limit {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for f := b.first; f != nil; f = b.first {
		b.unlist(f)
		for n := f.refs.Load(); n > 0; n = f.refs.Load() {
			if f.refs.CompareAndSwap(n, n+1) {
				return f
			}
		}
	}
	return nil
}

// maker encodes frames. It belongs to whoever holds the hub's lock.
type maker struct {
	budget *budget
	now    func() time.Time
	framer wsframe.Framer
	frames []byte // scratch of the old framing
	batch  streampb.Batch
	pos    streampb.Position
	meta   []byte
}

// spec is what a frame is made of.
type spec struct {
	doppler string
	epoch   uint64
	first   uint64
	end     uint64
	matched uint64 // by class, before end
	deltas  []uint32
	records [][]byte
	gaps    []*streampb.Gap
	placed  bool // with a position
	fin     *streampb.Fin
	hello   *streampb.Hello
	beat    *streampb.Heartbeat
	access  *streampb.Access
	live    *streampb.Watching // history is over
	old     bool               // in the old framing
	source  string             // whose lines tell gaps there
}

// inFraming makes it a frame in the framing of a tail.
func (s *spec) inFraming(o *Options) { s.old, s.source = o.Old, o.Source }

// make returns a frame with one reference.
func (m *maker) make(s *spec, h holders) (*frame, error) {
	if s.old {
		return m.makeOld(s, h), nil
	}
	m.batch.Reset()
	b := &m.batch
	b.Gaps, b.Hello, b.Heartbeat, b.Access = s.gaps, s.hello, s.beat, s.access
	if s.fin != nil {
		b.Fins = []*streampb.Fin{s.fin}
	}
	if s.live != nil {
		b.Watching = []*streampb.Watching{s.live}
	}
	if s.placed {
		m.pos.Reset()
		b.Position = &m.pos
		p := b.Position
		p.Doppler, p.Epoch, p.First, p.Next = s.doppler, s.epoch, s.first, s.end
		p.Count, p.Deltas = uint32(len(s.records)), s.deltas
		p.Matched = s.matched - min(s.matched, uint64(len(s.records)))
	}
	meta, err := stream.AppendBatchMeta(m.meta[:0], b)
	if err != nil {
		return nil, fmt.Errorf("encode batch for tails: %w", err)
	}
	m.meta = meta
	size := len(meta)
	for _, r := range s.records {
		size += len(r)
	}
	f := m.frame(s, h, size)
	dst := f.buf.Bytes()
	at := copy(dst, meta)
	f.records = dst[at:]
	for _, r := range s.records {
		at += copy(dst[at:], r)
	}
	if len(s.deltas) > 0 {
		f.deltas = append([]uint32(nil), s.deltas...)
	}
	m.budget.add(f)
	return f, nil
}

// frame returns a frame for size bytes, to be filled and added to the budget.
func (m *maker) frame(s *spec, h holders, size int) *frame {
	f := &frame{
		buf: stream.NewBuffer(size), budget: m.budget, doppler: s.doppler, epoch: s.epoch, old: s.old,
		first: s.first, end: s.end, matched: s.matched, count: uint64(len(s.records)), gaps: s.gaps, placed: s.placed, holders: h,
		share: h.share(),
	}
	if f.count > 0 {
		f.made = m.now().UnixNano()
	}
	f.pinned = s.fin != nil || s.hello != nil || s.live != nil
	for _, g := range s.gaps {
		// Without a place nothing else would make up for it.
		f.pinned = f.pinned || (g.GetPrecision() != streampb.Gap_EXACT || !s.placed) && len(s.records) == 0
	}
	f.refs.Store(1)
	return f
}

// makeOld makes frames of the old framing. Places and the like it does not
// know; what they say still counts for the queue the frame is in.
func (m *maker) makeOld(s *spec, h holders) *frame {
	m.frames = m.frames[:0]
	for _, g := range s.gaps {
		m.frames = m.framer.AppendLine(m.frames, g, s.source, m.now().UnixNano())
	}
	for _, r := range s.records {
		if env, _, ok := envelope.Next(r); ok {
			m.frames = m.framer.AppendEnvelope(m.frames, env)
		}
	}
	f := m.frame(s, h, len(m.frames))
	copy(f.buf.Bytes(), m.frames)
	m.budget.add(f)
	return f
}

// cut returns a frame of what f holds from offset on, with one reference.
func (m *maker) cut(f *frame, from uint64, h holders) (*frame, error) {
	s := spec{doppler: f.doppler, epoch: f.epoch, end: f.end, matched: f.matched, gaps: f.gaps, placed: true}
	offset, i, last := f.first, 0, uint64(0)
	for env := range envelope.Walk(f.records) {
		if i > 0 {
			offset += delta(f.deltas, i)
		}
		if offset >= from {
			if len(s.records) == 0 {
				s.first = offset
			} else {
				s.deltas = append(s.deltas, uint32(offset-last))
			}
			s.records = append(s.records, envelope.AppendRecord(nil, env))
			last = offset
		}
		i++
	}
	if len(s.records) == 0 {
		s.first = s.end
	}
	s.deltas = compact(s.deltas)
	return m.make(&s, h)
}

// delta is the distance of envelope i to the one before.
func delta(deltas []uint32, i int) uint64 {
	if len(deltas) == 0 {
		return 1
	}
	return uint64(deltas[i-1])
}

// compact drops deltas that say nothing.
func compact(deltas []uint32) []uint32 {
	for _, d := range deltas {
		if d != 1 {
			return deltas
		}
	}
	return nil
}
