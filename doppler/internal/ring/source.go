package ring

import "github.com/a1ea6966/loggregator/api/envelope"

// Counts is a number of envelopes per class.
type Counts [envelope.NumClasses]uint64

// Sum adds up the classes in mask.
func (c *Counts) Sum(mask envelope.ClassMask) uint64 {
	var n uint64
	for i := range c {
		if mask.Has(envelope.Class(i)) {
			n += c[i]
		}
	}
	return n
}

// Total adds up all classes.
func (c *Counts) Total() uint64 { return c.Sum(envelope.AllClasses) }

// add adds the classes of o that are in mask.
func (c *Counts) add(o *Counts, mask envelope.ClassMask) {
	for i := range c {
		if mask.Has(envelope.Class(i)) {
			c[i] += o[i]
		}
	}
}

// Source is what the ring knows of one source id.
type Source struct {
	// static after creation
	id     string
	hash   uint64
	number uint32
	born   uint64 // head when the source was first seen, or seen again

	// guarded by appendMu; what an append touches is close together
	used          bool
	last          uint64 // offset of its newest envelope, if used
	appendedBytes uint64
	appended      Counts
	limited       uint64
	refs          int
	twin          *Source // next source with the same hash

	// owned by the evictor (evictMu)
	offered Counts // envelopes offered to OnEvict: ordinals of the next ones
	newest  Counts // appended when the eviction began
	mark    bool   // in Ring.touched

	// guarded by statMu
	evicted    Counts
	queuedIdle bool
	forgotten  bool
}

// ID is the source id. Number stands for it in the index while the source is
// referenced or held.
func (s *Source) ID() string { return s.id }

// Number identifies the source in Chunk.Source.
func (s *Source) Number() uint32 { return s.number }

// sourceTable maps source ids to sources; guarded by appendMu.
type sourceTable struct {
	byHash   map[uint64]*Source
	byNumber []*Source
	unused   []uint32 // numbers free to be given again
	// one past the newest offset of any forgotten source
	forgottenBelow uint64
}

func (t *sourceTable) init() {
	t.byHash = make(map[uint64]*Source)
}

// lookup returns the source named id, making it if need be.
func (t *sourceTable) lookup(hash uint64, id []byte, off uint64) *Source {
	head := t.byHash[hash]
	for s := head; s != nil; s = s.twin {
		if s.id == string(id) {
			return s
		}
	}
	s := &Source{id: string(id), hash: hash, born: off, twin: head}
	if n := len(t.unused); n > 0 {
		s.number = t.unused[n-1]
		t.unused = t.unused[:n-1]
		t.byNumber[s.number] = s
	} else {
		s.number = uint32(len(t.byNumber))
		t.byNumber = append(t.byNumber, s)
	}
	t.byHash[hash] = s
	return s
}

// known is the number of sources in the table.
func (t *sourceTable) known() int { return len(t.byNumber) - len(t.unused) }

func (t *sourceTable) find(hash uint64, id string) *Source {
	for s := t.byHash[hash]; s != nil; s = s.twin {
		if s.id == id {
			return s
		}
	}
	return nil
}

func (t *sourceTable) remove(s *Source) {
	at := t.byHash[s.hash]
	if at == s {
		if s.twin == nil {
			delete(t.byHash, s.hash)
		} else {
			t.byHash[s.hash] = s.twin
		}
	} else {
		for at.twin != s {
			at = at.twin
		}
		at.twin = s.twin
	}
	t.byNumber[s.number] = nil
	t.unused = append(t.unused, s.number)
	if s.used && s.last+1 > t.forgottenBelow {
		t.forgottenBelow = s.last + 1
	}
}

// Ref returns the source named id and keeps it, its number and its counters
// until Unref. It makes the source if need be.
func (r *Ring) Ref(id string) *Source {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	s := r.sources.lookup(envelope.HashSource(id), []byte(id), r.head.Load())
	s.refs++
	return s
}

// Unref undoes one Ref.
func (r *Ring) Unref(s *Source) {
	r.appendMu.Lock()
	s.refs--
	idle := s.refs == 0
	r.appendMu.Unlock()
	if idle {
		r.statMu.Lock()
		r.queueIdle(s)
		r.statMu.Unlock()
	}
}

// Find returns the source named id if the ring knows it. The result is good
// for a look-up right away; to keep it, use Ref.
func (r *Ring) Find(id string) (*Source, bool) {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	s := r.sources.find(envelope.HashSource(id), id)
	return s, s != nil
}

// queueIdle remembers s as a source that may be forgotten. statMu is held.
func (r *Ring) queueIdle(s *Source) {
	if !s.queuedIdle {
		s.queuedIdle = true
		r.idle = append(r.idle, s)
	}
}

