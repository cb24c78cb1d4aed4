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
	mask    envelope.ClassMask
	numbers map[uint32]struct{} // nil: any source
	names   []string
}

func newMatcher(f Filter, sources []*ring.Source) matcher {
	m := matcher{mask: f.Mask, names: f.Names}
	if f.Sources != nil {
		m.numbers = make(map[uint32]struct{}, len(sources))
		for _, s := range sources {
			m.numbers[s.Number()] = struct{}{}
		}
	}
	m.all = f.Mask == envelope.AllClasses && m.numbers == nil && m.names == nil
	return m
}

func (m *matcher) match(c ring.Chunk, i int) bool {
	if m.all {
		return true
	}
	if !m.mask.Has(c.Class(i)) {
		return false
	}
	if m.numbers != nil {
		if _, ok := m.numbers[c.Source(i)]; !ok {
			return false
		}
	}
	return m.names == nil || envelope.MatchName(c.Envelope(i), m.names)
}
