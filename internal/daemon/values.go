package daemon

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// value is a setting of one type. It has flag.Value's methods.
type value[T any] struct {
	into   *T
	kind   string // what the help calls it
	parse  func(string) (T, error)
	format func(T) string
}

func (v *value[T]) Set(s string) error {
	parsed, err := v.parse(s)
	if err != nil {
		return err
	}
	*v.into = parsed
	return nil
}

func (v *value[T]) String() string {
	if v == nil || v.into == nil {
		return "" // package flag makes zero values to compare with
	}
	return v.format(*v.into)
}

func (v *value[T]) placeholder() string { return v.kind }

type boolValue struct{ value[bool] }

// IsBoolFlag makes package flag and parseArgs take the flag without a value.
func (*boolValue) IsBoolFlag() bool { return true }

// list is a setting of several strings. The first Set after begin replaces
// what was there, so that a flag replaces the file's list and does not add to
// it.
type list struct {
	into  *[]string
	begun bool
}

func (l *list) begin() { l.begun = true }

func (l *list) Set(s string) error {
	if s == "" {
		return errors.New("is empty")
	}
	if l.begun {
		*l.into, l.begun = nil, false
	}
	*l.into = append(*l.into, s)
	return nil
}

func (l *list) String() string {
	if l == nil || l.into == nil {
		return ""
	}
	return strings.Join(*l.into, ",")
}

func parseInt(s string) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", s)
	}
	return n, nil
}

func parseBool(s string) (bool, error) {
	b, err := strconv.ParseBool(s)
	if err != nil {
		return false, fmt.Errorf("%q is neither true nor false", s)
	}
	return b, nil
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 500ms, 30s or 2m", s)
	}
	return d, nil
}

// formatDuration drops the zero units that Duration.String leaves at the end.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

type unit struct {
	name  string
	bytes int64
}

// units are the ways to write a size, the binary ones first, largest first.
func units() []unit {
	return []unit{
		{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
		{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"KB", 1e3}, {"B", 1},
	}
}

// ParseBytes reads a size: a whole number of bytes, or of KiB, MiB, GiB, TiB
// (powers of 1024), kB, MB, GB or TB (powers of 1000). It does not take
// negative ones.
func ParseBytes(s string) (int64, error) {
	digits, scale := strings.TrimSpace(s), int64(1)
	for _, u := range units() {
		if rest, ok := strings.CutSuffix(digits, u.name); ok {
			digits, scale = strings.TrimSpace(rest), u.bytes
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || digits == "" || digits[0] == '+' {
		if errors.Is(err, strconv.ErrRange) {
			return 0, fmt.Errorf("%q is too large", s)
		}
		return 0, fmt.Errorf("%q is not a size such as 65536, 256KiB or 64MiB", s)
	}
	if int64(n) > math.MaxInt64/scale {
		return 0, fmt.Errorf("%q is too large", s)
	}
	return int64(n) * scale, nil
}

// FormatBytes writes a size as ParseBytes reads it, in the largest binary unit
// that takes no fraction.
func FormatBytes(n int64) string {
	for _, u := range units()[:4] {
		if n != 0 && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}
