package envelope

import (
	"encoding/binary"
	"unicode/utf8"
)

func le64(b []byte) uint64 { return binary.LittleEndian.Uint64(b) }

// envelope reads all fields of an envelope, which reaches from i to the end
// of b.
//
// Nearly all of what comes by is source id, instance id and tags, each
// shorter than 128 bytes, in ASCII, one after another. Such a run is only
// stepped over here, and its text checked in one go at its end: keys and
// lengths within it are ASCII as well, so if all bytes are, all strings are
// valid.
func (x *index) envelope(b []byte, i int) bool {
	run := i
	for i < len(b) {
		switch b[i] {
		case keySource:
			if end := shortChunk(b, i); end > 0 {
				x.source, x.sourceEnd = i+2, end
				i = end
				continue
			}
		case keyInstance:
			if end := shortChunk(b, i); end > 0 {
				i = end
				continue
			}
		case keyTags:
			if end := x.shortTag(b, i); end > 0 {
				i = end
				continue
			}
		}
		if run < i && !validRun(b[run:i]) {
			return false
		}
		if i = x.field(b, i); i < 0 {
			return false
		}
		run = i
	}
	return validRun(b[run:])
}

// shortChunk returns the end of the field at i if it has a length below 128,
// else 0.
func shortChunk(b []byte, i int) int {
	if i+1 < len(b) {
		if n := int(b[i+1]); n < 0x80 && n <= len(b)-i-2 {
			return i + 2 + n
		}
	}
	return 0
}

// shortTag reads the entry of tags at i if it is the usual one: key, then
// value, nothing else, all shorter than 128 bytes. It returns its end, or 0.
func (x *index) shortTag(b []byte, i int) int {
	if len(b)-i < 6 {
		return 0
	}
	end := i + 2 + int(b[i+1])
	v := i + 4 + int(b[i+3])
	if b[i+1] >= 0x80 || end > len(b) || b[i+2] != keyMapKey || v+1 >= end ||
		b[v] != keyMapValue || int(b[v+1]) != end-v-2 {
		return 0
	}
	if string(b[i+4:v]) == typeTag {
		x.tagged, x.tagError = true, string(b[v+2:end]) == typeError
	}
	return end
}

// validRun reports whether all strings in a run of short fields are valid.
func validRun(b []byte) bool {
	if ascii(b) {
		return true
	}
	for len(b) > 0 {
		end := 2 + int(b[1])
		if b[0] != keyTags {
			if !utf8.Valid(b[2:end]) {
				return false
			}
		} else if v := 4 + int(b[3]); !utf8.Valid(b[4:v]) || !utf8.Valid(b[v+2:end]) {
			return false
		}
		b = b[end:]
	}
	return true
}

const highBits = 0x8080808080808080

// ascii reports whether all bytes are below 128.
func ascii(b []byte) bool {
	for len(b) >= 32 {
		if (le64(b)|le64(b[8:])|le64(b[16:])|le64(b[24:]))&highBits != 0 {
			return false
		}
		b = b[32:]
	}
	for len(b) >= 8 {
		if le64(b)&highBits != 0 {
			return false
		}
		b = b[8:]
	}
	for _, c := range b {
		if c >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
