package ring

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

var oneSeed = flag.Uint64("ring.seed", 0, "replay the random history of this seed alone")

// model is the naive ring: a slice of everything. A history drives both and
// compares.
type model struct {
	rng     *rand.Rand
	ring    *Ring
	all     []entry
	offered uint64 // next offset that OnEvict has to bring
	refs    []*Source
	pinned  []pin
	faults  []string
}

// pin is a chunk held across steps and what it held in the beginning.
type pin struct {
	chunk Chunk
	bytes []byte
}

func (m *model) fault(format string, args ...any) {
	m.faults = append(m.faults, fmt.Sprintf(format, args...))
}

func newModel(seed uint64) (*model, error) {
	m := &model{rng: rand.New(rand.NewPCG(seed, 1))}
	size := 64 << m.rng.IntN(4)
	cfg := Config{
		SegmentBytes: size, MaxIdleSources: 1 + m.rng.IntN(4),
		Bytes:   (3 + m.rng.Int64N(5)) * segmentBytes(size, 16),
		OnEvict: m.onEvict, BeforeEvict: m.beforeEvict,
	}
	var err error
	m.ring, err = New(cfg)
	return m, err
}

// onEvict compares an evicted envelope with the model.
func (m *model) onEvict(e Evicted) {
	if e.Offset != m.offered || e.Offset >= uint64(len(m.all)) {
		m.fault("offset %d was offered, want %d", e.Offset, m.offered)
		return
	}
	m.offered++
	want := m.all[e.Offset]
	if e.Source != want.source || e.Class != want.class || !bytes.Equal(e.Env, want.env) {
		m.fault("offset %d was offered as %s %v %q", e.Offset, e.Source, e.Class, e.Env)
	}
	// The source's counters begin when it is seen first or again.
	born, before, after := e.Offset, uint64(0), uint64(0)
	if s := m.ring.sources.find(envelope.HashSource(e.Source), e.Source); s != nil {
		born = s.born
	}
	for i := born; i < m.ring.Head(); i++ {
		if o := m.all[i]; o.source != want.source || o.class != want.class {
			continue
		}
		switch {
		case i < e.Offset:
			before++
		case i > e.Offset:
			after++
		}
	}
	if e.Ordinal != before || e.Newer != after {
		m.fault("offset %d has ordinal %d and %d newer, want %d and %d", e.Offset, e.Ordinal, e.Newer, before, after)
	}
}

func (m *model) beforeEvict(c Chunk) {
	if c.First != m.offered || c.First != m.ring.Oldest() {
		m.fault("%d is about to go, want %d", c.First, m.offered)
	}
}

// counts are the envelopes of source in offsets [from, to).
func (m *model) counts(source string, from, to uint64) (c Counts) {
	for i := from; i < to; i++ {
		if m.all[i].source == source {
			c[m.all[i].class]++
		}
	}
	return c
}

func (m *model) source() string { return string(rune('a' + m.rng.IntN(7))) }

func (m *model) mask() envelope.ClassMask {
	if m.rng.IntN(3) == 0 {
		return envelope.AllClasses
	}
	return envelope.ClassMask(m.rng.IntN(int(envelope.AllClasses) + 1))
}

// step does something.
func (m *model) step() {
	switch n := m.rng.IntN(20); {
	case n < 11:
		m.append()
	case n < 13:
		m.ring.EvictAhead()
	case n < 15:
		m.refs = append(m.refs, m.ring.Ref(m.source()))
	case n < 17 && len(m.refs) > 0:
		i := m.rng.IntN(len(m.refs))
		m.ring.Unref(m.refs[i])
		m.refs = append(m.refs[:i], m.refs[i+1:]...)
	case n < 18 && len(m.pinned) < 3 && m.ring.Head() > m.ring.Oldest():
		off := m.ring.Oldest() + m.rng.Uint64N(m.ring.Head()-m.ring.Oldest())
		if c, err := m.ring.Acquire(off); err != nil {
			m.fault("acquire %d: %v", off, err)
		} else {
			m.pinned = append(m.pinned, pin{c, bytes.Clone(c.Bytes(0, c.Len()))})
		}
	case len(m.pinned) > 0:
		m.release()
	}
}

