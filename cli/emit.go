package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/credentials"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
	"github.com/a1ea6966/loggregator/cli/internal/terminal"
)

// closeGrace is how long an interrupted emit may take to have confirmed what
// it has sent.
const closeGrace = 5 * time.Second

// emitCommand sends envelopes.
type emitCommand struct {
	Addr []string `env:"LGR_DOPPLER_ADDR" default:"127.0.0.1:8082" sep:"," placeholder:"HOST:PORT" help:"Doppler's gRPC address; repeat it for several (default ${default})."`
	TLS  tlsFlags `embed:"" group:"tls"`

	Source     string            `short:"s" placeholder:"ID" help:"Source id; lines need one (made-up envelopes: lgr)."`
	Instance   string            `default:"0" placeholder:"ID" help:"Instance id (default ${default})."`
	SourceType string            `default:"APP" placeholder:"TYPE" help:"Tag source_type of logs: what stands in the brackets (default ${default})."`
	Stderr     bool              `help:"Send the lines as ERR."`
	Tag        map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Another tag; may be repeated."`

	Rate     *perSecond    `group:"load" placeholder:"N" help:"Make up N envelopes per second, or as many as possible: max."`
	Count    uint64        `group:"load" placeholder:"N" help:"Make up N envelopes."`
	Duration time.Duration `group:"load" placeholder:"TIME" help:"Make up envelopes for so long."`
	Sources  int           `group:"load" default:"1" placeholder:"N" help:"Take turns with N sources: ID-1 to ID-N."`
	Kind     string        `group:"load" default:"log" placeholder:"KIND" help:"Kind: log, counter, gauge, timer, event or mix (default ${default})."`
	Size     byteSize      `group:"load" default:"200" placeholder:"BYTES" help:"Length of the text of a log (default ${default})."`

	MaxEnvelopeBytes byteSize      `default:"1MiB" placeholder:"BYTES" help:"What the Doppler lets an envelope have; longer lines are sent in pieces (default ${default})."`
	GiveUp           time.Duration `default:"1m" placeholder:"TIME" help:"How long to try a lost Doppler again (default ${default})."`
	Quiet            bool          `short:"q" help:"No summary at the end."`
}

// Help tells what is promised.
func (*emitCommand) Help() string {
	return `Sends every line of stdin as a log of --source. Lines wait until the Doppler takes them; at the end lgr emit waits until it has confirmed all of them, and only then exits with 0. When a Doppler is lost, what it had not confirmed is sent again once it is back, and said so.

With --rate, --count or --duration it does not read stdin but makes envelopes up.

    some-program 2>&1 | lgr emit -s my-app
    lgr emit --rate 5000 --sources 10 --kind mix --duration 1m`
}

// load says whether envelopes are made up.
func (c *emitCommand) load() bool { return c.Rate != nil || c.Count > 0 || c.Duration > 0 }

func (c *emitCommand) check() error {
	faults := []error{checkHostPorts("--addr", c.Addr)}
	if c.Source == "" {
		if !c.load() {
			faults = append(faults, errors.New("--source: lines need the id of a source"))
		}
		c.Source = "lgr"
	}
	if c.load() {
		faults = append(faults, c.checkLoad())
	}
	if c.MaxEnvelopeBytes < emit.MinEnvelope {
		faults = append(faults, fmt.Errorf("--max-envelope-bytes: less than %d leaves no room for lines", emit.MinEnvelope))
	}
	for _, text := range [][2]string{{"--source", c.Source}, {"--instance", c.Instance}, {"--source-type", c.SourceType}, {"--tag", joinTags(c.Tag)}} {
		if !utf8.ValidString(text[1]) {
			faults = append(faults, fmt.Errorf("%s: %q is not UTF-8", text[0], text[1]))
		}
	}
	if files := c.TLS.files(); !files.Empty() && !files.Complete() {
		faults = append(faults, errors.New("--tls-ca, --tls-cert and --tls-key: a Doppler needs all three or none"))
	}
	return errors.Join(faults...)
}

func (c *emitCommand) checkLoad() error {
	faults := []error{oneOf("--kind", c.Kind, emit.Kinds...)}
	if c.Sources < 1 {
		faults = append(faults, fmt.Errorf("--sources: %d is too few", c.Sources))
	}
	if c.Size > c.MaxEnvelopeBytes/2 {
		faults = append(faults, fmt.Errorf("--size: more than %d bytes, half of --max-envelope-bytes", c.MaxEnvelopeBytes/2))
	}
	return errors.Join(faults...)
}

