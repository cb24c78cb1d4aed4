package ring

import (
	"errors"
	"math"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// NewestSince is Newest for envelopes with a timestamp of start or later. It
// visits them from new to old by offset, which is not the order of timestamps,
// and stops as soon as no older segment has any.
func (r *Ring) NewestSince(s *Source, mask envelope.ClassMask, to uint64, start int64,
	visit func(off uint64, class envelope.Class, time int64, env []byte) bool,
) {
	low := r.since(start)
	r.Newest(s, mask, to, func(off uint64, class envelope.Class, env []byte) bool {
		if off < low {
			return false
		}
		if t := envelope.Timestamp(env); t >= start {
			return visit(off, class, t, env)
		}
		return true
	})
}

// since returns an offset below which no envelope that is held has a timestamp
// of start or later. It looks at each sealed segment once in its life.
func (r *Ring) since(start int64) uint64 {
	off := r.Oldest()
	if start == math.MinInt64 {
		return off
	}
	for {
		c, err := r.Acquire(off)
		if errors.Is(err, ErrEvicted) {
			off = r.Oldest()
			continue
		}
		if err != nil {
			return off
		}
		sealed := r.sealed(c)
		if !sealed || c.latest() >= start {
			c.Release()
			return off
		}
		off = c.First + uint64(c.n)
		c.Release()
	}
}

// sealed tells whether nothing is appended to a chunk's segment any more, and
// makes the chunk all of it.
func (r *Ring) sealed(c Chunk) bool {
	r.dirMu.Lock()
	defer r.dirMu.Unlock()
	return len(r.live) > 0 && r.live[len(r.live)-1] != c.seg && uint32(c.skip+c.n) == c.seg.published.Load()
}

// latest is the newest timestamp in the segment of a chunk, which is sealed.
func (c Chunk) latest() int64 {
	if t := c.seg.latest.Load(); t != math.MinInt64 {
		return t
	}
	latest := int64(math.MinInt64)
	for i := range int(c.seg.published.Load()) {
		latest = max(latest, envelope.Timestamp(content(c.seg.data[c.seg.start(i):c.seg.start(i+1)])))
	}
	c.seg.latest.Store(latest)
	return latest
}

// Ends is the timestamps of the oldest and of the newest envelope that is held
// of a source, by offset.
type Ends struct{ Oldest, Newest int64 }

// Ends returns, by source id, the ends of every source of which something is
// held. It walks the index, not the envelopes; nothing waits for it.
func (r *Ring) Ends() map[string]Ends {
	names, newest := r.lasts()
	ends := make(map[string]Ends, len(names))
	for number, off := range newest {
		if t, ok := r.timeAt(off); ok {
			ends[names[number]] = Ends{Oldest: t, Newest: t}
		}
	}
	r.oldests(names, ends)
	return ends
}

// lasts returns the name and the newest offset of every source that is held,
// by number.
func (r *Ring) lasts() (names map[uint32]string, newest map[uint32]uint64) {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	oldest := r.Oldest()
	names, newest = make(map[uint32]string, len(r.sources.byNumber)), make(map[uint32]uint64, len(r.sources.byNumber))
	for number, s := range r.sources.byNumber {
		if s != nil && s.used && s.last >= oldest {
			names[uint32(number)], newest[uint32(number)] = s.id, s.last
		}
	}
	return names, newest
}

func (r *Ring) timeAt(off uint64) (t int64, ok bool) {
	c, err := r.Acquire(off)
	if err != nil {
		return 0, false
	}
	defer c.Release()
	return envelope.Timestamp(c.Envelope(0)), true
}

// oldests sets the oldest end of each of names, from the oldest offset on until
// all are found.
func (r *Ring) oldests(names map[uint32]string, ends map[string]Ends) {
	left := len(names)
	seen := make([]bool, r.numbers())
	for off := r.Oldest(); left > 0; {
		c, err := r.Acquire(off)
		if errors.Is(err, ErrEvicted) {
			off = max(off+1, r.Oldest())
			continue
		}
		if err != nil {
			return
		}
		for i := 0; i < c.n && left > 0; i++ {
			number := c.Source(i)
			if int(number) >= len(seen) || seen[number] {
				continue
			}
			seen[number] = true
			if name, ok := names[number]; ok {
				left--
				if e, held := ends[name]; held {
					ends[name] = Ends{Oldest: envelope.Timestamp(c.Envelope(i)), Newest: e.Newest}
				}
			}
		}
		off += uint64(c.n)
		c.Release()
	}
}

func (r *Ring) numbers() int {
	r.appendMu.Lock()
	defer r.appendMu.Unlock()
	return len(r.sources.byNumber)
}
