package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/integration/worker"
)

// Options are what the modes have in common.
type Options struct {
	Binaries process.Binaries
	// Certs is where to find certificates when TLS is set.
	Certs string
	TLS   bool
	// Dopplers and Controllers to run, Senders to each Doppler, readers.
	Dopplers, Controllers, Senders int
	Firehoses, Tails               int
	// Old makes the Firehose readers ones of the old framing, of logs only:
	// they count messages.
	Old  bool
	Plan load.Plan
	// Rate to offer, in modes that do not seek it.
	Rate float64
	// For how long to measure.
	For time.Duration
	// RingBytes of each Doppler, as its flag is written.
	RingBytes string
	// Profiles is a directory for CPU profiles of a steady run; empty means
	// none.
	Profiles string
	// Log gets the services' logs, Progress what is being done.
	Log, Progress io.Writer
}

// Modes by name.
var Modes = map[string]struct {
	About string
	Run   func(context.Context, Options) ([]Result, error)
}{
	"steady":    {"offer -rate for -for", Steady},
	"max":       {"seek the highest rate at which nothing is lost", Max},
	"flatout":   {"senders send as much as they can for -for", FlatOut},
	"throttled": {"a reader takes -rate while three times that is sent", Throttled},
	"singles":   {"single-envelope senders at 10,000/s, 100,000/s and all they can", Singles},
	"light":     {"latency at 5,000/s, Firehose and tails", Light},
	"idle":      {"memory and opening time of -tails idle tails", Idle},
	"tails":     {"1,000 tails of 1,000 apps and 100 tails of a busy one", Tails},
	"suite":     {"all of them, short", Suite},
}

// run starts a pipeline, measures, and stops it.
func (o Options) run(ctx context.Context, measure func(*Bench) ([]Result, error)) (results []Result, err error) {
	s := Setup{
		Binaries: o.Binaries, Dopplers: o.Dopplers, Controllers: o.Controllers, Log: o.Log,
		DopplerArgs: []string{"--ring-bytes", o.RingBytes},
	}
	if o.TLS {
		s.Certs = o.Certs
	}
	b, err := Start(ctx, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.Stop(ctx)) }()
	return measure(b)
}

func (o Options) send(rate float64, d time.Duration) worker.SendParams {
	return worker.SendParams{Plan: o.Plan, Senders: o.Senders * o.Dopplers, Rate: rate, For: d}
}

func (o Options) sayf(format string, args ...any) {
	if o.Progress != nil {
		fmt.Fprintf(o.Progress, format+"\n", args...)
	}
}

// open opens the readers the options ask for and warms everything up.
func (o Options) open(ctx context.Context, b *Bench) error {
	var query url.Values
	if b.setup.Old = o.Old; o.Old {
		query = url.Values{"filter-type": {"logs"}}
	}
	if err := b.openFirehoses(ctx, o.Firehoses, 0, query); err != nil {
		return err
	}
	if o.Tails > 0 {
		if _, err := b.openTails(ctx, tail, o.Plan, 0, min(o.Tails, o.Plan.Sources), (o.Tails+o.Plan.Sources-1)/o.Plan.Sources); err != nil {
			return err
		}
	}
	return o.warm(ctx, b)
}

func (o Options) warm(ctx context.Context, b *Bench) error {
	_, err := b.measure(ctx, "", o.send(min(20_000, max(o.Rate, 1000)), 500*time.Millisecond))
	return err
}

// Steady offers one rate.
func Steady(ctx context.Context, o Options) ([]Result, error) {
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := o.open(ctx, b); err != nil {
			return nil, err
		}
		o.sayf("steady: %.0f/s for %s", o.Rate, o.For)
		r, err := o.profiled(ctx, b, func() (Result, error) { return b.measure(ctx, "steady", o.send(o.Rate, o.For)) })
		return []Result{r}, err
	})
}

// Max seeks the highest rate at which every Firehose reader gets everything and
// keeps up. It stops seeking at 5 % accuracy and measures the rate found.
func Max(ctx context.Context, o Options) ([]Result, error) {
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := o.open(ctx, b); err != nil {
			return nil, err
		}
		r, err := o.seek(ctx, b)
		return []Result{r}, err
	})
}