func joinTags(tags map[string]string) string {
	var b strings.Builder
	for name, value := range tags {
		b.WriteString(name + value)
	}
	return b.String()
}

func (c *emitCommand) run(ctx context.Context, s Streams) error {
	config := emit.Config{GiveUp: c.GiveUp, Notice: func(text string) { notice(s, text) }}
	inside, err := c.TLS.inside()
	if err != nil {
		return err
	}
	if inside != nil {
		config.Credentials = credentials.NewTLS(inside)
	}
	// What was sent may still be confirmed after an interrupt, for a while.
	sending, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeGrace, abort) })()
	fleet, err := emit.DialAll(sending, c.Addr, config)
	if err != nil {
		return withHint(err)
	}
	start := time.Now()
	end, sendErr := c.send(ctx, s, fleet)
	closeErr := fleet.Close()
	if !c.Quiet {
		c.summarise(s, fleet.Stats(), end, time.Since(start))
	}
	if closeErr != nil {
		// It says what sending failed of, with the numbers at the end.
		return closeErr
	}
	return sendErr
}

// send sends everything there is; what it returns first goes into the summary.
func (c *emitCommand) send(ctx context.Context, s Streams, fleet *emit.Fleet) (string, error) {
	if c.load() {
		return "", c.makeUp(ctx, fleet)
	}
	return c.copyLines(ctx, s, fleet)
}

func (c *emitCommand) makeUp(ctx context.Context, fleet *emit.Fleet) error {
	load := emit.Load{
		Source: c.Source, Sources: c.Sources, Instance: c.Instance, Tags: c.tags(),
		Kind: c.Kind, Size: int(c.Size), Count: c.Count, Duration: c.Duration,
	}
	if c.Rate != nil {
		load.Rate = float64(*c.Rate)
	}
	_, err := load.Run(ctx, fleet.Send)
	if err == nil && ctx.Err() != nil && (c.Count > 0 || c.Duration > 0) {
		return errInterrupted
	}
	return err
}

func (c *emitCommand) copyLines(ctx context.Context, s Streams, fleet *emit.Fleet) (string, error) {
	if terminal.Is(s.In) {
		notice(s, "reading lines from the terminal; Ctrl-D ends")
	}
	lines := emit.Lines{
		Source: c.Source, Instance: c.Instance, Tags: c.tags(),
		MaxEnvelope: int(c.MaxEnvelopeBytes), Notice: func(text string) { notice(s, text) },
	}
	if c.Stderr {
		lines.Type = loggregatorv2.Log_ERR
	}
	type result struct {
		stats emit.LineStats
		err   error
	}
	// Reading stdin cannot be interrupted; then it is left to the end of the
	// program, and what it still sends is refused.
	read := make(chan result, 1)
	go func() {
		stats, err := lines.Copy(s.In, fleet.Send)
		read <- result{stats, err}
	}()
	select {
	case r := <-read:
		if r.stats.Split == 0 {
			return "", r.err
		}
		return fmt.Sprintf("; %d of %d lines were too long and sent in %d pieces", r.stats.Split, r.stats.Lines, r.stats.Pieces), r.err
	case <-ctx.Done():
		return "; interrupted", errInterrupted
	}
}

func (c *emitCommand) tags() map[string]string {
	tags := map[string]string{"source_type": c.SourceType}
	for name, value := range c.Tag {
		tags[name] = value
	}
	return tags
}

func (c *emitCommand) summarise(s Streams, st emit.Stats, end string, took time.Duration) {
	rate := float64(st.Taken) / max(took.Seconds(), 1e-9)
	state := "all accepted"
	if st.Confirmed != st.Taken {
		state = fmt.Sprintf("%d accepted, %d not confirmed", st.Confirmed, st.Taken-st.Confirmed)
	}
	if st.Resent > 0 {
		state += fmt.Sprintf(", up to %d twice", st.Resent)
	}
	notice(s, fmt.Sprintf("%d envelopes (%.1f MiB) in %s, %.0f/s, %s%s",
		st.Taken, float64(st.Bytes)/(1<<20), took.Round(time.Millisecond), rate, state, end))
}

// notice tells a person something that is not an error.
func notice(s Streams, text string) { fmt.Fprintf(s.Err, "-- %s\n", text) }
