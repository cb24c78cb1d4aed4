package dropsonde

import (
	"bytes"
	"encoding/binary"
	"slices"
)

// tag is an entry of a map of tags.
type tag struct {
	entry      span // key and value as they stand in the map
	key, value span
	name       name
	plain      bool // entry is the key, then the value, and nothing else
	none       bool // a deprecated tag without value
}

// tagList is a map of tags in the order of the wire. A key may come more than
// once; the last one counts, as everywhere in protobuf.
type tagList struct {
	list []tag
	last [numNames]int // the place of the last tag of a name, plus one
}

func (l *tagList) reset() {
	if len(l.list) > 0 {
		l.list, l.last = l.list[:0], [numNames]int{}
	}
}

func (l *tagList) add(t tag) {
	l.list = append(l.list, t)
	if t.name != other {
		l.last[t.name] = len(l.list)
	}
}

// find returns the last tag of a name.
func (l *tagList) find(n name) (value span, ok bool) {
	if i := l.last[n]; i > 0 {
		return l.list[i-1].value, true
	}
	return span{}, false
}

// unique keeps the last tag of each key, and changes the order.
func (l *tagList) unique(b []byte) {
	slices.SortStableFunc(l.list, func(x, y tag) int { return bytes.Compare(x.key.of(b), y.key.of(b)) })
	n := 0
	for i, t := range l.list {
		if n > 0 && bytes.Equal(l.list[n-1].key.of(b), t.key.of(b)) {
			n--
		}
		l.list[n] = l.list[i]
		n++
	}
	kept := l.list[:n]
	l.reset()
	for _, t := range kept {
		l.add(t)
	}
}

// read adds an entry of a map of strings, and reports whether it is one.
func (l *tagList) read(b []byte, entry span) bool {
	l.list = append(l.list, tag{entry: entry})
	t := &l.list[len(l.list)-1]
	if !t.short(b) && !t.long(b) {
		return false
	}
	l.setName(t, b)
	return true
}

// setName names the tag t, which is the newest.
func (l *tagList) setName(t *tag, b []byte) {
	t.name = nameOf(t.key.of(b))
	if t.name != other {
		l.last[t.name] = len(l.list)
	}
}

// The first 4 bytes of a usual v2 tag: its key and length, key and length of
// the name, where both lengths are below 128.
const (
	shortHead = v2Tags | mapKey<<16
	shortMask = 0x80ff80ff
)

// readRun adds the run of usual v2 tags that begins at i, for speed, and
// returns its end. Most of an envelope is such a run.
func (l *tagList) readRun(b []byte, i int) int {
	for len(b)-i >= 6 {
		head := binary.LittleEndian.Uint32(b[i:])
		end, v := i+2+int(head>>8&0x7f), i+4+int(head>>24)
		if head&shortMask != shortHead || end > len(b) || v+1 >= end ||
			binary.LittleEndian.Uint16(b[v:]) != uint16(mapValue|(end-v-2)<<8) {
			break
		}
		l.list = append(l.list, tag{})
		t := &l.list[len(l.list)-1]
		t.entry, t.key, t.value, t.plain = span{i + 2, end}, span{i + 4, v}, span{v + 2, end}, true
		l.setName(t, b)
		i = end
	}
	return i
}

// long reads an entry of any form.
func (t *tag) long(b []byte) bool {
	b = b[:t.entry.end]
	for i := t.entry.start; i < len(b); {
		var f field
		if f, i = next(b, i); i < 0 {
			return false
		}
		switch f.key {
		case mapKey:
			t.key = f.span
		case mapValue:
			t.value = f.span
		}
	}
	return true
}

// short reads an entry of the usual form, both strings shorter than 128 bytes.
func (t *tag) short(b []byte) bool {
	i, end := t.entry.start, t.entry.end
	if end-i < 4 || b[i] != mapKey {
		return false
	}
	v := i + 2 + int(b[i+1])
	if b[i+1] >= 0x80 || v+2 > end || b[v] != mapValue || b[v+1] >= 0x80 || v+2+int(b[v+1]) != end {
		return false
	}
	t.key, t.value, t.plain = span{i + 2, v}, span{v + 2, end}, true
	return true
}
