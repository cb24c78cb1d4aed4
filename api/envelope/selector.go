package envelope

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
)

// Selector selects envelopes by class, source and name. An envelope matches
// when every part that is set matches.
type Selector struct {
	Mask    ClassMask
	Sources []string // nil: any
	// Names are those of counters and timers, and of metrics of gauges; a
	// gauge matches with one of them. Nil: any; logs and events have none.
	Names []string
	// Exact selects gauges only: those whose metrics are Names, no more and no
	// fewer.
	Exact bool
}

// The classes whose envelopes have no name, and those of gauges.
const (
	namelessClasses ClassMask = 1<<Log | 1<<ErrorLog | 1<<Event | 1<<None
	gaugeClasses    ClassMask = 1<<ContainerGauge | 1<<Gauge
)

// Canonical returns the same selection with sorted, unique parts and without
// classes that cannot match.
func (s Selector) Canonical() Selector {
	s.Sources = sortedUnique(s.Sources)
	s.Names = sortedUnique(s.Names)
	if s.Names != nil {
		s.Mask &^= namelessClasses
	}
	if s.Exact = s.Exact && s.Names != nil; s.Exact {
		s.Mask &= gaugeClasses
	}
	return s
}

func sortedUnique(in []string) []string {
	if len(in) == 0 {
		return nil
	}
	out := slices.Clone(in)
	slices.Sort(out)
	return slices.Compact(out)
}

// Matches tells whether a trusted envelope of a class and source is selected.
// It is the meaning of a selector, not the fast way to apply it.
func (s Selector) Matches(class Class, source string, env []byte) bool {
	if !s.Mask.Has(class) || s.Sources != nil && !slices.Contains(s.Sources, source) {
		return false
	}
	switch {
	case s.Names == nil:
		return true
	case s.Exact:
		return gaugeClasses.Has(class) && sameSet(AppendNames(nil, env), s.Names)
	}
	return MatchName(env, s.Names)
}

func sameSet(names [][]byte, want []string) bool {
	got := make([]string, len(names))
	for i, n := range names {
		got[i] = string(n)
	}
	return slices.Equal(sortedUnique(got), sortedUnique(want))
}

// The parameters of a selector in a query.
const (
	paramType   = "type"
	paramClass  = "class"
	paramSource = "source_id"
	paramName   = "name"
	paramExact  = "exact"
)

// String is the selector as a query, in one form: selections that are equal
// part by part give the same string, and ParseSelector reads it.
func (s Selector) String() string {
	s = s.Canonical()
	v := url.Values{}
	switch s.Mask {
	case AllClasses:
	case 0: // nothing: what has a name and is of a class without
		return url.Values{paramClass: {None.String()}, paramName: {""}}.Encode()
	default:
		v[paramType] = s.Mask.Types()
		for _, t := range typeMasks {
			if s.Mask&t.mask == t.mask {
				s.Mask &^= t.mask
			}
		}
		v[paramClass] = s.Mask.Classes()
	}
	v[paramSource], v[paramName] = s.Sources, s.Names
	if s.Exact {
		v.Set(paramExact, "true")
	}
	return v.Encode()
}

// ParseSelector reads a selector in the form of a query: type or class,
// source_id and name, each as often as need be, and exact. The error names the
// parameter at fault.
func ParseSelector(query string) (Selector, error) {
	v, err := url.ParseQuery(query)
	if err != nil {
		return Selector{}, fmt.Errorf("selector %.100q is no query: %w", query, err)
	}
	for key := range v {
		switch key {
		case paramType, paramClass, paramSource, paramName, paramExact:
		default:
			return Selector{}, fmt.Errorf("selector: parameter %.100q is not known; there are %v", key,
				[]string{paramType, paramClass, paramSource, paramName, paramExact})
		}
	}
	s, err := SelectorOf(v)
	if err != nil {
		return Selector{}, fmt.Errorf("selector: %w", err)
	}
	return s, nil
}

// SelectorOf reads a selector from its parameters among others of a query.
// Types and classes add up; none of either means all.
func SelectorOf(v url.Values) (s Selector, err error) {
	classes, err := MaskOfClasses(v[paramClass]...)
	if err != nil {
		return s, err
	}
	if s.Mask = classes; classes == 0 || len(v[paramType]) > 0 {
		types, err := MaskOf(v[paramType]...)
		if err != nil {
			return s, err
		}
		s.Mask |= types
	}
	s.Sources, s.Names = v[paramSource], v[paramName]
	if !v.Has(paramExact) {
		return s, nil
	}
	if s.Exact, err = strconv.ParseBool(v.Get(paramExact)); err != nil {
		return s, fmt.Errorf("exact %.100q is neither true nor false", v.Get(paramExact))
	}
	if s.Exact && (s.Mask&^gaugeClasses != 0 || len(s.Names) == 0) {
		return s, fmt.Errorf("exact goes with type=gauge and at least one name")
	}
	return s, nil
}
