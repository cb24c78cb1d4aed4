package dropsonde

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"
)

// bad is the place behind what is not a valid field.
const bad = -1

// Wire types.
const (
	wireVarint  = 0
	wireFixed64 = 1
	wireBytes   = 2
)

const (
	minKey = 1 << 3    // field number 1
	maxKey = 1<<32 - 1 // field number 1<<29-1
)

// span is where something lies in a slice.
type span struct{ start, end int }

func (s span) of(b []byte) []byte { return b[s.start:s.end] }

// field is a field of a message as it stands on the wire.
type field struct {
	key   uint64 // number and wire type
	value uint64 // of a varint or fixed64
	span         // of bytes, without their length
}

// next reads the field at i, which must be inside b, and returns the place
// behind it, or bad. b ends where the message ends.
func next(b []byte, i int) (f field, end int) {
	f.key, i = varint(b, i)
	if f.key < minKey || f.key > maxKey {
		return f, bad
	}
	switch f.key & 7 {
	case wireVarint:
		f.value, i = varint(b, i)
		return f, i
	case wireBytes:
		f.start, f.end = chunk(b, i)
		return f, f.end
	case wireFixed64:
		if len(b)-i < 8 {
			return f, bad
		}
		f.value = binary.LittleEndian.Uint64(b[i:])
		return f, i + 8
	}
	n := protowire.ConsumeFieldValue(protowire.Number(f.key>>3), protowire.Type(f.key&7), b[i:])
	if n < 0 {
		return f, bad
	}
	return f, i + n
}

// varint reads a varint; it need not be minimal.
func varint(b []byte, i int) (v uint64, end int) {
	if i < len(b) && b[i] < 0x80 {
		return uint64(b[i]), i + 1
	}
	return longVarint(b, i)
}

// longVarint is varint for more than one byte, which varint must not inline to
// be inlined itself.
//
//go:noinline
func longVarint(b []byte, i int) (v uint64, end int) {
	v, n := binary.Uvarint(b[i:])
	if n <= 0 {
		return 0, bad
	}
	return v, i + n
}

// chunk reads a length and returns where the bytes lie that it counts. The end
// is bad when there are not that many.
func chunk(b []byte, i int) (start, end int) {
	n, i := varint(b, i)
	if i < 0 || n > uint64(len(b)-i) {
		return 0, bad
	}
	return i, i + int(n)
}
