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
		if i = x.shortFields(b, i); i == len(b) {
			break
		}
		if run < i && !validRun(b[run:i]) {
			return false
		}
		switch b[i] {
		case keyTimestamp:
			var v uint64
			v, i = varint(b, i+1)
			x.timestamp = int64(v)
		case keyLog:
			i = x.log(b, i+1)
		default:
			i = x.field(b, i)
		}
		if i < 0 {
			return false
		}
		run = i
	}
	return run == len(b) || validRun(b[run:])
}

// shortFields steps over the run of short fields that begins at i and returns
// its end.
func (x *index) shortFields(b []byte, i int) int {
	for {
		if i = x.shortTags(b, i); i == len(b) {
			return i
		}
		c := b[i]
		if c != keySource && c != keyInstance {
			return i
		}
		end := shortChunk(b, i)
		if end == 0 {
			return i
		}
		if c == keySource {
			x.source, x.sourceEnd = i+2, end
		}
		i = end
	}
}

// The first 4 bytes of a short tag: key, length, key of the name, length of
// the name, where both lengths are below 128.
const (
	shortTagHead = keyTags | keyMapKey<<16
	shortTagMask = 0x80ff80ff
)

// shortTags steps over tags in the usual form: name, then value, nothing
// else, all shorter than 128 bytes. It returns the place of the first field
// that is not one.
func (x *index) shortTags(b []byte, i int) int {
	for len(b)-i >= 6 {
		head := binary.LittleEndian.Uint32(b[i:])
		if head&shortTagMask != shortTagHead {
			break
		}
		end := i + 2 + int(head>>8&0x7f)
		v := i + 4 + int(head>>24)
		if end > len(b) || v+1 >= end || binary.LittleEndian.Uint16(b[v:]) != uint16(keyMapValue|(end-v-2)<<8) {
			break
		}
		if v-i == 4+len(typeTag) && string(b[i+4:v]) == typeTag {
			x.tagged, x.tagError = true, string(b[v+2:end]) == typeError
		}
		i = end
	}
	return i
}

// log reads the value of field log, which mostly has a payload and perhaps a
// type.
func (x *index) log(b []byte, i int) int {
	start, end := chunk(b, i)
	if end < 0 {
		return bad
	}
	x.set(keyLog)
	if start < end && b[start] == keyPayload {
		if _, start = chunk(b[:end], start+1); start == end {
			return end
		} else if start < 0 {
			return bad
		}
	}
	if !log(b[:end], start) {
		return bad
	}
	return end
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
