package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/a1ea6966/loggregator/cli/internal/canary"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

const (
	// leastRemembered is how many envelopes are told apart at least, on all
	// lanes together, and mostRemembered at most: they take about 100 bytes
	// each. In between it is what is sent in timesPatience times --lost-after.
	leastRemembered = 1 << 16
	mostRemembered  = 1 << 20
	timesPatience   = 4
	// maxCanarySize is half of what a Doppler lets an envelope have.
	maxCanarySize = 512 << 10
	// noAdmin is no address.
	noAdmin = "none"
)

// canaryCommand probes a platform.
type canaryCommand struct {
	Reader readerFlags `embed:""`

	Doppler []string    `env:"LGR_DOPPLER_ADDR" default:"127.0.0.1:8082" sep:"," placeholder:"HOST:PORT" help:"gRPC address of a Doppler or an agent; repeat it for several (default ${default})."`
	Inside  insideFlags `embed:"" group:"tls"`

	SourceID     string    `short:"s" placeholder:"ID" help:"Source id; no two canaries should have the same (default: lgr-canary- and the id of the run)."`
	Subscription string    `placeholder:"ID" help:"Firehose subscription, which no other reader may have (default: lgr-canary- and the id of the run)."`
	Rate         perSecond `default:"10" placeholder:"N" help:"Envelopes per second, to all Dopplers together (default ${default})."`
	Size         byteSize  `default:"200" placeholder:"BYTES" help:"Length of the text of an envelope (default ${default})."`

	For       time.Duration `placeholder:"TIME" help:"End after so long, with 1 if anything was wrong (default: never)."`
	LostAfter time.Duration `default:"30s" placeholder:"TIME" help:"How long an envelope may take, once it is confirmed, before it is lost (default ${default})."`
	GiveUp    time.Duration `default:"1m" placeholder:"TIME" help:"How long a lost Doppler may be away before what it had not confirmed is not sent again (default ${default})."`
	Interval  time.Duration `short:"i" default:"10s" placeholder:"TIME" help:"Time between two lines; 0s for none (default ${default})."`
	AdminAddr string        `default:"127.0.0.1:9085" placeholder:"HOST:PORT" help:"Listener for metrics, health and pprof; none for no listener (default ${default})."`

	mint canary.Mint
}

// Help tells what is watched.
func (*canaryCommand) Help() string {
	return `Sends numbered envelopes with checksums, and reads them back over a tail of its source and over the Firehose, for ever. A line now and then, and metrics all the time, tell what is lost, told as missed, twice, out of order or changed, and how long envelopes take.

What counts is what is lost without a word: envelopes that a Doppler has confirmed, that did not come and that no gap was told for. It has to be 0, whatever restarts or breaks. With --for, the exit code is 1 if it was not, or if an envelope was changed, twice without a mark, or out of the order of its Doppler.

    lgr canary --for 1m
    lgr canary --addr https://HOST:8081 --doppler HOST-1:8082 --doppler HOST-2:8082 --rate 100 --interval 1m`
}

// insideFlags say how to trust a Doppler and how to be known to it.
type insideFlags struct {
	CA   string `name:"doppler-tls-ca" env:"LGR_DOPPLER_TLS_CA" placeholder:"FILE" help:"Authority of the Dopplers; with certificate and key, or none of them."`
	Cert string `name:"doppler-tls-cert" env:"LGR_DOPPLER_TLS_CERT" placeholder:"FILE" help:"Our certificate for them."`
	Key  string `name:"doppler-tls-key" env:"LGR_DOPPLER_TLS_KEY" placeholder:"FILE" help:"Its key."`
	Name string `name:"doppler-tls-server-name" env:"LGR_DOPPLER_TLS_SERVER_NAME" default:"doppler" placeholder:"NAME" help:"Name to expect in their certificates (default ${default})."`
}

func (f insideFlags) flags() tlsFlags {
	return tlsFlags{CA: f.CA, Cert: f.Cert, Key: f.Key, ServerName: f.Name}
}

func (c *canaryCommand) check() error {
	faults := []error{c.Reader.check(), checkHostPorts("--doppler", c.Doppler), c.checkLoad()}
	c.Doppler = unique(c.Doppler)
	if files := c.Inside.flags().files(); !files.Empty() && !files.Complete() {
		faults = append(faults, errors.New("--doppler-tls-ca, --doppler-tls-cert and --doppler-tls-key: a Doppler needs all three or none"))
	}
	if c.AdminAddr != noAdmin {
		faults = append(faults, checkHostPorts("--admin-addr", []string{c.AdminAddr}))
	}
	for _, text := range [][2]string{{"--source-id", c.SourceID}, {"--subscription", c.Subscription}} {
		if !utf8.ValidString(text[1]) {
			faults = append(faults, fmt.Errorf("%s: %q is not UTF-8", text[0], text[1]))
		}
	}
	return errors.Join(faults...)
}

func (c *canaryCommand) checkLoad() error {
	var faults []error
	if !(c.Rate >= 0.01 && c.Rate <= 1e5) {
		faults = append(faults, errors.New("--rate: not between 0.01 and 100000 per second"))
	}
	if c.Size > maxCanarySize {
		faults = append(faults, fmt.Errorf("--size: more than %d bytes", maxCanarySize))
	}
	for _, d := range []struct {
		flag  string
		value time.Duration
	}{{"--lost-after", c.LostAfter}, {"--give-up", c.GiveUp}} {
		if d.value < time.Second || d.value > time.Hour {
			faults = append(faults, fmt.Errorf("%s: %s is not between 1s and 1h", d.flag, d.value))
		}
	}
	if c.Interval != 0 && c.Interval < time.Second {
		faults = append(faults, fmt.Errorf("--interval: %s is less than 1s", c.Interval))
	}
	if n := float64(c.Rate) * c.LostAfter.Seconds() * timesPatience; n > mostRemembered {
		faults = append(faults, fmt.Errorf("--rate and --lost-after: %d times their product, %.0f, is more than the %d envelopes that can be told apart", timesPatience, n, mostRemembered))
	}
	return errors.Join(faults...)
}

// remember is how many numbers are told apart.
func (c *canaryCommand) remember() int {
	return max(leastRemembered, int(float64(c.Rate)*c.LostAfter.Seconds()*timesPatience))
}

// name makes this run known from all others.
func (c *canaryCommand) name() {
	var id [4]byte
	_, _ = rand.Read(id[:]) // it never fails
	run := hex.EncodeToString(id[:])
	if c.SourceID == "" {
		c.SourceID = "lgr-canary-" + run
	}
	if c.Subscription == "" {
		c.Subscription = "lgr-canary-" + run
	}
	c.mint = canary.Mint{Run: run, Source: c.SourceID, Size: int(c.Size)}
}

// configs are those of the streams, by path.
func (c *canaryCommand) configs(ctx context.Context) ([]nozzle.Config, error) {
	config, err := c.Reader.config(ctx)
	if err != nil {
		return nil, err
	}
	tail, firehose := config, config
	tail.Source = c.SourceID
	firehose.Subscription, firehose.SourceIDs = c.Subscription, []string{c.SourceID}
	return []nozzle.Config{canary.Tail: tail, canary.Firehose: firehose}, nil
}

// openPath opens a tail or the Firehose, as the config says.
func openPath(ctx context.Context, config nozzle.Config) (*nozzle.Stream, error) {
	if config.Source != "" {
		return nozzle.Tail(ctx, config)
	}
	return nozzle.Open(ctx, config)
}
