package conformance

import (
	"context"
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/process"
)

// programs are the built ones, and here what runs of them.
var (
	programs process.Binaries
	here     *platform
)

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "conformance")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	programs, err = process.Build(ctx, dir, blackbox.Race, process.Doppler, process.TrafficController, process.Lgr, process.FakeCF)
	if err == nil {
		here, err = startPlatform(ctx, dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	failed := all.print(os.Stdout)
	if flag.Lookup("test.run").Value.String() == "" { // nothing was left out
		failed += all.unused(os.Stdout)
	}
	err = here.stop(ctx)
	if err == nil {
		err = goleak.Find()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	if err != nil || failed > 0 {
		return max(code, 1)
	}
	return code
}

// deadline bounds the waiting of one test.
func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}
