package envelope

import (
	"fmt"
	"strings"
)

// Class says what an envelope is, as finely as any old or new filter needs to
// know. It is decided once, when the envelope is taken in. The numbers are
// part of the wire (Position.classes, class_counts) and never change.
type Class uint8

const (
	// Log is a log line that is not an ErrorLog.
	Log Class = iota
	// ErrorLog is a log that began as a v1 Error event: its tag __v1_type is
	// "Error".
	ErrorLog
	// ContainerGauge is a gauge with the five metrics that make a v1
	// ContainerMetric.
	ContainerGauge
	// Gauge is any other gauge.
	Gauge
	// HTTPTimer is a timer named "http".
	HTTPTimer
	// Timer is any other timer.
	Timer
	// Counter is a counter.
	Counter
	// Event is an event.
	Event
	// None is an envelope without a message, or with one that this version
	// does not know.
	None
)

// NumClasses is how many classes there are; they are numbered from 0.
const NumClasses = int(None) + 1

// String returns the name of the class in lower case, with dashes.
func (c Class) String() string {
	switch c {
	case Log:
		return "log"
	case ErrorLog:
		return "error-log"
	case ContainerGauge:
		return "container-gauge"
	case Gauge:
		return "gauge"
	case HTTPTimer:
		return "http-timer"
	case Timer:
		return "timer"
	case Counter:
		return "counter"
	case Event:
		return "event"
	case None:
		return "none"
	}
	return fmt.Sprintf("class(%d)", uint8(c))
}

// ClassMask is a set of classes, one bit each.
type ClassMask uint16

// AllClasses holds every class, None included.
const AllClasses ClassMask = 1<<NumClasses - 1

// NoV1 holds the classes that have no form in the old protocol. (Neither has a
// gauge without metrics; its class does not tell.)
const NoV1 ClassMask = 1<<Event | 1<<None

// Mask returns the set of the given classes.
func Mask(classes ...Class) ClassMask {
	var m ClassMask
	for _, c := range classes {
		m |= 1 << c
	}
	return m
}

// Has reports whether c is in the set.
func (m ClassMask) Has(c Class) bool { return m>>c&1 != 0 }

// typeMasks lists the types a selector can name, in canonical order.
var typeMasks = [...]struct {
	name string
	mask ClassMask
}{
	{"log", 1<<Log | 1<<ErrorLog},
	{"counter", 1 << Counter},
	{"gauge", 1<<ContainerGauge | 1<<Gauge},
	{"timer", 1<<HTTPTimer | 1<<Timer},
	{"event", 1 << Event},
}

// Types lists the names a selector can give to MaskOf, in canonical order.
// The slice is the caller's.
func Types() []string {
	names := make([]string, len(typeMasks))
	for i, t := range typeMasks {
		names[i] = t.name
	}
	return names
}

// MaskOf returns the classes of the named types: log, counter, gauge, timer,
// event. No type at all means AllClasses. The error names the type that is
// unknown and lists those that are not.
func MaskOf(types ...string) (ClassMask, error) {
	if len(types) == 0 {
		return AllClasses, nil
	}
	var m ClassMask
	for _, name := range types {
		t, ok := typeMask(name)
		if !ok {
			return 0, fmt.Errorf("unknown envelope type %q, want one of %s", name, strings.Join(Types(), ", "))
		}
		m |= t
	}
	return m, nil
}

// MaskOfClasses returns the set of the classes with these names, as String
// returns them. The error names the class that is unknown.
func MaskOfClasses(names ...string) (ClassMask, error) {
	var m ClassMask
	for _, name := range names {
		c, ok := classNamed(name)
		if !ok {
			return 0, fmt.Errorf("unknown envelope class %.100q, want one of %s", name, strings.Join(AllClasses.Classes(), ", "))
		}
		m |= 1 << c
	}
	return m, nil
}

func classNamed(name string) (Class, bool) {
	for c := range Class(NumClasses) {
		if c.String() == name {
			return c, true
		}
	}
	return 0, false
}

// Classes names the classes of the set, in order of their numbers.
func (m ClassMask) Classes() []string {
	var names []string
	for c := range Class(NumClasses) {
		if m.Has(c) {
			names = append(names, c.String())
		}
	}
	return names
}

func typeMask(name string) (ClassMask, bool) {
	for _, t := range typeMasks {
		if t.name == name {
			return t.mask, true
		}
	}
	return 0, false
}

// Types names the types that the set holds whole, in canonical order. For
// AllClasses it returns nil, as no type is no restriction, so that
// MaskOf(m.Types()...) is m again for every m that MaskOf returned.
func (m ClassMask) Types() []string {
	if m == AllClasses {
		return nil
	}
	var names []string
	for _, t := range typeMasks {
		if m&t.mask == t.mask {
			names = append(names, t.name)
		}
	}
	return names
}
