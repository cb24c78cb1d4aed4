package encode

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

const hex = "0123456789abcdef"

// appendJSONString appends s as a JSON string. What is no UTF-8 becomes
// U+FFFD; the text of an accepted envelope has none of it.
func appendJSONString[S []byte | string](dst []byte, s S) []byte {
	return appendQuoted(dst, s, "\ufffd")
}

// appendTextString is appendJSONString, but for bytes that are no UTF-8, which
// stand as \xNN.
func appendTextString[S []byte | string](dst []byte, s S) []byte {
	return appendQuoted(dst, s, "")
}

// appendQuoted appends s in quotes, escaped as in JSON. A byte that is no
// UTF-8 becomes broken or, if that is empty, \xNN.
func appendQuoted[S []byte | string](dst []byte, s S, broken string) []byte {
	dst = append(dst, '"')
	for len(s) > 0 {
		n := plainLen(s)
		dst = append(dst, s[:n]...)
		if s = s[n:]; len(s) == 0 {
			break
		}
		if c := s[0]; c < utf8.RuneSelf {
			dst = appendEscape(dst, c)
			s = s[1:]
			continue
		}
		var b [utf8.UTFMax]byte
		switch r, n := utf8.DecodeRune(b[:copy(b[:], s)]); {
		case r != utf8.RuneError || n > 1:
			dst = append(dst, s[:n]...)
			s = s[n:]
		case broken == "":
			dst = append(dst, '\\', 'x', hex[s[0]>>4], hex[s[0]&15])
			s = s[1:]
		default:
			dst = append(dst, broken...)
			s = s[1:]
		}
	}
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
}

// plainLen returns how many bytes at the start of s stand for themselves:
// ASCII but for control characters, the quote and the backslash.
func plainLen[S []byte | string](s S) int {
	i := 0
	for ; i+8 <= len(s); i += 8 {
		if special := specials(le64(s[i:])); special != 0 {
			return i + bits.TrailingZeros64(special)/8
		}
	}
	for i < len(s) && plain[s[i]] {
		i++
	}
	return i
}

func le64[S []byte | string](s S) uint64 {
	var b [8]byte
	copy(b[:], s[:8])
	return binary.LittleEndian.Uint64(b[:])
}

// specials has the high bit set of the first byte of x that is not plain; of
// later bytes it may be set as well.
func specials(x uint64) uint64 {
	const (
		ones  = 0x0101010101010101
		highs = 0x8080808080808080
	)
	quote, backslash := x^('"'*ones), x^('\\'*ones)
	return (x | (x - ' '*ones) | (quote - ones) | (backslash - ones)) & highs
}

// plain tells the bytes of which plainLen speaks.
var plain = func() (t [256]bool) {
	for c := ' '; c < utf8.RuneSelf; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()
