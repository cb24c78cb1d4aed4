package cli

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

// byteSize is a number of bytes.
type byteSize int64

// perSecond is a rate; 0 means as fast as possible.
type perSecond float64

// recent is a flag that may have a number: --recent or --recent=N.
type recent int

const defaultRecent = 1000

// values reads the values of flags. Unlike kong it goes on after a fault, so
// that a person sees all of them at once.
type values struct {
	faults []error
}

func (v *values) mappers() kong.Option {
	return kong.OptionFunc(func(k *kong.Kong) error {
		for _, o := range []kong.Option{
			mapper(v, "a whole number", strconv.Atoi),
			mapper(v, "a whole number", func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) }),
			mapper(v, "a duration like 10s or 5m", positiveDuration),
			mapper(v, "a number of bytes like 500, 64KiB or 1MiB", parseByteSize),
			mapper(v, "a number per second, or max", parsePerSecond),
			kong.TypeMapper(reflect.TypeFor[recent](), recentMapper{v}),
		} {
			if err := o.Apply(k); err != nil {
				return err
			}
		}
		return nil
	})
}

// mapper reads values of one type; want says what it should look like.
func mapper[T any](v *values, want string, parse func(string) (T, error)) kong.Option {
	return kong.TypeMapper(reflect.TypeFor[T](), kong.MapperFunc(func(ctx *kong.DecodeContext, target reflect.Value) error {
		var text string
		if err := ctx.Scan.PopValueInto("value", &text); err != nil {
			return err
		}
		if value, err := parse(text); err == nil {
			target.Set(reflect.ValueOf(value))
		} else {
			v.fault(ctx, text, want)
		}
		return nil
	}))
}

// fault notes a fault; kong may read a value more than once.
func (v *values) fault(ctx *kong.DecodeContext, text, want string) {
	err := fmt.Errorf("%s: %q is not %s", ctx.Value.ShortSummary(), text, want)
	if !slices.ContainsFunc(v.faults, func(old error) bool { return old.Error() == err.Error() }) {
		v.faults = append(v.faults, err)
	}
}

type recentMapper struct{ values *values }

func (recentMapper) IsBool() bool { return true }

func (m recentMapper) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken {
		target.SetInt(defaultRecent)
		return nil
	}
	text := fmt.Sprint(ctx.Scan.Pop().Value)
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		target.SetInt(int64(n))
	} else {
		m.values.fault(ctx, text, "a number from 1 on")
	}
	return nil
}

func positiveDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err == nil && d < 0 {
		err = strconv.ErrRange
	}
	return d, err
}

func parseByteSize(s string) (byteSize, error) {
	n, err := daemon.ParseBytes(s)
	return byteSize(n), err
}

func parsePerSecond(s string) (perSecond, error) {
	if s == "max" {
		return 0, nil
	}
	v, err := strconv.ParseFloat(strings.TrimSuffix(s, "/s"), 64)
	if err == nil && !(v > 0 && v <= 1e9) {
		err = strconv.ErrRange
	}
	return perSecond(v), err
}

// oneOf is the fault of a value that is none of those allowed, or nil.
func oneOf(flag, value string, allowed ...string) error {
	if slices.Contains(allowed, value) {
		return nil
	}
	return fmt.Errorf("%s: %q is not one of %s", flag, value, strings.Join(allowed, ", "))
}
