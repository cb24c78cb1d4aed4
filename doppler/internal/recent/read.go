package recent

import (
	"cmp"
	"math"
	"slices"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// blocksPerLock bounds how long a reader keeps the writer waiting: 64 KiB are
// copied in about 10 microseconds.
const blocksPerLock = 64

// Read visits the kept envelopes of source whose class is in mask and whose
// offset is in [from, to), the newest limit of them, oldest first. totals is
// how many envelopes of each class the source has had: one with too many newer
// ones is not kept any more, also if it is still there. env is valid during
// the visit. Read copies what it may need, a piece at a time, and never makes
// Offer wait for long; visit is called without a lock.
func (s *Store) Read(source string, mask envelope.ClassMask, from, to uint64, limit int, totals [envelope.NumClasses]uint64,
	visit func(offset uint64, class envelope.Class, env []byte),
) {
	var found []entry
	for class := range envelope.NumClasses {
		if !mask.Has(envelope.Class(class)) || limit <= 0 {
			continue
		}
		q := query{source: source, class: envelope.Class(class), from: from, to: to, limit: limit, total: totals[class]}
		found = append(found, s.newest(q)...)
	}
	slices.SortFunc(found, func(a, b entry) int { return cmp.Compare(a.offset, b.offset) })
	for _, e := range found[max(0, len(found)-limit):] {
		visit(e.offset, e.class, e.env)
	}
}

// query asks for the newest of one chain.
type query struct {
	source   string
	class    envelope.Class
	from, to uint64
	limit    int
	total    uint64
}

// newest returns the entries of one chain that q asks for, oldest first.
func (s *Store) newest(q query) []entry {
	w := walk{store: s, query: q, newer: math.MaxUint64}
	for w.step() {
	}
	if w.bytes == w.headless {
		return nil
	}
	slices.Reverse(w.pieces)
	data := make([]byte, 0, w.bytes)
	for _, p := range w.pieces {
		data = append(data, p...)
	}
	entries := parse(data[w.headless+w.first:], w.first, q.class, nil)
	entries = entries[max(0, len(entries)-w.allowed):]
	entries = slices.DeleteFunc(entries, func(e entry) bool { return e.offset < q.from || e.offset >= q.to })
	return entries[max(0, len(entries)-q.limit):]
}

// walk copies a chain from its newest block back, with pauses. What goes in
// the meantime goes from the oldest end, so what has been copied stays whole.
type walk struct {
	store *Store
	query
	begun   bool
	owner   uint32 // chain
	allowed int    // envelopes, from the newest on, that are not over the class's limit

	pieces [][]byte // newest first, each some blocks in order
	bytes  int
	seen   int // envelopes that begin in what was copied
	wanted int // those of them that are surely below to

	at       uint32 // block that was copied last, the oldest
	offset   uint64 // of that block
	newer    uint64 // least offset of an envelope that begins in what was copied
	first    int    // where the first header is in the oldest block that has one
	headless int    // bytes copied that are older than that block
}

// step copies up to blocksPerLock blocks and returns whether there may be more
// to copy.
func (w *walk) step() bool {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	next, fill, ok := w.resume()
	var piece []uint32
	size := fill
	for ok && next != 0 && len(piece) < blocksPerLock && w.wantsMore() {
		w.note(next, size)
		piece = append(piece, next)
		next, size = s.blocks.about[next].prev, blockSize
	}
	w.copy(piece, fill)
	return next != 0 && len(piece) > 0 && w.wantsMore()
}

// wantsMore: older blocks hold something that is asked for, or the beginning
// of what was copied.
func (w *walk) wantsMore() bool {
	if w.headless > 0 || w.seen == 0 {
		return w.allowed > 0
	}
	return w.seen < w.allowed && w.wanted < w.limit && w.offset > w.from
}

// note counts what is in a block of so many bytes that is about to be copied.
func (w *walk) note(number uint32, size int) {
	b := &w.store.blocks.about[number]
	w.at, w.offset = number, b.offset
	if b.starts == 0 {
		w.headless += size
		return
	}
	w.first, w.headless = int(b.first), 0
	w.seen += int(b.starts)
	if w.newer <= w.to {
		w.wanted += int(b.starts)
	}
	w.newer = b.offset
}

// resume finds the block to go on with and how much of it is filled.
func (w *walk) resume() (next uint32, fill int, ok bool) {
	s := w.store
	src := s.sources[w.source]
	if src == nil || src.chains[w.class] == nil {
		return 0, 0, false
	}
	c := src.chains[w.class]
	if !w.begun {
		w.begun, w.owner = true, c.number
		w.allowed = s.allowed(c, w.total)
		return c.tail, c.fill, true
	}
	b := &s.blocks.about[w.at]
	if b.owner != w.owner || b.offset != w.offset {
		return 0, 0, false // gone, and all that is older with it
	}
	return b.prev, blockSize, true
}

// allowed is how many of the newest envelopes in c have fewer newer ones than
// the limit. When total does not reach up to c, the ring has forgotten the
// source in between and counted anew.
func (s *Store) allowed(c *chain, total uint64) int {
	newer := total
	if total > c.last {
		newer = total - c.last - 1
	}
	limit := s.limits[c.class]
	return int(limit - min(newer, limit))
}

// copy adds the blocks of piece, newest first, whose newest is filled so far.
func (w *walk) copy(piece []uint32, fill int) {
	if len(piece) == 0 {
		return
	}
	data := make([]byte, 0, len(piece)*blockSize)
	for i := len(piece) - 1; i > 0; i-- {
		data = append(data, w.store.blocks.bytes(piece[i])...)
	}
	data = append(data, w.store.blocks.bytes(piece[0])[:fill]...)
	w.pieces = append(w.pieces, data)
	w.bytes += len(data)
}