const (
	tryFor   = 3 * time.Second
	accuracy = 1.05
	// A reader keeps up when it has everything so soon after the end...
	keepsUp = 500 * time.Millisecond
	// ... and the senders did not have to wait either.
	enough = 0.98
)

func lossless(r Result) bool {
	return r.Lost == 0 && r.Duplicates == 0 && r.Drain <= keepsUp && r.SentRate >= enough*r.Offered
}

func (o Options) seek(ctx context.Context, b *Bench) (Result, error) {
	r, err := b.measure(ctx, "", o.send(0, tryFor))
	if err != nil {
		return r, err
	}
	o.sayf("  all they can: sent %.0f/s, delivered %.0f/s", r.SentRate, r.DeliveredRate)
	// That was with a ring whose memory had never been written: not the limit.
	good, bad := 0.0, 0.0 // 0: not found yet
	rate := min(r.SentRate, r.DeliveredRate)
	for good == 0 || bad == 0 || bad/good > accuracy {
		r, err := o.try(ctx, b, rate)
		if err != nil {
			return r, err
		}
		if lossless(r) {
			good = rate
		} else {
			bad = rate
		}
		switch {
		case bad == 0:
			rate = good * 1.3
		case good == 0:
			rate = bad * 0.8
		default:
			rate = (good + bad) / 2
		}
		if rate < 1000 {
			return r, errors.New("not even 1,000/s came through without loss")
		}
	}
	for {
		r, err := o.profiled(ctx, b, func() (Result, error) { return b.measure(ctx, "lossless maximum", o.send(good, o.For)) })
		if err != nil || lossless(r) {
			return r, err
		}
		o.sayf("  %.0f/s does not hold for %s: lost %d, behind by %s", good, o.For, r.Lost, r.Drain.Round(time.Millisecond))
		good *= 0.95
	}
}

// try measures a rate, and once more when that did not go well: something else
// on the machine may have been in the way.
func (o Options) try(ctx context.Context, b *Bench, rate float64) (r Result, err error) {
	for range 2 {
		if r, err = b.measure(ctx, "", o.send(rate, tryFor)); err != nil {
			return r, err
		}
		o.sayf("  %.0f/s: sent %.0f/s, lost %d, behind by %s", rate, r.SentRate, r.Lost, r.Drain.Round(time.Millisecond))
		if lossless(r) {
			break
		}
	}
	return r, nil
}

// FlatOut lets the senders send all they can, and says how the delivered rate
// changes over time.
func FlatOut(ctx context.Context, o Options) ([]Result, error) {
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := o.open(ctx, b); err != nil {
			return nil, err
		}
		o.sayf("flat out for %s", o.For)
		r, err := b.measure(ctx, "flat out", o.send(0, o.For))
		if third := len(r.PerSecond) / 3; third > 0 {
			first, last := mean(r.PerSecond[:third]), mean(r.PerSecond[len(r.PerSecond)-third:])
			r.Note = fmt.Sprintf("delivered in the first third %s/s, in the last %s/s", count(first), count(last))
		}
		return []Result{r}, err
	})
}

func mean(values []uint64) float64 {
	sum := uint64(0)
	for _, v := range values {
		sum += v
	}
	return float64(sum) / float64(len(values))
}

// Throttled has a reader that takes o.Rate while three times that is sent, from
// a ring that is small enough to turn over meanwhile.
func Throttled(ctx context.Context, o Options) ([]Result, error) {
	o.RingBytes = "64MiB"
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		// Only logs, so that no metric of a service is in the gaps.
		if err := b.openFirehoses(ctx, 1, o.Rate, url.Values{"type": {"log"}}); err != nil {
			return nil, err
		}
		o.sayf("a reader that takes %.0f/s, %.0f/s sent for %s", o.Rate, 3*o.Rate, o.For)
		r, err := b.measure(ctx, "throttled reader", o.send(3*o.Rate, o.For))
		during := uint64(0)
		for _, n := range r.PerSecond {
			during += n
		}
		received := int64(r.Sent) - r.Lost
		r.Note = fmt.Sprintf("takes %s/s and got %.3f of that; received %d (%d too late) + told lost %d = %d, sent %d",
			count(o.Rate), float64(during)/(o.Rate*float64(len(r.PerSecond))),
			received, r.Late, r.Told, received-r.Late+r.Told, r.Sent)
		return []Result{r}, err
	})
}

