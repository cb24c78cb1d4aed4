package slow

import (
	"fmt"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

// Policy says when a kind of reader is slow, and what is done about it.
type Policy struct {
	// Cut closes the connection of a slow reader. Otherwise it stays: the
	// oldest of what waits for it is dropped when there is no room for more.
	Cut bool
	// More lag than that is too much; 0 for any.
	Age   time.Duration
	Bytes int64
}

// String is the Policy as a flag has it.
func (p Policy) String() string {
	what := "drop"
	if p.Cut {
		what = "cut"
	}
	return fmt.Sprintf("%s,age=%v,bytes=%s", what, p.Age, daemon.FormatBytes(p.Bytes))
}

// Flag is a Policy that can be set. What is not given stays as it was when the
// Flag was made.
type Flag struct{ into, preset *Policy }

// NewFlag returns a flag.Value for a policy that has its default.
func NewFlag(p *Policy) *Flag {
	preset := *p
	return &Flag{p, &preset}
}

// String is the present value.
func (f *Flag) String() string {
	if f == nil || f.into == nil {
		return "" // package flag makes zero values to compare with
	}
	return f.into.String()
}

// Set reads drop or cut, age=30s and bytes=64MiB, separated by commas.
func (f *Flag) Set(s string) error {
	p := *f.preset
	for part := range strings.SplitSeq(s, ",") {
		if err := p.set(strings.TrimSpace(part)); err != nil {
			return err
		}
	}
	*f.into = p
	return nil
}

func (p *Policy) set(part string) (err error) {
	name, value, _ := strings.Cut(part, "=")
	switch {
	case part == "drop", part == "cut":
		p.Cut = part == "cut"
	case name == "age":
		if p.Age, err = time.ParseDuration(value); err != nil {
			return fmt.Errorf("%.100q: age is not a duration such as 30s", part)
		}
	case name == "bytes":
		if p.Bytes, err = daemon.ParseBytes(value); err != nil {
			return fmt.Errorf("%.100q: bytes is not a size such as 64MiB", part)
		}
	default:
		return fmt.Errorf("%.100q is none of drop, cut, age=DURATION, bytes=SIZE", part)
	}
	return nil
}

// Validate adds what is wrong with the policy of a flag.
func (p Policy) Validate(f *daemon.Faults, flag string) {
	if p.Age != 0 && (p.Age < time.Second || p.Age > time.Hour) {
		f.Addf(flag, p, "age must be 0s for any, or between 1s and 1h")
	}
	if p.Bytes != 0 && (p.Bytes < 64<<10 || p.Bytes > 1<<40) {
		f.Addf(flag, p, "bytes must be 0 for any, or between 64KiB and 1TiB")
	}
}
