package cli

import (
	"context"
	"fmt"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

// certsCommand makes certificates.
type certsCommand struct {
	Dir   string `arg:"" help:"Directory to write to; it is made if need be."`
	Force bool   `help:"Replace what is there."`
}

// Help says what the files are for.
func (*certsCommand) Help() string {
	return `Writes an authority and the certificates of every service, each as NAME.crt and NAME.key:

    ca                 the authority
    doppler            Doppler's gRPC and stream listeners
    trafficcontroller  what the Traffic Controller shows to Dopplers
    metron             what agents and lgr emit show to Dopplers
    outside            what the Traffic Controller shows to people; for localhost and this host`
}

func (*certsCommand) check() error { return nil }

func (c *certsCommand) run(_ context.Context, s Streams) error {
	files, err := mtls.GenerateSet(c.Dir, c.Force)
	if err != nil {
		return fmt.Errorf("make certificates: %w", err)
	}
	for _, file := range files {
		if _, err := fmt.Fprintln(s.Out, file); err != nil {
			return err
		}
	}
	return nil
}
