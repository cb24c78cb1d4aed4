package stream

import (
	"sync"
	"sync/atomic"
)

// room is what lies before a Buffer's payload: enough for the longest frame
// header (14 bytes, a masked client frame).
const room = 16

// Sizes of pooled buffers, room included. A batch of 64 KiB with its metadata
// fits the fifth, a lease of 128 KiB the sixth, a session's chunk of 256 KiB the
// seventh. What is larger is left to the garbage collector, so that one huge
// message does not stay.
var classes = [...]int{256, 1 << 10, 4 << 10, 16 << 10, 80 << 10, 144 << 10, 288 << 10, 1 << 20}

var pools [len(classes)]sync.Pool

// unpooled is the class of a buffer beyond the largest.
const unpooled = -1

// Buffer is a message with room for a frame header in front. It is counted:
// NewBuffer and Conn.Read give one reference, Retain adds one, Release gives
// one back; the last Release recycles the memory, after which nothing of the
// Buffer may be touched. All methods but Resize may run concurrently, and
// while more than one reference exists nobody may write to Bytes.
type Buffer struct {
	mem   []byte
	start int // of the payload in mem, at least room
	size  int // payload bytes
	class int8
	refs  atomic.Int32
}

// NewBuffer returns a Buffer with size bytes of payload, of any content.
func NewBuffer(size int) *Buffer {
	b := allocate(size)
	b.Resize(size)
	if t := tracked.Load(); t != nil {
		t.made(b)
	}
	return b
}

func allocate(size int) *Buffer {
	need := size + room
	for i, n := range classes {
		if need > n {
			continue
		}
		b, ok := pools[i].Get().(*Buffer)
		if !ok {
			b = &Buffer{mem: make([]byte, n), class: int8(i)}
		}
		b.start = room
		b.refs.Store(1)
		return b
	}
	b := &Buffer{mem: make([]byte, need), start: room, class: unpooled}
	b.refs.Store(1)
	return b
}

// Bytes is the payload. It is valid until the last Release.
func (b *Buffer) Bytes() []byte { return b.mem[b.start : b.start+b.size] }

// Len is the number of payload bytes.
func (b *Buffer) Len() int { return b.size }

// Cap is the largest size Resize takes.
func (b *Buffer) Cap() int { return len(b.mem) - b.start }

// Frame is the payload as one server frame (final, binary, unmasked), header
// and payload in one piece, ready for WriteFrames of any number of
// connections. It must not be changed, and is valid until the last Release.
func (b *Buffer) Frame() []byte { return b.mem[b.start-frameHeaderLen(b.size) : b.start+b.size] }

// Resize changes the payload to its first size bytes, at most Cap. Only the
// owner of the only reference may call it.
func (b *Buffer) Resize(size int) {
	b.size = min(size, b.Cap())
	at := b.start - frameHeaderLen(b.size)
	AppendFrameHeader(b.mem[at:at], b.size)
}

// skip drops the first n bytes of the payload, with the room before them: for what
// was written in part. Only the owner of the only reference may call it.
func (b *Buffer) skip(n int) { b.start, b.size = b.start+n, b.size-n }

// Retain adds a reference.
func (b *Buffer) Retain() {
	if b.refs.Add(1) <= 1 {
		misused(b, "retained after its last release")
	}
}

// Release gives a reference back. One Release too many is ignored where it can
// be noticed, and found by TrackBuffers.
func (b *Buffer) Release() {
	switch n := b.refs.Add(-1); {
	case n > 0:
	case n < 0:
		misused(b, "released more often than retained")
	default:
		b.recycle()
	}
}

func (b *Buffer) recycle() {
	if t := tracked.Load(); t != nil && t.gone(b) {
		return // kept aside, so that a later use is noticed
	}
	if b.class != unpooled {
		pools[b.class].Put(b)
	}
}
