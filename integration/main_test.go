package integration

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.Nozzle, process.Lgr, process.LoadTool,
		process.FakeCF, process.RealClient))
}

// certificates makes a set once per run.
var certificates = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "integration-certs")
	if err != nil {
		return "", err
	}
	p, err := process.Start(process.Command{Path: blackbox.Programs.Path(process.Lgr), Args: []string{"certs", dir}})
	if err != nil {
		return "", err
	}
	if code, err := p.Wait(context.Background()); err != nil || code != 0 {
		return "", fmt.Errorf("lgr certs: %w: code %d: %s", err, code, p.Log())
	}
	return dir, nil
})
