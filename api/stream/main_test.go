package stream

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestMain looks for goroutines left behind, and, unless benchmarks run, for
// buffers released too often or never.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	stop := func() error { return nil }
	if !benchmarking() {
		stop = TrackBuffers()
	}
	code := m.Run()
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

func benchmarking() bool {
	for _, arg := range os.Args {
		if strings.HasPrefix(arg, "-test.bench=") {
			return true
		}
	}
	return false
}
