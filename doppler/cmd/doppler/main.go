// Command doppler takes envelopes in over gRPC, holds the newest in memory, and
// streams them to Traffic Controllers.
package main

import (
	"context"
	"log/slog"
	"os"

	"github.com/a1ea6966/loggregator/doppler"
	"github.com/a1ea6966/loggregator/internal/daemon"
)

func main() {
	os.Exit(daemon.Main("doppler", "Takes envelopes in, holds the newest, streams them to Traffic Controllers.",
		doppler.DefaultConfig(), run))
}

func run(ctx context.Context, cfg *doppler.Config, log *slog.Logger) error {
	d, err := doppler.New(*cfg, log)
	if err != nil {
		return err
	}
	return d.Run(ctx)
}
