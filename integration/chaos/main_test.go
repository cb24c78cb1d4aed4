package chaos

import (
	"fmt"
	"os"
	"testing"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/netns"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(netns.Inside(func() int {
		code := blackbox.Main(m, process.Doppler, process.TrafficController, process.Nozzle, process.Lgr)
		if err := publish(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return code
	}))
}
