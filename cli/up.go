package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

const (
	maxDopplers = 50 // their ports would meet others
	// upDrainGrace is short: on a laptop readers that are gone do not come
	// back for what is left.
	upDrainGrace = 2 * time.Second
)

// upCommand runs everything.
type upCommand struct {
	Demo     bool      `help:"Run demo apps: shop, api and worker."`
	Tail     bool      `help:"Show the logs of the demo apps here; implies --demo."`
	DemoRate perSecond `default:"3" placeholder:"N" help:"Requests per second to the demo apps (default ${default})."`

	Dopplers  int      `default:"1" placeholder:"N" help:"Run N Dopplers (default ${default})."`
	RingBytes byteSize `default:"128MiB" placeholder:"BYTES" help:"What each Doppler holds (default ${default})."`

	SourceLimit int `placeholder:"N" help:"Envelopes of one source that each Doppler takes per second (default: any number)."`

	PortOffset  int  `placeholder:"N" help:"Add N to every port: 8081 (Traffic Controller), 8082 and 8083 (Doppler), 9081 and 9082 (metrics)."`
	RandomPorts bool `help:"Take any free ports."`

	TLS     bool   `name:"tls" help:"Mutual TLS inside and TLS outside, with certificates made for it."`
	CertDir string `placeholder:"DIR" help:"Where the certificates are kept (default: a temporary directory); those that are there are used."`

	LogLevel string `default:"warn" placeholder:"LEVEL" help:"Of the services' own logs on stderr: debug, info, warn or error (default ${default})."`
}

// Help says how to leave.
func (*upCommand) Help() string {
	return `Runs Dopplers and a Traffic Controller in this process, on loopback, WITHOUT ACCESS CONTROL: for development only. Ctrl-C stops everything in order.

    lgr up --demo --tail
    lgr up --dopplers 2 --tls --port-offset 100`
}

func (c *upCommand) check() error {
	var faults []error
	if c.Dopplers < 1 || c.Dopplers > maxDopplers {
		faults = append(faults, fmt.Errorf("--dopplers: %d is not between 1 and %d", c.Dopplers, maxDopplers))
	}
	highest := maxPort - portDopplerAdmin - maxDopplers*dopplerStep
	if c.PortOffset < 0 || c.PortOffset > highest {
		faults = append(faults, fmt.Errorf("--port-offset: %d is not between 0 and %d", c.PortOffset, highest))
	}
	if c.RandomPorts && c.PortOffset != 0 {
		faults = append(faults, errors.New("--random-ports and --port-offset: one or the other"))
	}
	if c.CertDir != "" && !c.TLS {
		faults = append(faults, errors.New("--cert-dir: of no use without --tls"))
	}
	if c.DemoRate <= 0 {
		faults = append(faults, errors.New("--demo-rate: max is no rate for people"))
	}
	faults = append(faults, oneOf("--log-level", c.LogLevel, "debug", "info", "warn", "error"))
	c.Demo = c.Demo || c.Tail
	return errors.Join(faults...)
}

func (c *upCommand) run(ctx context.Context, s Streams) error {
	u := &stack{command: c, streams: s, ready: make(chan struct{})}
	u.log = slog.New(slog.NewTextHandler(s.Err, &slog.HandlerOptions{Level: &u.level}))
	if err := u.level.UnmarshalText([]byte(c.LogLevel)); err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	defer u.removeCerts()
	if err := u.prepare(ctx); err != nil {
		return err
	}
	if err := u.run(ctx); err != nil {
		return err
	}
	notice(s, "everything has stopped")
	return nil
}
