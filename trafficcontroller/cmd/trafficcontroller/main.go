// Command trafficcontroller serves tails and the Firehose from Dopplers.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/trafficcontroller"
)

func main() {
	os.Exit(daemon.Main("trafficcontroller", "Serves tails of a source and the Firehose from Dopplers.",
		trafficcontroller.DefaultConfig(), run))
}

func run(ctx context.Context, cfg *trafficcontroller.Config, log *slog.Logger) error {
	t, err := trafficcontroller.New(*cfg, log)
	if err != nil {
		return err
	}
	return t.Run(ctx)
}