func (m *model) append() {
	b := &batch{strange: m.rng.IntN(4)}
	for range m.rng.IntN(12) {
		n := m.rng.IntN(50)
		if m.rng.IntN(30) == 0 {
			n = m.rng.IntN(1200)
		}
		env := make([]byte, n)
		for i := range env {
			env[i] = byte(m.rng.Uint32())
		}
		class := envelope.Class(m.rng.IntN(envelope.NumClasses))
		b.add(m.source(), class, env)
	}
	first := uint64(len(m.all))
	m.all = append(m.all, b.entries...)
	if off := b.to(m.ring); off != first {
		m.fault("append gave %d, want %d", off, first)
	}
	if m.ring.Head() != uint64(len(m.all)) {
		m.fault("head is %d, want %d", m.ring.Head(), len(m.all))
	}
}

func (m *model) release() {
	p := m.pinned[0]
	if !bytes.Equal(p.chunk.Bytes(0, p.chunk.Len()), p.bytes) {
		m.fault("the chunk at %d changed under a pin", p.chunk.First)
	}
	p.chunk.Release()
	m.pinned = m.pinned[1:]
}

// check compares everything that can be asked.
func (m *model) check() {
	oldest, head := m.ring.Oldest(), m.ring.Head()
	if oldest != m.offered {
		m.fault("oldest is %d, offered up to %d", oldest, m.offered)
	}
	m.checkCounters(oldest, head)
	m.checkSources(oldest, head)
	m.checkMemory()
	m.checkChunk(m.rng.Uint64N(head + 2))
}

func (m *model) checkCounters(oldest, head uint64) {
	mask := m.mask()
	f := Filter{Mask: mask}
	var appended, evicted uint64
	if m.rng.IntN(2) == 0 && len(m.refs) > 0 {
		s := m.refs[m.rng.IntN(len(m.refs))]
		f = Filter{Of: []SourceMask{{s, mask}}}
		a, e := m.counts(s.id, s.born, head), m.counts(s.id, min(s.born, oldest), oldest)
		appended, evicted = a.Sum(mask), e.Sum(mask)
	} else {
		for i, e := range m.all {
			if mask.Has(e.class) {
				appended++
				if uint64(i) < oldest {
					evicted++
				}
			}
		}
	}
	if at, n := m.ring.Appended(f); at != head || n.Total() != appended || n.Sum(mask) != appended {
		m.fault("appended %v at %d, want %d at %d", n, at, appended, head)
	}
	if at, n := m.ring.Evicted(f); at != oldest || n.Total() != evicted || n.Sum(mask) != evicted {
		m.fault("evicted %v at %d, want %d at %d", n, at, evicted, oldest)
	}
}

// checkSources asks for everything about one source, and what is remembered.
func (m *model) checkSources(oldest, head uint64) {
	for _, s := range m.refs {
		if found, ok := m.ring.Find(s.id); !ok || found != s || m.ring.sources.byNumber[s.number] != s {
			m.fault("source %q with a reader is forgotten", s.id)
		}
	}
	forgottenBelow := uint64(0)
	for id := 'a'; id < 'h'; id++ {
		s, ok := m.ring.Find(string(id))
		for i, e := range m.all {
			if off := uint64(i); e.source == string(id) && (!ok || off < s.born) {
				forgottenBelow = max(forgottenBelow, off+1)
				if off >= oldest {
					m.fault("source %q holds %d but is forgotten", e.source, off)
				}
			}
		}
	}
	if m.ring.ForgottenSince(forgottenBelow) || forgottenBelow > 0 && !m.ring.ForgottenSince(forgottenBelow-1) {
		m.fault("forgotten below %d, want %d", m.ring.sources.forgottenBelow, forgottenBelow)
	}
	if len(m.refs) > 0 {
		m.checkSource(m.refs[m.rng.IntN(len(m.refs))], oldest, head)
	}
}

