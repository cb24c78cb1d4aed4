package soak

import (
	"os"
	"testing"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController))
}
