package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
)

// Faults gathers all that is wrong with a configuration, for its Validate.
// The zero value is ready.
type Faults struct{ errs []error }

// Addf adds a fault of the setting named flag: its present value and, in plain
// words, the limit it breaks.
func (f *Faults) Addf(flag string, value any, format string, args ...any) {
	f.errs = append(f.errs, fmt.Errorf("--%s %v: %s", flag, value, fmt.Sprintf(format, args...)))
}

// Join adds what another check found.
func (f *Faults) Join(err error) {
	if err != nil {
		f.errs = append(f.errs, err)
	}
}

// Err is all faults, joined, or nil.
func (f *Faults) Err() error { return errors.Join(f.errs...) }

// Between adds a fault unless low <= value <= high.
func Between[T cmp.Ordered](f *Faults, flag string, value, low, high T) {
	if value < low || value > high {
		f.Addf(flag, value, "must be between %v and %v", low, high)
	}
}

// BytesBetween adds a fault unless low <= value <= high, written as sizes.
func (f *Faults) BytesBetween(flag string, value, low, high int64) {
	if value < low || value > high {
		f.Addf(flag, FormatBytes(value), "must be between %s and %s", FormatBytes(low), FormatBytes(high))
	}
}

// Address adds a fault unless value is host:port, where host may be empty.
func (f *Faults) Address(flag, value string) {
	_, port, err := net.SplitHostPort(value)
	if err != nil {
		f.Addf(flag, fmt.Sprintf("%q", value), "must be host:port or :port")
		return
	}
	if _, err := net.DefaultResolver.LookupPort(context.Background(), "tcp", port); err != nil {
		f.Addf(flag, fmt.Sprintf("%q", value), "%q is not a port from 0 to 65535", port)
	}
}

// lines splits joined errors into one line each.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var all []string
		for _, e := range joined.Unwrap() {
			all = append(all, lines(e)...)
		}
		return all
	}
	return []string{err.Error()}
}
