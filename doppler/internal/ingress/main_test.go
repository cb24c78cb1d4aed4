package ingress

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(loadVariable); ok {
		if err := runLoad(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func testConfig() Config {
	return Config{
		Window:     MinWindow,
		MaxMessage: 10 << 20, Bytes: 64 << 20, DrainWait: 200 * time.Millisecond,
		Limits: envelope.Limits{MaxEnvelope: 1 << 20, MaxSourceID: 256},
	}
}