// forgetIdle drops the oldest idle sources over the limit. It is called when
// no segment is retired but still read, so that no reader can meet a number
// that was given again.
func (r *Ring) forgetIdle() {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	r.statMu.Lock()
	defer r.statMu.Unlock()
	if len(r.idle) <= r.cfg.MaxIdleSources {
		return
	}
	r.dirMu.Lock()
	busy := r.zombies > 0
	r.dirMu.Unlock()
	if busy {
		return
	}
	excess := len(r.idle) - r.cfg.MaxIdleSources
	for _, s := range r.idle[:excess] {
		s.queuedIdle = false
		if s.refs == 0 && s.evicted == s.appended && !s.forgotten {
			s.forgotten = true
			r.sources.remove(s)
		}
	}
	r.idle = append(r.idle[:0], r.idle[excess:]...)
}

// Filter names the envelopes that counters count: those of a class in Mask, of
// any source, and those of other classes of some sources.
type Filter struct {
	Mask envelope.ClassMask
	Of   []SourceMask // each source once, no class that is in Mask
}

// SourceMask is some classes of one source, which is kept by Ref.
type SourceMask struct {
	*Source
	Mask envelope.ClassMask
}

// Appended returns the next offset and how many envelopes below it match, by
// class.
func (r *Ring) Appended(f Filter) (head uint64, matched Counts) {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	matched.add(&r.classes, f.Mask)
	for _, s := range f.Of {
		matched.add(&s.appended, s.Mask)
	}
	return r.head.Load(), matched
}

// Evicted returns the oldest offset held and how many envelopes below it
// match, by class.
func (r *Ring) Evicted(f Filter) (oldest uint64, matched Counts) {
	r.statMu.Lock()
	defer r.statMu.Unlock()
	matched.add(&r.evicted, f.Mask)
	for _, s := range f.Of {
		matched.add(&s.evicted, s.Mask)
	}
	return r.oldest.Load(), matched
}

// EvictedOf returns the oldest offset held and visits the counts of each of
// sources below it, all of the same moment. visit must not call the ring.
func (r *Ring) EvictedOf(sources []*Source, visit func(i int, c *Counts)) (oldest uint64) {
	r.statMu.Lock()
	defer r.statMu.Unlock()
	for i, s := range sources {
		visit(i, &s.evicted)
	}
	return r.oldest.Load()
}

// CountsAt returns how many envelopes of s lie below off, by class. When off
// is held no more, at is the oldest offset instead and the counts are those
// below it. s is kept by Ref.
func (r *Ring) CountsAt(s *Source, off uint64) (at uint64, counts Counts) {
	for {
		r.appendMu.Lock()
		counts = s.appended
		last, used := s.last, s.used
		r.appendMu.Unlock()
		if oldest := r.Oldest(); off < oldest {
			at = r.EvictedOf([]*Source{s}, func(_ int, c *Counts) { counts = *c })
			return at, counts
		}
		if !used || last < off {
			return off, counts
		}
		w := walker{ring: r}
		ok := w.back(last, off, func(_ uint64, c Chunk, i int) bool {
			counts[c.Class(i)]--
			return true
		})
		if ok {
			return off, counts
		}
	}
}

// ForgottenSince tells whether a source that had envelopes at or after off was
// forgotten, so that a count made of that source is not exact.
func (r *Ring) ForgottenSince(off uint64) bool {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	return r.sources.forgottenBelow > off
}

// BornAt is the offset at which the counters of s began.
func (s *Source) BornAt() uint64 { return s.born }

// CountLimited counts n envelopes of the source named id that were not appended
// because it was over its limit; of a source that the ring does not know, it
// does nothing.
func (r *Ring) CountLimited(id string, n uint64) {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	if s := r.sources.find(envelope.HashSource(id), id); s != nil {
		s.limited += n
	}
}

// SourceStats is the top-talker view of one source.
type SourceStats struct {
	ID        string
	Envelopes uint64
	Bytes     uint64
	Held      uint64
	Limited   uint64 // see CountLimited
}

// EachSource visits the known sources. It holds up appends for as long as it
// takes to copy the numbers, not for the visits.
func (r *Ring) EachSource(visit func(SourceStats)) {
	r.appendMu.Lock()
	list := make([]SourceStats, 0, len(r.sources.byNumber))
	sources := make([]*Source, 0, len(r.sources.byNumber))
	for _, s := range r.sources.byNumber {
		if s == nil || !s.used {
			continue
		}
		list = append(list, SourceStats{
			ID: s.id, Envelopes: s.appended.Sum(envelope.AllClasses), Bytes: s.appendedBytes, Limited: s.limited,
		})
		sources = append(sources, s)
	}
	r.appendMu.Unlock()
	r.statMu.Lock()
	for i, s := range sources {
		if gone := s.evicted.Sum(envelope.AllClasses); gone < list[i].Envelopes {
			list[i].Held = list[i].Envelopes - gone
		}
	}
	r.statMu.Unlock()
	for _, st := range list {
		visit(st)
	}
}

// Totals returns how many envelopes of s were appended, by class.
func (r *Ring) Totals(s *Source) Counts {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	return s.appended
}
