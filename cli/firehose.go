package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// firehoseCommand shows everything.
type firehoseCommand struct {
	Reader readerFlags `embed:""`
	Show   showFlags   `embed:""`

	Subscription string   `placeholder:"ID" help:"Share the stream with all readers of this id (default: nobody)."`
	Type         []string `sep:"," placeholder:"TYPE" help:"Only log, counter, gauge, timer or event; may be repeated."`
	SourceID     []string `sep:"none" placeholder:"ID" help:"Only this source; may be repeated."`
	Name         []string `sep:"none" placeholder:"NAME" help:"Only counters, timers and gauges with this name; may be repeated."`
	Count        uint64   `short:"c" placeholder:"N" help:"Exit after N envelopes."`
	Stats        bool     `help:"Only rates, one line per second."`
}

// Help tells what subscriptions do.
func (*firehoseCommand) Help() string {
	return `Readers with the same --subscription and the same selectors share the stream: each envelope goes to one of them, and what one has not shown when it dies goes to another. Without it, lgr firehose reads for itself.

    lgr firehose --type counter --type gauge --json | jq .source_id
    lgr firehose --stats`
}

func (c *firehoseCommand) check() error {
	faults := []error{c.Reader.check(), c.Show.check()}
	if _, err := envelope.MaskOf(c.Type...); err != nil {
		faults = append(faults, fmt.Errorf("--type: %w", err))
	}
	if c.Stats && c.Show.JSON {
		faults = append(faults, errors.New("--stats and --json: one or the other"))
	}
	return errors.Join(faults...)
}

func (c *firehoseCommand) run(ctx context.Context, s Streams) (err error) {
	config, err := c.Reader.config(ctx)
	if err != nil {
		return err
	}
	config.Subscription, config.Types, config.SourceIDs, config.Names = c.Subscription, c.Type, c.SourceID, c.Name
	if config.Subscription == "" {
		config.Subscription = ownSubscription()
	}
	r, err := openReader(ctx, nozzle.Open, []nozzle.Config{config})
	if err != nil {
		return err
	}
	w := newShow(s, c.Show, true, c.SourceID...)
	w.header("Reading the Firehose of %s as %s...", c.Reader.Addr, config.Subscription)
	f := &firehose{show: w, link: newLink(c.Reader.Addr, w, 1), left: c.Count}
	if c.Count == 0 {
		f.left = math.MaxUint64
	}
	if c.Stats {
		f.stats = newStats()
		r.tickEvery(time.Second)
	}
	return errors.Join(r.each(ctx, f.handle, f.idle), r.close())
}

// ownSubscription is a name nobody else has, so that two people do not share
// a stream by accident.
func ownSubscription() string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "somewhere"
	}
	return strings.ReplaceAll(fmt.Sprintf("lgr-%s@%s-%d", name, host, os.Getpid()), "/", "_")
}

// firehose shows batches and acks them when they are written.
type firehose struct {
	show    *show
	link    *link
	stats   *stats // nil if envelopes are shown
	left    uint64 // envelopes still wanted
	written []*nozzle.Batch
}

func (f *firehose) handle(e event) (enough bool, err error) {
	switch {
	case !e.tick.IsZero():
		return false, f.show.line(f.stats.line(e.tick))
	case e.batch == nil:
		return false, f.link.take(e)
	}
	for _, gap := range e.batch.Gaps {
		if err := f.show.gap("", gap, e.batch.Position); err != nil {
			return false, err
		}
	}
	n := int(min(uint64(e.batch.Len()), f.left))
	if f.stats != nil {
		f.stats.add(e.batch, n)
	} else if err := f.write(e.batch, n); err != nil {
		return false, err
	}
	f.left -= uint64(n)
	return f.left == 0, f.done(e.batch, n)
}

// write shows the first n envelopes of a batch.
func (f *firehose) write(b *nozzle.Batch, n int) error {
	envelopes, err := b.Decode()
	if err != nil {
		return fault(err)
	}
	for _, e := range envelopes[:n] {
		if err := f.show.envelope(e); err != nil {
			return err
		}
	}
	return nil
}

// done acks the first n envelopes of a batch, once they are seen; the others
// are left to other readers.
func (f *firehose) done(b *nozzle.Batch, n int) error {
	if n == b.Len() {
		b.Release()
		f.written = append(f.written, b)
		if len(f.written) < eventsAhead {
			return nil
		}
		return f.ack()
	}
	i := 0
	for id := range b.All() {
		if i++; i == n {
			if err := f.ack(); err != nil {
				return err
			}
			b.AckRange(b.Position.GetFirst(), id.Offset)
			break
		}
	}
	return nil
}

// ack takes responsibility for what is written.
func (f *firehose) ack() error {
	if err := f.show.flush(); err != nil {
		return err
	}
	for _, b := range f.written {
		b.Ack()
	}
	clear(f.written)
	f.written = f.written[:0]
	return nil
}

func (f *firehose) idle() error {
	if err := f.show.idle(); err != nil {
		return err
	}
	return f.ack()
}
