// Package fanout gives every tail the envelopes of its source and nothing
// else: each once, in the order each Doppler took them, or counted in a gap.
//
// A link is the near side of the one tail link to a Doppler: it knows which
// sources are watched there and how many envelopes of each it has had. A tail
// is one client; its legs bring it, for each Doppler, from history to what the
// link says now. The Hub joins the two: what comes over a link is cut by
// source, encoded once for all tails of the same filter and put into their
// queues.
//
// Link, leg, queue and Hub are synchronous state machines: events come in as
// calls, frames to write, history to read and watches to send come out; there
// is no goroutine, clock or socket inside. One lock holds the Hub together,
// another each queue. The Pump gives them goroutines and time.
package fanout

import (
	"slices"
	"strings"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// Filter selects envelopes of a source by class and name.
type Filter struct {
	Mask  envelope.ClassMask
	Names []string // sorted, unique; nil: any
}

// key tells filters apart.
func (f Filter) key() string {
	return string(rune(f.Mask)) + strings.Join(f.Names, "\x00")
}

// String shows the filter in views.
func (f Filter) String() string {
	if f.Mask == envelope.AllClasses && f.Names == nil {
		return "all"
	}
	parts := make([]string, 0, 1+len(f.Names))
	types := f.Mask.Types()
	if mask, err := envelope.MaskOf(types...); err == nil && mask == f.Mask {
		for _, t := range types {
			parts = append(parts, "type="+t)
		}
	} else {
		for _, c := range f.Mask.Classes() {
			parts = append(parts, "class="+c)
		}
	}
	for _, n := range f.Names {
		parts = append(parts, "name="+n)
	}
	return strings.Join(parts, " ")
}

// OldMask is what of an app reaches its tails in the old framing (protocol,
// sharp edge 8): log lines, container metrics and HTTP requests.
const OldMask = envelope.ClassMask(1<<envelope.Log | 1<<envelope.ContainerGauge | 1<<envelope.HTTPTimer | 1<<envelope.Timer)

// NewFilter puts names in their canonical order.
func NewFilter(mask envelope.ClassMask, names []string) Filter {
	if len(names) == 0 {
		return Filter{Mask: mask}
	}
	names = slices.Clone(names)
	slices.Sort(names)
	return Filter{Mask: mask, Names: slices.Compact(names)}
}

// counts are numbers of envelopes by class.
type counts [envelope.NumClasses]uint64

// of adds up the classes of a mask.
func (c *counts) of(m envelope.ClassMask) uint64 {
	n := uint64(0)
	for class, k := range c {
		if m.Has(envelope.Class(class)) {
			n += k
		}
	}
	return n
}

// add takes class_counts of the wire, which may be short.
func (c *counts) add(list []uint64) {
	for i := range min(len(list), len(c)) {
		c[i] += list[i]
	}
}

func countsOf(list []uint64) (c counts) {
	c.add(list)
	return c
}

// place is where a reader stands in an epoch: the next offset, and how many
// envelopes that pass its mask lie before it. Names do not count: a Doppler
// does not know them, and history has to be told apart from loss.
type place struct {
	offset  uint64
	matched uint64
}
