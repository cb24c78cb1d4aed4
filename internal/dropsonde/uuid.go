package dropsonde

import (
	"encoding/binary"
	"encoding/hex"
)

// uuid is a UUID as v1 writes it: each half of its 16 bytes read as a
// little-endian number (protocol/01-protobuf.md).
type uuid struct{ low, high uint64 }

// Where the hex digits of the text form stand, as bounds of the parts between
// the separators.
var uuidParts = [...]span{{0, 8}, {9, 13}, {14, 18}, {19, 23}, {24, 36}}

const uuidLen = 36

// parseUUID reads the text form. As in the old system any byte may separate
// the parts.
func parseUUID(s []byte) (u uuid, ok bool) {
	if len(s) != uuidLen {
		return u, false
	}
	var raw [16]byte
	n := 0
	for _, p := range uuidParts {
		for i := p.start; i < p.end; i += 2 {
			hi, lo := unhex(s[i]), unhex(s[i+1])
			if hi > 15 || lo > 15 {
				return u, false
			}
			raw[n] = hi<<4 | lo
			n++
		}
	}
	return uuid{binary.LittleEndian.Uint64(raw[:]), binary.LittleEndian.Uint64(raw[8:])}, true
}

// unhex returns the value of a hex digit, more than 15 for another byte.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 0xff
}

// appendText appends the text form.
func (u uuid) appendText(dst []byte) []byte {
	var raw [16]byte
	binary.LittleEndian.PutUint64(raw[:], u.low)
	binary.LittleEndian.PutUint64(raw[8:], u.high)
	text := [uuidLen]byte{8: '-', 13: '-', 18: '-', 23: '-'}
	n := 0
	for _, p := range uuidParts {
		size := (p.end - p.start) / 2
		hex.Encode(text[p.start:], raw[n:n+size])
		n += size
	}
	return append(dst, text[:]...)
}

// appendUUID appends a field of the v1 message UUID.
func appendUUID(dst []byte, key uint64, u uuid) []byte {
	dst, at := open(dst, key)
	dst = appendNumber(dst, 1<<3|wireVarint, u.low)
	dst = appendNumber(dst, 2<<3|wireVarint, u.high)
	return shut(dst, at)
}
