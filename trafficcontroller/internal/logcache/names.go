package logcache

import (
	"fmt"
	"regexp"
	"regexp/syntax"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Limits of a regular expression. Go matches in linear time, but a few bytes
// with nested repetitions may stand for a program of 100 MiB.
const (
	maxRegexpBytes = 1024
	maxRegexpSteps = 10_000
)

// compile is regexp.Compile for expressions of strangers.
func compile(expr string) (*regexp.Regexp, error) {
	if err := checkRegexp(expr); err != nil {
		return nil, err
	}
	return regexp.Compile(expr)
}

func checkRegexp(expr string) error {
	if len(expr) > maxRegexpBytes {
		return fmt.Errorf("it has %d bytes, the limit is %d", len(expr), maxRegexpBytes)
	}
	n, err := stepsOf(expr)
	if err != nil {
		return err
	}
	if n > maxRegexpSteps {
		return fmt.Errorf("its repetitions make %d steps, the limit is %d", n, maxRegexpSteps)
	}
	return nil
}

func stepsOf(expr string) (int, error) {
	tree, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return 0, err
	}
	return steps(tree), nil
}

// steps is about how long the program of an expression is.
func steps(re *syntax.Regexp) int {
	n := 1 + len(re.Rune)
	for _, sub := range re.Sub {
		n += steps(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return n
}

// reduce leaves the metrics of a gauge whose names match, and tells whether
// anything of the envelope is left. Logs and events have no name.
func reduce(e *loggregatorv2.Envelope, names *regexp.Regexp) bool {
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Counter:
		return names.MatchString(m.Counter.GetName())
	case *loggregatorv2.Envelope_Timer:
		return names.MatchString(m.Timer.GetName())
	case *loggregatorv2.Envelope_Gauge:
		for name := range m.Gauge.GetMetrics() {
			if !names.MatchString(name) {
				delete(m.Gauge.Metrics, name)
			}
		}
		return len(m.Gauge.GetMetrics()) > 0
	}
	return false
}
