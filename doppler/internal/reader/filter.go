package reader

import (
	"slices"
	"strconv"
	"strings"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Filter selects envelopes by class, source and name. An envelope matches
// when every part that is set matches. Use Canonical before comparing two.
type Filter struct {
	Mask    envelope.ClassMask
	Sources []string // nil: any
	Names   []string // nil: any
}

// Canonical returns the same selection with sorted, unique parts.
func (f Filter) Canonical() Filter {
	f.Sources = sortedUnique(f.Sources)
	f.Names = sortedUnique(f.Names)
	if f.Names != nil {
		// Only these have a name; the rest can never match.
		f.Mask &^= namelessClasses
	}
	return f
}

const namelessClasses = envelope.ClassMask(1<<envelope.Log | 1<<envelope.ErrorLog | 1<<envelope.Event | 1<<envelope.None)

func sortedUnique(in []string) []string {
	if len(in) == 0 {
		return nil
	}
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// Key tells canonical filters apart. It is also how a view shows them.
func (f Filter) Key() string {
	if f.Mask == envelope.AllClasses && f.Sources == nil && f.Names == nil {
		return "all"
	}
	var b strings.Builder
	b.WriteString("class=")
	for c := range envelope.Class(envelope.NumClasses) {
		if f.Mask.Has(c) {
			b.WriteString(c.String())
			b.WriteByte(',')
		}
	}
	for _, s := range f.Sources {
		b.WriteString(" source=")
		b.WriteString(strconv.Quote(s))
	}
	for _, n := range f.Names {
		b.WriteString(" name=")
		b.WriteString(strconv.Quote(n))
	}
	return b.String()
}

// matcher applies a filter to the ring's index.
type matcher struct {
	all     bool
	any     bool // of any source
	mask    envelope.ClassMask
	numbers []uint64 // of the sources, one bit each; they are kept by Ref
	names   []string
}

func newMatcher(f Filter, sources []*ring.Source) matcher {
	m := matcher{mask: f.Mask, names: f.Names, any: f.Sources == nil}
	for _, s := range sources {
		word := int(s.Number() / 64)
		if word >= len(m.numbers) {
			m.numbers = append(m.numbers, make([]uint64, word+1-len(m.numbers))...)
		}
		m.numbers[word] |= 1 << (s.Number() % 64)
	}
	m.all = f.Mask == envelope.AllClasses && m.any && m.names == nil
	return m
}

func (m *matcher) match(c ring.Chunk, i int) bool {
	return m.selects(c.Class(i), c.Source(i)) && (m.names == nil || envelope.MatchName(c.Envelope(i), m.names))
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
