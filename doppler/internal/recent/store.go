// Package recent keeps the newest envelopes of every source after the ring has
// let go of them: a quiet app's last lines outlive the noise of others.
//
// Per source and class it keeps no more than a limit, and in all no more than
// a budget of bytes, its own bookkeeping included. Over the budget, the source
// that holds most loses its oldest first, so a source under its fair share
// keeps everything. Nothing is allocated per envelope, and the envelopes lie
// outside the garbage collector's heap.
package recent

import (
	"fmt"
	"sync"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/internal/offheap"
)

// Config is what New needs.
type Config struct {
	// Bytes bounds what the store takes, bookkeeping included.
	Bytes int64
	// Logs is how many of the newest envelopes of a source are kept of each
	// class of logs, Metrics how many of every other class.
	Logs, Metrics int
}

// What things cost, against the budget.
const (
	// A block, what is known about it, and its places in the list of free
	// ones and of shares.
	blockCost = blockSize + 24 + 4 + 16
	// A source without its id: the struct, the map's share, an allocation's
	// rounding.
	sourceCost = 256
	chainCost  = 64
	// MinBytes is the least Config.Bytes.
	MinBytes = 1 << 20
)

// Stats is what the store holds now, and what became of what it was offered.
type Stats struct {
	// Bytes is what of Budget is used.
	Bytes, Budget int64
	// Sources and Envelopes are what is held. Envelopes that have newer ones
	// over the limit may be among them for a while.
	Sources, Envelopes int
	// Kept counts envelopes that were taken, Evicted those that went for want
	// of room.
	Kept, Evicted uint64
}

// Store holds recent envelopes. Begin, Offer and End are for one goroutine at
// a time, everything else may be called concurrently.
type Store struct {
	// static
	budget int64
	limits [envelope.NumClasses]uint64
	// The largest envelope that is kept: one must not drive out all others.
	largest int

	// guarded by mu, held from Begin to End
	mu      sync.Mutex
	closed  bool
	blocks  blocks
	sources map[string]*source
	shares  shares
	chains  uint32 // numbers given
	used    int64
	held    int
	kept    uint64
	evicted uint64
}

// source is what is kept of one source.
type source struct {
	id     string
	blocks int
	chains [envelope.NumClasses]*chain

	// owned by shares
	listed        int
	before, after *source
}

// New returns an empty store, or an error that names the limit.
func New(cfg Config) (*Store, error) {
	if cfg.Bytes < MinBytes {
		return nil, fmt.Errorf("recent bytes %d: at least %d are needed", cfg.Bytes, MinBytes)
	}
	if cfg.Logs < 0 || cfg.Metrics < 0 {
		return nil, fmt.Errorf("recent envelopes per source %d and %d: must not be negative", cfg.Logs, cfg.Metrics)
	}
	s := &Store{
		budget: cfg.Bytes, largest: int(cfg.Bytes / 8),
		sources: make(map[string]*source), blocks: newBlocks(int(cfg.Bytes / blockCost)),
	}
	for class := range s.limits {
		s.limits[class] = uint64(cfg.Metrics)
	}
	s.limits[envelope.Log], s.limits[envelope.ErrorLog] = uint64(cfg.Logs), uint64(cfg.Logs)
	return s, nil
}

// Close gives the memory back. The store is empty from then on and takes
// nothing; every call is still allowed.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.closed = true
	offheap.Unmap(s.blocks.data)
	s.blocks, s.shares, s.sources = blocks{}, shares{}, make(map[string]*source)
	s.used, s.held = 0, 0
}

// Stats returns the present state.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{
		Bytes: s.used, Budget: s.budget, Sources: len(s.sources), Envelopes: s.held, Kept: s.kept, Evicted: s.evicted,
	}
}

// Begin comes before a number of Offers, End after them. In between all other
// calls wait, so it should take a millisecond or two at most. Locking for each
// envelope would cost more than storing it: memory that is long not used is
// slow to write, and every lock waits for that.
func (s *Store) Begin() { s.mu.Lock() }

