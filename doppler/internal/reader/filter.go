package reader

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Filter selects envelopes that one of its selectors selects, each of them
// once. Without a selector it selects nothing. Use Canonical before comparing
// two.
type Filter []envelope.Selector

// Canonical returns the same selection in one form: the order of selectors,
// and what is said twice, do not matter.
func (f Filter) Canonical() Filter {
	all := make(Filter, len(f))
	for i, s := range f {
		all[i] = s.Canonical()
	}
	w := wholeOf(all)
	parts := append(w.selectors(), merged(w.rest(all))...)
	slices.SortFunc(parts, func(a, b envelope.Selector) int { return strings.Compare(keyOf(a), keyOf(b)) })
	return parts
}

// named tells whether something is selected by its name, which only the bytes
// of an envelope tell.
func (f Filter) named() bool {
	return slices.ContainsFunc(f, func(s envelope.Selector) bool { return s.Names != nil })
}

// mask has every class that may be selected.
func (f Filter) mask() (m envelope.ClassMask) {
	for _, s := range f {
		m |= s.Mask
	}
	return m
}

// Key tells canonical filters apart. It is also how a view shows them.
func (f Filter) Key() string {
	if len(f) == 0 {
		return "nothing"
	}
	keys := make([]string, len(f))
	for i, s := range f {
		keys[i] = keyOf(s)
	}
	return strings.Join(keys, " or ")
}

func keyOf(s envelope.Selector) string {
	if s.Mask == envelope.AllClasses && s.Sources == nil && s.Names == nil {
		return "all"
	}
	var b strings.Builder
	b.WriteString("class=")
	for _, class := range s.Mask.Classes() {
		b.WriteString(class)
		b.WriteByte(',')
	}
	appendQuoted(&b, " source=", s.Sources)
	appendQuoted(&b, " name=", s.Names)
	if s.Exact {
		b.WriteString(" exact")
	}
	return b.String()
}

func appendQuoted(b *strings.Builder, label string, values []string) {
	for _, v := range values {
		b.WriteString(label)
		b.WriteString(strconv.Quote(v))
	}
}

// whole is what is selected without regard to names: classes of any source,
// and other classes of some. The index tells, and counters count it. It is
// made of canonical selectors.
type whole struct {
	any envelope.ClassMask
	of  map[string]envelope.ClassMask
}

func wholeOf(f Filter) whole {
	w := whole{of: map[string]envelope.ClassMask{}}
	for _, s := range f {
		if s.Names == nil && s.Sources == nil {
			w.any |= s.Mask
		}
	}
	for _, s := range f {
		if s.Names != nil || s.Mask&^w.any == 0 {
			continue
		}
		for _, id := range s.Sources {
			w.of[id] |= s.Mask &^ w.any
		}
	}
	return w
}

// selectors are the fewest that select it.
func (w whole) selectors() (list []envelope.Selector) {
	if w.any != 0 {
		list = append(list, envelope.Selector{Mask: w.any})
	}
	sources := map[envelope.ClassMask][]string{}
	for _, id := range slices.Sorted(maps.Keys(w.of)) {
		sources[w.of[id]] = append(sources[w.of[id]], id)
	}
	for mask, ids := range sources {
		list = append(list, envelope.Selector{Mask: mask, Sources: ids})
	}
	return list
}

// counted is how the ring counts it.
func (w whole) counted(sources map[string]*ring.Source) ring.Filter {
	f := ring.Filter{Mask: w.any}
	for id, mask := range w.of {
		f.Of = append(f.Of, ring.SourceMask{Source: sources[id], Mask: mask})
	}
	return f
}

// rest returns what the selectors by name of f select beyond w.
func (w whole) rest(f Filter) (list []envelope.Selector) {
	for _, s := range f {
		if s.Names == nil {
			continue
		}
		s.Mask &^= w.any
		if s.Sources != nil {
			s.Sources = slices.DeleteFunc(slices.Clone(s.Sources), func(id string) bool { return s.Mask&^w.of[id] == 0 })
		}
		if s.Mask != 0 && (s.Sources == nil || len(s.Sources) > 0) {
			list = append(list, s)
		}
	}
	return list
}

// merged joins selectors that differ in one part only, until none do.
func merged(list []envelope.Selector) []envelope.Selector {
	for n := -1; n != len(list); {
		n = len(list)
		list = joinOn(list, func(s *envelope.Selector) { s.Mask = 0 }, func(a, b *envelope.Selector) { a.Mask |= b.Mask })
		list = joinOn(list, exceptNames, func(a, b *envelope.Selector) { a.Names = append(a.Names, b.Names...) })
		list = joinOn(list, func(s *envelope.Selector) { s.Sources = nil }, joinSources)
	}
	return list
}

// exceptNames leaves out the names, unless they have to be there all together.
func exceptNames(s *envelope.Selector) {
	if !s.Exact {
		s.Names = nil
	}
}

func joinSources(a, b *envelope.Selector) {
	if a.Sources == nil || b.Sources == nil {
		a.Sources = nil // any
		return
	}
	a.Sources = append(a.Sources, b.Sources...)
}

// joinOn adds up those that are the same but for what except leaves out.
func joinOn(list []envelope.Selector, except func(*envelope.Selector), add func(a, b *envelope.Selector)) []envelope.Selector {
	at := map[string]int{}
	var out []envelope.Selector
	for i := range list {
		rest := list[i]
		except(&rest)
		key := keyOf(rest)
		if j, ok := at[key]; ok {
			add(&out[j], &list[i])
			continue
		}
		at[key] = len(out)
		out = append(out, list[i])
	}
	for i := range out {
		out[i] = out[i].Canonical()
	}
	return out
}
