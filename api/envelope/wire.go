package envelope

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// The readers in this file walk wire bytes by position: they take the bytes
// up to the end of the message they are in and a place in it, and return the
// place behind what they read, or bad. They accept what protobuf-go accepts
// and no more.

// bad is the place nobody gets to: the bytes are not a valid message.
const bad = -1

// Wire types.
const (
	wireVarint     = 0
	wireFixed64    = 1
	wireBytes      = 2
	wireStartGroup = 3
	wireEndGroup   = 4
	wireFixed32    = 5
)

const (
	// maxGroupDepth is how often protobuf-go lets a group nest in an unknown
	// group.
	maxGroupDepth = 10000
	// A key is a field number and a wire type. protobuf-go takes numbers up
	// to 1<<29-1 in messages, and up to 1<<31-1 within unknown groups.
	minKey      = 1 << 3
	maxKey      = 1<<32 - 1
	maxGroupKey = 1<<34 - 1
)

// varint reads a varint; it need not be minimal.
func varint(b []byte, i int) (v uint64, next int) {
	if i < len(b) && b[i] < 0x80 {
		return uint64(b[i]), i + 1
	}
	return longVarint(b, i)
}

// longVarint is varint for more than one byte, which varint must not inline
// to be inlined itself.
//
//go:noinline
func longVarint(b []byte, i int) (v uint64, next int) {
	if len(b)-i < binary.MaxVarintLen64 {
		return slowVarint(b, i)
	}
	x := le64(b[i:])
	if last := ^x & highBits; last != 0 {
		last &= -last // high bit of the first byte that ends a varint
		return pack(x & (last - 1)), i + bits.TrailingZeros64(last)/8 + 1
	}
	v = pack(x)
	hi, top := uint64(b[i+8]), uint64(b[i+9])
	switch {
	case hi < 0x80:
		return v | hi<<56, i + 9
	case top > 1:
		return 0, bad // more than 64 bits
	}
	return v | (hi&0x7f)<<56 | top<<63, i + 10
}

// pack moves the low 7 bits of each of 8 bytes together.
func pack(x uint64) uint64 {
	x = x&0x007f007f007f007f | x&0x7f007f007f007f00>>1
	x = x&0x00003fff00003fff | x&0x3fff00003fff0000>>2
	return x&0x000000000fffffff | x&0x0fffffff00000000>>4
}

// slowVarint reads a varint near the end of the bytes.
func slowVarint(b []byte, i int) (v uint64, next int) {
	for shift := uint(0); i < len(b); shift += 7 {
		c := b[i]
		i++
		v |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return v, i
		}
	}
	return 0, bad
}

// key reads the key of a field of a message.
func key(b []byte, i int) (k uint64, next int) {
	k, i = varint(b, i)
	if k < minKey || k > maxKey {
		return 0, bad
	}
	return k, i
}

// chunk reads a length and returns the bounds of the bytes it spans.
func chunk(b []byte, i int) (start, end int) {
	if i+1 >= len(b) || b[i] >= 0x80 && b[i+1] >= 0x80 {
		return longChunk(b, i)
	}
	n := int(b[i])
	i++
	if n >= 0x80 {
		n = n&0x7f | int(b[i])<<7
		i++
	}
	if n > len(b)-i {
		return 0, bad
	}
	return i, i + n
}

// longChunk is chunk for lengths of more than two bytes, and at the very end.
func longChunk(b []byte, i int) (start, end int) {
	n, i := varint(b, i)
	if i < 0 || n > uint64(len(b)-i) {
		return 0, bad
	}
	return i, i + int(n)
}

// text reads a proto3 string and returns its bounds.
func text(b []byte, i int) (start, end int) {
	start, end = chunk(b, i)
	if end < 0 {
		return 0, bad
	}
	if n := end - start; n <= 8 && len(b)-start >= 8 && le64(b[start:])<<(64-8*uint(n))&highBits == 0 {
		return start, end // short and ASCII
	}
	if !utf8.Valid(b[start:end]) {
		return 0, bad
	}
	return start, end
}

// skip reads the value of a field nobody asked for.
func skip(b []byte, i int, k uint64) int {
	switch k & 7 {
	case wireVarint:
		_, i = varint(b, i)
		return i
	case wireFixed64:
		return skipFixed(b, i, 8)
	case wireBytes:
		_, i = chunk(b, i)
		return i
	case wireStartGroup:
		return skipGroup(b, i, k>>3, maxGroupDepth)
	case wireFixed32:
		return skipFixed(b, i, 4)
	}
	return bad // end of a group that never began, or a reserved type
}

func skipFixed(b []byte, i, size int) int {
	if len(b)-i < size {
		return bad
	}
	return i + size
}

// skipGroup reads up to and including the end of group num.
func skipGroup(b []byte, i int, num uint64, depth int) int {
	if depth < 0 {
		return bad
	}
	for i >= 0 {
		var k uint64
		k, i = varint(b, i)
		if k < minKey || k > maxGroupKey {
			return bad
		}
		switch k & 7 {
		case wireStartGroup:
			i = skipGroup(b, i, k>>3, depth-1)
		case wireEndGroup:
			if k>>3 != num {
				return bad
			}
			return i
		default:
			i = skip(b, i, k)
		}
	}
	return bad
}