// Singles sends one envelope per message, at rates far apart.
func Singles(ctx context.Context, o Options) ([]Result, error) {
	o.Plan.Batch = 0
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := o.open(ctx, b); err != nil {
			return nil, err
		}
		var all []Result
		for _, rate := range []float64{10_000, 100_000, 0} {
			o.sayf("single envelopes at %s", rateName(rate))
			r, err := b.measure(ctx, "singles at "+rateName(rate), o.send(rate, o.For))
			if err != nil {
				return all, err
			}
			all = append(all, r)
		}
		return all, nil
	})
}

func rateName(rate float64) string {
	if rate == 0 {
		return "all they can"
	}
	return count(rate) + "/s"
}

// Light measures latency at 5,000/s in small batches, to a Firehose reader and
// to ten tails.
func Light(ctx context.Context, o Options) ([]Result, error) {
	const rate, tails = 5000, 10
	o.Plan.Batch = 10
	o.Tails = tails
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := o.open(ctx, b); err != nil {
			return nil, err
		}
		o.sayf("light load: %d/s for %s", rate, o.For)
		r, err := b.measure(ctx, "light load", o.send(rate, o.For))
		return []Result{r}, err
	})
}

// Idle opens o.Tails tails of sources that say nothing.
func Idle(ctx context.Context, o Options) ([]Result, error) {
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := o.warm(ctx, b); err != nil {
			return nil, err
		}
		before, err := b.usages()
		if err != nil {
			return nil, err
		}
		o.sayf("opening %d tails", o.Tails)
		took, err := b.openTails(ctx, idle, o.Plan, o.Plan.Sources, o.Tails, 1)
		if err != nil {
			return nil, err
		}
		select { // for what comes after the opening
		case <-time.After(o.For):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		after, err := b.usages()
		if err != nil {
			return nil, err
		}
		r := Result{Name: "idle tails"}
		sum := int64(0)
		for i, w := range b.watched {
			more := after[i].Resident - before[i].Resident
			if i < o.Dopplers+o.Controllers {
				sum += more
			}
			r.Processes = append(r.Processes, Process{
				Name: w.name, Resident: after[i].Resident, Peak: after[i].Peak,
				Cores: (after[i].CPU - before[i].CPU).Seconds() / (took + o.For).Seconds(),
			})
			r.Note += fmt.Sprintf("%s %+.1f KiB per tail; ", w.name, float64(more)/float64(o.Tails)/1024)
		}
		r.Note = fmt.Sprintf("%d tails opened in %s; our services %.1f KiB per tail (%s)", o.Tails,
			took.Round(10*time.Millisecond), float64(sum)/float64(o.Tails)/1024, r.Note[:len(r.Note)-2])
		return []Result{r}, nil
	})
}

// Tails has 1,000 tails of 1,000 apps that share 10,000/s, and 100 tails of a
// busy app at 10,000/s beside them.
func Tails(ctx context.Context, o Options) ([]Result, error) {
	const apps, copies, rate = 1000, 100, 10_000
	many := o.send(rate, o.For)
	many.Sources = apps
	busy := o.send(rate, o.For)
	busy.Number, busy.First, busy.Sources = many.Senders, apps, 1
	return o.run(ctx, func(b *Bench) ([]Result, error) {
		if err := b.openFirehoses(ctx, 1, 0, nil); err != nil {
			return nil, err
		}
		if _, err := b.openTails(ctx, tail, many.Plan, 0, apps, 1); err != nil {
			return nil, err
		}
		if _, err := b.openTails(ctx, busyTail, busy.Plan, apps, 1, copies); err != nil {
			return nil, err
		}
		if err := o.warm(ctx, b); err != nil {
			return nil, err
		}
		o.sayf("1,000 tails and 100 tails of one app, each %d/s", rate)
		r, err := b.measure(ctx, "tails", many, busy)
		return []Result{r}, err
	})
}
