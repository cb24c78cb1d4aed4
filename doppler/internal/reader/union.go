package reader

import (
	"bytes"
	"encoding/binary"
	"slices"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// union applies a filter of several selectors, however many. What the index
// tells is looked up in tables; only what may be selected by its name is read.
type union struct {
	whole classTable // selected whatever the name
	named classTable // of which some are selected by name

	byName map[string][]rule // one of the names is enough
	exact  map[string][]rule // by setKey of all names
	key    []byte            // scratch
	names  [][]byte          // scratch
}

// classTable holds classes by source.
type classTable struct {
	any      envelope.ClassMask
	byNumber []envelope.ClassMask
}

func (t *classTable) has(class envelope.Class, number uint32) bool {
	return t.any.Has(class) || int(number) < len(t.byNumber) && t.byNumber[number].Has(class)
}

func (t *classTable) add(mask envelope.ClassMask, numbers []uint32) {
	if numbers == nil {
		t.any |= mask
	}
	for _, n := range numbers {
		if int(n) >= len(t.byNumber) {
			t.byNumber = append(t.byNumber, make([]envelope.ClassMask, int(n)+1-len(t.byNumber))...)
		}
		t.byNumber[n] |= mask
	}
}

// rule is what a selector by name asks for besides.
type rule struct {
	mask    envelope.ClassMask
	numbers []uint32 // of sources, ascending; nil: any
}

func (r *rule) selects(class envelope.Class, number uint32) bool {
	if !r.mask.Has(class) {
		return false
	}
	if r.numbers == nil {
		return true
	}
	_, ok := slices.BinarySearch(r.numbers, number)
	return ok
}

func newUnion(f Filter, sources map[string]*ring.Source) *union {
	u := &union{byName: map[string][]rule{}, exact: map[string][]rule{}}
	for _, s := range f {
		var numbers []uint32
		for _, id := range s.Sources {
			numbers = append(numbers, sources[id].Number())
		}
		slices.Sort(numbers)
		r := rule{s.Mask, numbers}
		switch {
		case s.Names == nil:
			u.whole.add(s.Mask, numbers)
			continue
		case s.Exact:
			key := string(setKey(nil, s.Names))
			u.exact[key] = append(u.exact[key], r)
		default:
			for _, name := range s.Names {
				u.byName[name] = append(u.byName[name], r)
			}
		}
		u.named.add(s.Mask, numbers)
	}
	return u
}

// clone is for use by another goroutine.
func (u *union) clone() *union {
	c := *u
	c.key, c.names = nil, nil
	return &c
}

func (u *union) match(c ring.Chunk, i int) bool {
	class, number := c.Class(i), c.Source(i)
	if u.whole.has(class, number) {
		return true
	}
	return u.named.has(class, number) && u.matchNames(class, number, c.Envelope(i))
}

func (u *union) matchNames(class envelope.Class, number uint32, env []byte) bool {
	u.names = envelope.AppendNames(u.names[:0], env)
	for _, name := range u.names {
		if selectedBy(u.byName[string(name)], class, number) {
			return true
		}
	}
	if len(u.exact) == 0 {
		return false
	}
	slices.SortFunc(u.names, bytes.Compare)
	u.key = setKey(u.key[:0], slices.CompactFunc(u.names, bytes.Equal))
	return selectedBy(u.exact[string(u.key)], class, number)
}

func selectedBy(rules []rule, class envelope.Class, number uint32) bool {
	for i := range rules {
		if rules[i].selects(class, number) {
			return true
		}
	}
	return false
}

// setKey appends a string that tells sets of names apart, given their sorted,
// unique names.
func setKey[name string | []byte](dst []byte, names []name) []byte {
	for _, n := range names {
		dst = binary.AppendUvarint(dst, uint64(len(n)))
		dst = append(dst, n...)
	}
	return dst
}
