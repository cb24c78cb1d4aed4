package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
)

// Inherited is an environment variable of the job that a service takes the
// place of (protocol/05, section 9). The service starts from it unchanged.
type Inherited struct {
	Variable string
	// Sets are the flags it gives a value to. Without any it has no effect, and
	// Why says why.
	Sets []string
	// Convert makes the flag's value of the variable's; nil leaves it as it is.
	// An empty value gives none. What a list takes is separated by commas.
	Convert func(string) (string, error)
	Why     string
}

// Inherit declares variables of an old job. Those that begin with one of the
// prefixes and are not declared are reported once, at the start. A variable
// counts more than the file and less than the service's own; where both are
// given and differ, that is a fault.
func (f *Flags) Inherit(prefixes []string, variables ...Inherited) {
	f.oldPrefixes = append(f.oldPrefixes, prefixes...)
	f.inherited = append(f.inherited, variables...)
}

// readInherited returns what old variables say, and what is wrong with them.
func (f *Flags) readInherited(from sources, own []given) (values []given, faults []error) {
	for _, v := range f.inherited {
		text, ok := from.lookup(v.Variable)
		if !ok || text == "" {
			continue
		}
		if v.Convert != nil {
			converted, err := v.Convert(text)
			if err != nil {
				faults = append(faults, fmt.Errorf("%s: %w", v.Variable, err))
				continue
			}
			text = converted
		}
		if len(v.Sets) == 0 {
			f.notices = append(f.notices, v.Variable+" has no effect: "+v.Why)
		}
		for _, name := range v.Sets {
			found, err := f.inherit(v.Variable, name, text, append(own, values...))
			values = append(values, found...)
			faults = append(faults, err)
		}
	}
	return values, slices.DeleteFunc(faults, func(err error) bool { return err == nil })
}

// inherit gives one flag its value, unless another variable has given it a
// different one.
func (f *Flags) inherit(variable, name, text string, others []given) (values []given, fault error) {
	if text == "" {
		return nil, nil
	}
	s := f.lookup(name)
	parts := []string{text}
	if _, isList := s.Value.(*list); isList {
		parts = strings.Split(text, ",")
	}
	var different string
	var theirs []string
	for _, o := range others {
		if o.Name == name {
			different = o.place
			theirs = append(theirs, o.value)
		}
	}
	switch {
	case different == "":
	case slices.Equal(theirs, parts):
		return nil, nil
	default:
		return nil, fmt.Errorf("%s and %s set --%s to different values (%q and %q): give one of them",
			variable, different, name, text, strings.Join(theirs, ","))
	}
	for _, part := range parts {
		values = append(values, given{s, strings.TrimSpace(part), variable})
	}
	return values, nil
}

// reportInherited logs, once, what of an old job's environment is not used.
func (f *Flags) reportInherited(environ []string, log *slog.Logger) {
	var unknown []string
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		if f.isUnknown(name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	if len(f.notices)+len(unknown) > 0 {
		log.Warn("not all of the environment is used", "without_effect", f.notices, "unknown", unknown)
	}
}

func (f *Flags) isUnknown(name string) bool {
	known := slices.ContainsFunc(f.inherited, func(v Inherited) bool { return v.Variable == name })
	return !known && slices.ContainsFunc(f.oldPrefixes, func(p string) bool { return strings.HasPrefix(name, p) })
}

var errPort = errors.New("is not a port from 0 to 65535")

// Port converts a port to an address on all interfaces, or with offset another
// one beside it. Port 0 is one that the system picks, whatever the offset.
func Port(offset int) func(string) (string, error) {
	return func(s string) (string, error) {
		n, err := parseInt(s)
		if err != nil || n < 0 || n+offset > 65535 {
			return "", fmt.Errorf("%q %w", s, errPort)
		}
		if n > 0 {
			n += offset
		}
		return fmt.Sprintf(":%d", n), nil
	}
}

// LocalPort converts a port to an address that only this host reaches. Port 0,
// which old jobs have as "any", leaves the flag alone.
func LocalPort(s string) (string, error) {
	addr, err := Port(0)(s)
	if err != nil || addr == ":0" {
		return "", err
	}
	return "127.0.0.1" + addr, nil
}

// Milliseconds converts a number to a duration.
func Milliseconds(s string) (string, error) {
	if _, err := parseInt(s); err != nil {
		return "", err
	}
	return s + "ms", nil
}
