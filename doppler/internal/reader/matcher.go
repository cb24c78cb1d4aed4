package reader

import (
	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// matcher applies a filter to the ring's index.
type matcher struct {
	all     bool
	any     bool // of any source
	mask    envelope.ClassMask
	numbers []uint64 // of the sources, one bit each; they are kept by Ref
	names   []string
	union   *union // takes the place of the rest, but for mask
	share   *Share // of what is selected, if not nil
}

// maxPlainNames is how many names are compared one after another.
const maxPlainNames = 8

// newMatcher returns what applies f, which is canonical. It is for one
// goroutine at a time.
func newMatcher(f Filter, sources map[string]*ring.Source) matcher {
	if len(f) == 0 {
		return matcher{}
	}
	s := f[0]
	if len(f) > 1 || s.Exact || len(s.Names) > maxPlainNames {
		return matcher{mask: f.mask(), union: newUnion(f, sources)}
	}
	m := matcher{mask: s.Mask, names: s.Names, any: s.Sources == nil}
	for _, id := range s.Sources {
		number := sources[id].Number()
		word := int(number / 64)
		if word >= len(m.numbers) {
			m.numbers = append(m.numbers, make([]uint64, word+1-len(m.numbers))...)
		}
		m.numbers[word] |= 1 << (number % 64)
	}
	m.all = s.Mask == envelope.AllClasses && m.any && m.names == nil
	return m
}

func (m *matcher) match(c ring.Chunk, i int) bool {
	return m.selected(c, i) && (m.share == nil || m.share.has(c, i))
}

func (m *matcher) selected(c ring.Chunk, i int) bool {
	if m.union != nil {
		return m.union.match(c, i)
	}
	return m.selects(c.Class(i), c.Source(i)) && (m.names == nil || envelope.MatchName(c.Envelope(i), m.names))
}

// shared makes m select no more than a share.
func (m *matcher) shared(s *Share) {
	m.share = s
	m.all = m.all && s == nil
}

// selects is the part of match that needs the index alone.
func (m *matcher) selects(class envelope.Class, number uint32) bool {
	return m.mask.Has(class) && (m.any || m.has(number))
}

// has tells whether the source with this number is selected.
func (m *matcher) has(number uint32) bool {
	word := int(number / 64)
	return word < len(m.numbers) && m.numbers[word]>>(number%64)&1 != 0
}

// clone is for use by another goroutine.
func (m *matcher) clone() matcher {
	c := *m
	if c.union != nil {
		c.union = c.union.clone()
	}
	return c
}