// End lets the other calls go on.
func (s *Store) End() { s.mu.Unlock() }

// Offer takes an envelope that the ring is about to let go of, if it is among
// the newest of its source and class; others need not be offered. ordinal is how many envelopes of the
// same source and class came before it, newer how many after it. Envelopes
// come in the order of their offsets, between Begin and End; env is copied. The store keeps the
// string source.
func (s *Store) Offer(source string, class envelope.Class, ordinal, newer, offset uint64, env []byte) {
	limit := s.limits[class]
	if newer >= limit || s.closed {
		return
	}
	src, c := s.open(source, class)
	if c.count > 0 && ordinal > c.last+1 {
		// One in between was passed over, because limit newer ones had come:
		// all before it are older still.
		s.drop(src, c, c.count)
	}
	if len(env) <= s.largest && s.makeRoom(src, c, len(env)) {
		before := s.blocks.room()
		s.blocks.append(c, offset, env)
		s.take(src, before-s.blocks.room())
		s.held++
		s.kept++
	}
	c.last = ordinal
	s.drop(src, c, c.count-int(limit-newer))
	if c.count > 0 {
		s.shares.moved(src)
	} else {
		s.settle(src)
	}
}

// open finds or makes a chain. Until settle, it may be empty.
func (s *Store) open(id string, class envelope.Class) (*source, *chain) {
	src := s.sources[id]
	if src == nil {
		src = &source{id: id}
		s.sources[id] = src
		s.shares.add(src)
		s.used += sourceCost + int64(len(id))
	}
	c := src.chains[class]
	if c == nil {
		s.chains++
		c = &chain{number: s.chains, class: class}
		src.chains[class] = c
		s.used += chainCost
	}
	return src, c
}

// makeRoom evicts until n bytes can be appended to c. It returns false when
// they are too many.
func (s *Store) makeRoom(src *source, c *chain, n int) bool {
	for {
		need := c.blocksFor(n) // changes when c itself loses its last block
		if s.used+int64(need)*blockCost <= s.budget && need <= s.blocks.room() {
			return true
		}
		victim := s.shares.largest()
		if victim == nil {
			return false
		}
		s.evict(victim)
		if victim != src {
			s.settle(victim)
		}
	}
}

// evict drops the oldest block of a source.
func (s *Store) evict(src *source) {
	var oldest *chain
	for _, c := range src.chains {
		if c != nil && c.count > 0 && (oldest == nil || s.blocks.about[c.head].offset < s.blocks.about[oldest.head].offset) {
			oldest = c
		}
	}
	before := oldest.count
	s.release(src, oldest)
	s.evicted += uint64(before - oldest.count)
	s.shares.moved(src)
}

// drop lets go of the oldest blocks of c in which no more than n envelopes
// begin.
func (s *Store) drop(src *source, c *chain, n int) {
	for c.head != 0 && n >= int(s.blocks.about[c.head].starts) {
		before := c.count
		s.release(src, c)
		n -= before - c.count
	}
}

func (s *Store) release(src *source, c *chain) {
	before := c.count
	s.take(src, -s.blocks.drop(c))
	s.held -= before - c.count
}

// take accounts for blocks that src has got or given back.
func (s *Store) take(src *source, n int) {
	src.blocks += n
	s.used += int64(n) * blockCost
}

// settle forgets what is empty and brings the shares up to date.
func (s *Store) settle(src *source) {
	left := 0
	for class, c := range src.chains {
		switch {
		case c == nil:
		case c.count == 0:
			src.chains[class] = nil
			s.used -= chainCost
		default:
			left++
		}
	}
	if left > 0 {
		s.shares.moved(src)
		return
	}
	s.shares.remove(src)
	delete(s.sources, src.id)
	s.used -= sourceCost + int64(len(src.id))
}
