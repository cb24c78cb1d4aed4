package dropsonde

import (
	"encoding/binary"
	"unicode/utf8"
)

// appendVarint is short for the short ones, so that it is inlined.
func appendVarint(dst []byte, v uint64) []byte {
	if v < 0x80 {
		return append(dst, byte(v))
	}
	return binary.AppendUvarint(dst, v)
}

func appendNumber(dst []byte, key, v uint64) []byte {
	return appendVarint(appendVarint(dst, key), v)
}

func appendFixed64(dst []byte, key, v uint64) []byte {
	return binary.LittleEndian.AppendUint64(appendVarint(dst, key), v)
}

// appendBytes appends a field of bytes as they are.
func appendBytes[T []byte | string](dst []byte, key uint64, s T) []byte {
	dst = appendVarint(dst, key)
	dst = appendVarint(dst, uint64(len(s)))
	return append(dst, s...)
}

// appendText appends a proto3 string. Bytes that are not UTF-8 become U+FFFD.
func appendText(dst []byte, key uint64, s []byte) []byte {
	if utf8.Valid(s) {
		return appendBytes(dst, key, s)
	}
	dst, at := open(dst, key)
	return shut(appendValid(dst, s), at)
}

// appendValid appends s with U+FFFD for each byte that is not UTF-8.
func appendValid(dst, s []byte) []byte {
	for len(s) > 0 {
		r, n := utf8.DecodeRune(s)
		dst = utf8.AppendRune(dst, r)
		s = s[n:]
	}
	return dst
}

// open begins a field whose length is not known yet. What is appended up to
// shut, with the place that open returned, is its value.
func open(dst []byte, key uint64) (_ []byte, at int) {
	dst = append(appendVarint(dst, key), 0)
	return dst, len(dst)
}

// shut puts the length in front of what was appended since open. There is room
// for one byte; a longer length moves the value.
func shut(dst []byte, at int) []byte {
	n := len(dst) - at
	if n < 0x80 {
		dst[at-1] = byte(n)
		return dst
	}
	var length [binary.MaxVarintLen64]byte
	extra := binary.PutUvarint(length[:], uint64(n)) - 1
	dst = append(dst, length[:extra]...) // room only
	copy(dst[at+extra:], dst[at:at+n])
	copy(dst[at-1:], length[:extra+1])
	return dst
}