func (m *model) checkSource(s *Source, oldest, head uint64) {
	off := m.rng.Uint64N(head + 1)
	want := max(off, oldest)
	if at, c := m.ring.CountsAt(s, off); at != want || c != m.counts(s.id, min(s.born, want), want) {
		m.fault("counts of %q at %d: %v at %d", s.id, off, c, at)
	}
	m.ring.EvictedOf([]*Source{s}, func(_ int, c *Counts) {
		if *c != m.counts(s.id, min(s.born, oldest), oldest) {
			m.fault("evicted counts of %q: %v", s.id, *c)
		}
	})
	mask, next := m.mask(), min(off, head)
	m.ring.Newest(s, mask, off, func(at uint64, class envelope.Class, env []byte) bool {
		for next > 0 {
			next--
			if e := m.all[next]; e.source == s.id && mask.Has(e.class) {
				break
			}
		}
		if e := m.all[at]; at != next || e.class != class || e.source != s.id || !bytes.Equal(e.env, env) {
			m.fault("newest of %q below %d has %d, want %d", s.id, off, at, next)
		}
		return true
	})
	for next > oldest {
		next--
		if e := m.all[next]; e.source == s.id && mask.Has(e.class) {
			m.fault("newest of %q below %d leaves out %d", s.id, off, next)
		}
	}
}

// checkMemory adds up the segments. The budget holds unless readers pin more
// than one segment or a single envelope is larger than all of it.
func (m *model) checkMemory() {
	r, sum, pinned, single := m.ring, int64(0), int64(0), int64(0)
	for _, s := range append(r.live[:len(r.live):len(r.live)], r.free...) {
		sum += segmentBytes(len(s.data), len(s.index))
		single = max(single, segmentBytes(len(s.data), len(s.index)))
	}
	for _, s := range r.free {
		if len(s.data) != r.dataBytes {
			m.fault("a segment of %d bytes is free", len(s.data))
		}
	}
	seen := map[*segment]bool{}
	for _, p := range m.pinned {
		if s := p.chunk.seg; s.retired && !seen[s] {
			seen[s] = true
			pinned += segmentBytes(len(s.data), len(s.index))
		}
	}
	if sum+pinned != r.used {
		m.fault("%d bytes used, segments have %d and %d pinned", r.used, sum, pinned)
	}
	if r.used > r.cfg.Bytes && r.used-pinned > single {
		m.fault("%d bytes used of %d with %d pinned", r.used, r.cfg.Bytes, pinned)
	}
	if r.zombies != len(seen) {
		m.fault("%d retired segments pinned, want %d", r.zombies, len(seen))
	}
}

// checkChunk reads at off.
func (m *model) checkChunk(off uint64) {
	c, err := m.ring.Acquire(off)
	switch {
	case off >= m.ring.Head():
		if !errors.Is(err, ErrHead) {
			m.fault("acquire %d at head: %v", off, err)
		}
		return
	case off < m.ring.Oldest():
		if !errors.Is(err, ErrEvicted) {
			m.fault("acquire %d below oldest: %v", off, err)
		}
		return
	case err != nil:
		m.fault("acquire %d: %v", off, err)
		return
	}
	defer c.Release()
	if c.First != off || c.Len() == 0 {
		m.fault("chunk at %d begins at %d and has %d envelopes", off, c.First, c.Len())
	}
	var want []byte
	for i := range c.Len() {
		e := m.all[off+uint64(i)]
		want = envelope.AppendRecord(want, e.env)
		if s := m.ring.sources.byNumber[c.Source(i)]; c.Class(i) != e.class || !c.Holds(1<<e.class) || s == nil || s.id != e.source {
			m.fault("offset %d has class %v and source number %d", off+uint64(i), c.Class(i), c.Source(i))
		}
	}
	if !bytes.Equal(c.Bytes(0, c.Len()), want) || c.Size(0, c.Len()) != len(want) {
		m.fault("chunk at %d has other bytes", off)
	}
}

func runHistory(t *testing.T, seed uint64) {
	m, err := newModel(seed)
	if err != nil {
		t.Fatal(err)
	}
	defer m.ring.Close()
	for i := range 20 + m.rng.IntN(60) {
		m.step()
		m.check()
		if len(m.faults) > 0 {
			t.Fatalf("seed %d, step %d: %v (replay with -ring.seed=%d)", seed, i, m.faults, seed)
		}
	}
	for len(m.pinned) > 0 {
		m.release()
	}
	m.append()
	m.check()
	if len(m.faults) > 0 {
		t.Fatalf("seed %d, in the end: %v (replay with -ring.seed=%d)", seed, m.faults, seed)
	}
}

func TestRandomHistories(t *testing.T) {
	if *oneSeed != 0 {
		runHistory(t, *oneSeed)
		return
	}
	for seed := range uint64(histories) {
		runHistory(t, seed+1)
	}
}
