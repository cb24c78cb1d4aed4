package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/a1ea6966/loggregator/cli/internal/canary"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/internal/daemon"
)

const (
	// canaryTick is how often is looked what is lost, and whether it is over.
	canaryTick = 200 * time.Millisecond
	// drainMargin is what may come after --lost-after, at the end.
	drainMargin = 2 * time.Second
	// batchTime is how much of the rate goes into one message: latency is to
	// be that of the platform, and a message for each envelope too dear at
	// high rates.
	batchTime = 5 * time.Millisecond
)

// prober is a canary that runs.
type prober struct {
	command *canaryCommand
	book    *canary.Book
	show    *show
	link    *link
	reader  *reader
	lanes   []*canary.Lane

	ctx    context.Context // of the command: its end stops sending
	sent   chan error      // what sending ended with
	lineAt time.Time       // of the next line
	endBy  time.Time       // when waiting for what was sent is over; zero while it is sent
}

func (c *canaryCommand) run(ctx context.Context, s Streams) error {
	c.name()
	configs, err := c.configs(ctx)
	if err != nil {
		return err
	}
	registry := daemon.NewRegistry()
	book := canary.NewBook(canary.BookConfig{
		Mint: c.mint, Addrs: c.Doppler, Remember: c.remember(), LostAfter: c.LostAfter,
		Observe: canary.Observe(canary.NewLatency(registry)),
	})
	r, err := openReader(context.WithoutCancel(ctx), openPath, configs)
	if err != nil {
		return err
	}
	status := func(p canary.Path) nozzle.Status { return r.streams[p].Status() }
	canary.Export(registry, book, status)
	w := newShow(s, showFlags{Color: "auto"}, false)
	p := &prober{
		command: c, book: book, show: w, link: newLink(c.Reader.Addr, w, len(configs)), reader: r,
		ctx: ctx, sent: make(chan error, 1), lineAt: time.Now().Add(c.Interval),
	}
	stop, err := p.serve(daemon.Admin{Metrics: registry, Ready: p.ready})
	if err != nil {
		return errors.Join(err, r.close())
	}
	defer stop()
	return p.run()
}

// serve serves the admin listener until stop is called.
func (p *prober) serve(admin daemon.Admin) (stop func(), err error) {
	if p.command.AdminAddr == noAdmin {
		p.header("no metrics")
		return func() {}, nil
	}
	l, err := daemon.Listen(p.command.AdminAddr, 0)
	if err != nil {
		return nil, fmt.Errorf("--admin-addr: %w", err)
	}
	p.header("metrics http://" + l.Addr().String() + "/metrics")
	server := daemon.NewHTTPServer(admin.Handler(), slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	var serving sync.WaitGroup
	serving.Go(func() { _ = daemon.ServeHTTP(server, l, 0)(ctx) })
	return func() { cancel(); serving.Wait() }, nil
}

func (p *prober) header(metrics string) {
	c := p.command
	p.show.header("Sending %s a second as source %s to %s, reading them back from %s...", fmt.Sprint(float64(c.Rate)), c.SourceID, strings.Join(c.Doppler, ", "), c.Reader.Addr)
	_ = p.show.notice("Firehose subscription %s; %s", c.Subscription, metrics)
}

// ready says whether the canary can do its work.
func (p *prober) ready() error {
	var faults []error
	for _, path := range canary.Paths() {
		if !p.connected(path) {
			faults = append(faults, fmt.Errorf("no connection for the %s", path))
		}
	}
	for _, lane := range p.book.Lanes() {
		if !lane.Up {
			faults = append(faults, fmt.Errorf("no connection to %s", lane.Addr))
		}
	}
	return errors.Join(faults...)
}

func (p *prober) connected(path canary.Path) bool { return p.reader.streams[path].Status().Connected }

// run sends and reads until it is over, and says how it went.
func (p *prober) run() error {
	sending, cancel := context.WithCancel(p.ctx)
	var sender sync.WaitGroup
	sender.Go(func() { p.sent <- p.send(sending) })
	p.reader.tickEvery(canaryTick)
	err := p.reader.each(context.WithoutCancel(p.ctx), p.handle, p.show.idle)
	cancel()
	closeErr := p.reader.close() // before the senders: it refuses their notices
	sender.Wait()
	if err == nil {
		err = p.verdict()
	}
	return errors.Join(err, closeErr)
}

// verdict writes the summary and returns what is wrong.
func (p *prober) verdict() error {
	for _, text := range canary.Summary(p.book) {
		if err := p.show.line(text); err != nil {
			return err
		}
	}
	if err := p.show.flush(); err != nil {
		return err
	}
	if err := canary.Fault(p.book); err != nil {
		return err
	}
	if p.ctx.Err() != nil {
		return errInterrupted
	}
	return nil
}

// send sends until ctx ends or --for is over.
func (p *prober) send(ctx context.Context) error {
	if err := p.prepare(); err != nil {
		return err
	}
	// What was sent may still be confirmed after an interrupt, for a while.
	sending, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(closeGrace, abort) })()
	if err := p.each(func(l *canary.Lane) error { return l.Join(ctx, sending, p.command.LostAfter) }); err != nil || ctx.Err() != nil {
		return err
	}
	if p.command.For > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.command.For)
		defer cancel()
	}
	return p.each(func(l *canary.Lane) error { l.Run(ctx, sending); return nil })
}

