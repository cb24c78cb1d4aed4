package integration

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/integration/process"
)

// programs are the built ones.
var programs process.Binaries

// full asks for the rates and times of the design.
var full = os.Getenv("LGR_FULL") == "1"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "integration")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	programs, err = process.Build(ctx, dir, raceEnabled,
		process.Doppler, process.TrafficController, process.Nozzle, process.Lgr, process.LoadTool,
		process.FakeCF, process.RealClient)
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

// certificates makes a set once per run.
var certificates = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "integration-certs")
	if err != nil {
		return "", err
	}
	p, err := process.Start(process.Command{Path: programs.Path(process.Lgr), Args: []string{"certs", dir}})
	if err != nil {
		return "", err
	}
	if code, err := p.Wait(context.Background()); err != nil || code != 0 {
		return "", fmt.Errorf("lgr certs: %w: code %d: %s", err, code, p.Log())
	}
	return dir, nil
})
