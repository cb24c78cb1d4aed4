package recent

import (
	"encoding/binary"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/internal/offheap"
)

// Envelopes of one (source, class) lie one after another in a chain of blocks
// of equal size. An envelope may span blocks, the header before it does not:
// where it would not fit, the next block begins with it. Oldest ones go a
// block at a time, by what is known about the block, so that letting go does
// not touch memory that nobody has looked at for long.
const (
	blockSize  = 1 << 10
	headerSize = 12 // offset, length
)

// block is what is known about a block without looking into it. Number 0 is
// no block.
type block struct {
	next, prev uint32 // prev: towards the oldest
	owner      uint32 // number of the chain
	first      uint16 // where the first header is, if there is any
	starts     uint16 // how many headers are in it
	offset     uint64 // of the first header's envelope, or of the one that runs on
}

// chain is the newest envelopes of one (source, class), without a hole.
type chain struct {
	number     uint32
	class      envelope.Class
	head, tail uint32 // oldest and newest block; a header is always in head
	fill       int    // bytes used of tail
	count      int    // envelopes
	last       uint64 // ordinal of the newest
}

// blocks is the memory of all chains.
type blocks struct {
	data  []byte
	about []block
	free  []uint32 // given back
	fresh uint32   // next one never used
}

func newBlocks(n int) blocks {
	return blocks{data: offheap.Map(n * blockSize), about: make([]block, n+1), fresh: 1}
}

func (b *blocks) bytes(n uint32) []byte { return b.data[(int(n)-1)*blockSize : int(n)*blockSize] }

// room is how many blocks can be taken.
func (b *blocks) room() int { return len(b.about) - int(b.fresh) + len(b.free) }

func (b *blocks) take() uint32 {
	if n := len(b.free); n > 0 {
		taken := b.free[n-1]
		b.free = b.free[:n-1]
		return taken
	}
	b.fresh++
	return b.fresh - 1
}

// blocksFor is how many new blocks it takes to append n bytes of envelope.
func (c *chain) blocksFor(n int) int {
	left := blockSize - c.fill
	if c.tail == 0 || left < headerSize {
		left = 0
	}
	need := headerSize + n - left
	return max(0, (need+blockSize-1)/blockSize)
}

// append adds an envelope at the newest end. There has to be room.
func (b *blocks) append(c *chain, offset uint64, env []byte) {
	if c.tail == 0 || blockSize-c.fill < headerSize {
		b.extend(c, offset)
	}
	about := &b.about[c.tail]
	if about.starts == 0 {
		about.first, about.offset = uint16(c.fill), offset
	}
	about.starts++
	at := b.bytes(c.tail)[c.fill:]
	binary.LittleEndian.PutUint64(at, offset)
	binary.LittleEndian.PutUint32(at[8:], uint32(len(env)))
	n := copy(at[headerSize:], env)
	c.fill += headerSize + n
	for env = env[n:]; len(env) > 0; env = env[n:] {
		b.extend(c, offset)
		n = copy(b.bytes(c.tail), env)
		c.fill = n
	}
	c.count++
}

func (b *blocks) extend(c *chain, offset uint64) {
	n := b.take()
	b.about[n] = block{prev: c.tail, owner: c.number, offset: offset}
	if c.tail != 0 {
		b.about[c.tail].next = n
	} else {
		c.head = n
	}
	c.tail, c.fill = n, 0
}

// drop lets the oldest block go, and those after it in which no envelope
// begins. It returns how many that were.
func (b *blocks) drop(c *chain) (dropped int) {
	for {
		old := c.head
		c.count -= int(b.about[old].starts)
		c.head = b.about[old].next
		b.about[old] = block{}
		b.free = append(b.free, old)
		dropped++
		if c.head == 0 {
			c.tail, c.fill = 0, 0
			return dropped
		}
		b.about[c.head].prev = 0
		if b.about[c.head].starts > 0 {
			return dropped
		}
	}
}

// entry is one envelope in memory of its own.
type entry struct {
	offset uint64
	class  envelope.Class
	env    []byte
}

// parse appends the envelopes that begin in data, a piece of a chain from a
// header on; at is where data would begin in its block.
func parse(data []byte, at int, class envelope.Class, to []entry) []entry {
	for pos := 0; ; {
		if left := blockSize - (at+pos)%blockSize; left < headerSize {
			pos += left
		}
		if pos+headerSize > len(data) {
			return to
		}
		offset := binary.LittleEndian.Uint64(data[pos:])
		end := pos + headerSize + int(binary.LittleEndian.Uint32(data[pos+8:]))
		to = append(to, entry{offset, class, data[pos+headerSize : end : end]})
		pos = end
	}
}
