// Package blackbox is what tests of the built programs stand on: it builds the
// programs once per run, starts pipelines of them that have to end well, sends,
// reads and asks. Its functions end the test when something is not as it has to
// be; those that wait do so until their context ends.
package blackbox

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/integration/process"
)

// Programs are the built ones, once Main has built them.
var Programs process.Binaries

// Full asks for the rates and times of the design, which take minutes and an
// idle machine.
var Full = os.Getenv("LGR_FULL") == "1"

// Main builds the named programs, with the race detector if the tests have it,
// runs the tests and looks for goroutines they have left. It returns the exit
// code of the test program.
func Main(m *testing.M, names ...string) int {
	dir, err := os.MkdirTemp("", "integration")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }() // what is left does no harm
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	Programs, err = process.Build(ctx, dir, Race, names...)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// Deadline returns a context that ends the test's waiting, long after it should
// have been over on the slowest machine.
func Deadline(t *testing.T) context.Context {
	t.Helper()
	limit := 2 * time.Minute
	if Race || Full {
		limit = 8 * time.Minute
	}
	if end, ok := t.Deadline(); ok { // leave time to say what is wrong
		limit = min(limit, time.Until(end)-10*time.Second)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
