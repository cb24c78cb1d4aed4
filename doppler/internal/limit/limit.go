// Package limit holds each source to a rate, so that one loud app cannot turn
// the ring over for all: a token bucket for every source.
//
// It contains no clock and no goroutine, and never waits but for another
// message's turn at the same buckets. What is over the limit is counted per
// source until somebody asks for it with Untold.
package limit

import (
	"bytes"
	"sync"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// Bounds of Config.
const (
	MaxRate  = 10_000_000
	MaxBurst = 100_000_000
	// defaultBuckets is as many sources as may be below their burst at the same
	// moment, at some 120 bytes each and their ids.
	defaultBuckets = 1 << 16
)

// Config is what New needs.
type Config struct {
	// Rate is how many envelopes of a source are let in per second, 1 to
	// MaxRate.
	Rate int
	// Burst is how many at once after a pause, 1 to MaxBurst; 0 means one
	// second's worth.
	Burst int
	// Classes are those that are limited, all of a source together. Others are
	// let in and not counted.
	Classes envelope.ClassMask
	// Buckets bounds how many sources are remembered; 0 means the default. Only
	// those that have not been quiet for long enough to have their burst again
	// need to be. If there are more, the one closest to that is forgotten.
	Buckets int
}

// Limiter limits sources. Its methods may be called concurrently.
type Limiter struct {
	classes envelope.ClassMask // static
	shards  [shards]shard
}

// shards is a power of two. Messages contend for a source only, or almost.
const shards = 16

// New returns a limiter whose sources all have their burst.
func New(cfg Config) *Limiter {
	if cfg.Burst == 0 {
		cfg.Burst = cfg.Rate
	}
	if cfg.Buckets == 0 {
		cfg.Buckets = defaultBuckets
	}
	l := &Limiter{classes: cfg.Classes}
	for i := range l.shards {
		l.shards[i].table = newTable(cfg, max(cfg.Buckets/shards, 1))
	}
	return l
}

// shard is the buckets of some sources.
type shard struct {
	mu     sync.Mutex
	table  table
	untold []int32 // buckets with untold > 0
	_      [64]byte
}

// Admit leaves out of recs, which index msg, what is over the limit of its
// source, and returns the rest in the same memory. now is in nanoseconds since
// any moment; it may be a little older than that of another call.
func (l *Limiter) Admit(now int64, msg []byte, recs []envelope.Record) []envelope.Record {
	kept := 0
	for i := 0; i < len(recs); {
		n := l.run(msg, recs[i:])
		in := n
		if l.classes.Has(recs[i].Class) {
			in = l.take(now, recs[i].Hash, msg[recs[i].SourceStart:recs[i].SourceEnd], n)
		}
		if kept != i {
			copy(recs[kept:], recs[i:i+in])
		}
		kept, i = kept+in, i+n
	}
	return recs[:kept]
}

// run is how many of recs have one answer: they are not limited, or all are
// and of the same source.
func (l *Limiter) run(msg []byte, recs []envelope.Record) int {
	first := &recs[0]
	limited := l.classes.Has(first.Class)
	id := msg[first.SourceStart:first.SourceEnd]
	n := 1
	for ; n < len(recs); n++ {
		r := &recs[n]
		if l.classes.Has(r.Class) != limited {
			break
		}
		if limited && (r.Hash != first.Hash || !bytes.Equal(msg[r.SourceStart:r.SourceEnd], id)) {
			break
		}
	}
	return n
}

// take asks for n envelopes of a source, returns how many it may have, and
// counts the others.
func (l *Limiter) take(now int64, hash uint64, id []byte, n int) int {
	s := &l.shards[hash%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, ok := s.table.find(id, now)
	if !ok {
		return n
	}
	b := &s.table.buckets[at]
	in := s.table.draw(b, now, n)
	if in < n {
		if b.untold == 0 {
			s.untold = append(s.untold, at)
		}
		b.untold += uint64(n - in)
	}
	return in
}

// Left is how many envelopes of a source were left out.
type Left struct {
	Source string
	Count  uint64
}

// Untold appends to dst what was left out since it was last asked, each source
// once, in no order.
func (l *Limiter) Untold(dst []Left) []Left {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for _, at := range s.untold {
			b := &s.table.buckets[at]
			dst = append(dst, Left{b.id, b.untold})
			b.untold = 0
		}
		s.untold = s.untold[:0]
		s.mu.Unlock()
	}
	return dst
}