// prepare makes the lanes.
func (p *prober) prepare() error {
	c := p.command
	inside, err := c.Inside.flags().inside()
	if err != nil {
		return err
	}
	rate := float64(c.Rate) / float64(len(c.Doppler))
	for i, addr := range c.Doppler {
		config := emit.Config{
			Addr: addr, GiveUp: c.GiveUp, BatchEnvelopes: max(1, int(rate*batchTime.Seconds())),
			Notice: func(text string) { p.reader.send(event{said: text}) },
		}
		if inside != nil {
			config.Credentials = credentials.NewTLS(inside)
		}
		p.lanes = append(p.lanes, &canary.Lane{Book: p.book, Index: i, Emit: config, Rate: rate})
	}
	return nil
}

// each does something on all lanes at once.
func (p *prober) each(do func(*canary.Lane) error) error {
	faults := make([]error, len(p.lanes))
	var all sync.WaitGroup
	for i, l := range p.lanes {
		all.Go(func() { faults[i] = do(l) })
	}
	all.Wait()
	return errors.Join(faults...)
}

func (p *prober) handle(e event) (enough bool, err error) {
	path := canary.Path(e.from)
	switch {
	case !e.tick.IsZero():
		return p.tick(e.tick)
	case e.said != "":
		return false, p.show.notice("%s", e.said)
	case e.notice != nil && e.notice.Kind == nozzle.DopplerLeft && path != canary.Tail:
		return false, nil // the tail says so, too
	case e.batch == nil:
		return false, p.link.take(e)
	}
	p.book.Receive(path, e.batch)
	for _, gap := range e.batch.Gaps {
		if err := p.show.gap(path.String(), gap, e.batch.Position); err != nil {
			return false, err
		}
	}
	e.batch.Ack()
	e.batch.Release()
	return false, nil
}

// tick looks what is lost, whether a line is due and whether it is over.
func (p *prober) tick(now time.Time) (enough bool, err error) {
	p.book.Expire(p.connected)
	if p.command.Interval > 0 && !now.Before(p.lineAt) {
		p.lineAt = now.Add(p.command.Interval)
		if err := p.show.line(now.Format(time.TimeOnly) + "  " + canary.Line(p.book)); err != nil {
			return false, err
		}
	}
	if p.endBy.IsZero() {
		select {
		case err := <-p.sent:
			if err != nil {
				return true, withHint(err)
			}
		default:
			return false, nil
		}
		p.endBy = now.Add(p.patience())
	}
	return p.over(now), nil
}

// patience is how long is waited for what was sent, when sending has ended.
func (p *prober) patience() time.Duration {
	if p.ctx.Err() != nil {
		return closeGrace
	}
	return p.command.LostAfter + drainMargin
}

// over says whether everything was received or is lost. Who interrupts does not
// want to wait for what is lost.
func (p *prober) over(now time.Time) bool {
	outstanding := uint64(0)
	for _, path := range canary.Paths() {
		outstanding += p.book.Path(path).Outstanding
	}
	switch {
	case outstanding == 0:
		return true
	case now.Before(p.endBy):
		return false
	}
	if p.ctx.Err() == nil {
		p.book.Finish()
	}
	return true
}
