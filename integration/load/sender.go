package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Sender is one producer: a connection, a number, and a count per source that
// goes on over any number of runs. One run at a time.
type Sender struct {
	number int
	next   []uint64 // by source
}

// NewSender returns sender number n, below MaxSenders, that has sent nothing.
func NewSender(n int) *Sender { return &Sender{number: n} }

// Run is what a sender has to do.
type Run struct {
	Plan
	// Addr is the gRPC address of a Doppler; TLS may be nil.
	Addr string
	TLS  *tls.Config
	// Rate is envelopes per second; 0 is as many as the Doppler takes. A
	// sender that was held up makes up for it afterwards.
	Rate float64
	// For and Count end the run, whichever comes first; 0 is no limit. Count
	// is rounded up to full messages.
	For   time.Duration
	Count uint64
}

// Sent is what a run did.
type Sent struct {
	Envelopes, Bytes uint64
	Elapsed          time.Duration
}

// Sent returns how many envelopes the sender has sent for a source, over all
// runs.
func (s *Sender) Sent(source int) uint64 {
	if source >= len(s.next) {
		return 0
	}
	return s.next[source]
}

// finishTimeout is how long a Doppler may take for what is already sent.
const finishTimeout = 30 * time.Second

// Run opens a stream, sends, and returns when the Doppler has confirmed that
// it took all of it. When ctx ends the run ends early, which is no error. The
// counts are right in case of an error too, but what the Doppler took is not
// known then.
func (s *Sender) Run(ctx context.Context, r Run) (Sent, error) {
	var sent Sent
	if missing := r.First + r.Sources - len(s.next); missing > 0 {
		s.next = append(s.next, make([]uint64, missing)...)
	}
	all, err := templates(r.Plan, s.number)
	if err != nil {
		return sent, err
	}
	method := loggregatorv2.Ingress_BatchSender_FullMethodName
	if r.Batch == 0 {
		method = loggregatorv2.Ingress_Sender_FullMethodName
	}
	out, err := openCall(context.WithoutCancel(ctx), r.Addr, method, r.TLS)
	if err != nil {
		return sent, err
	}
	start := time.Now()
	err = s.push(ctx, out, all, r, &sent)
	sent.Elapsed = time.Since(start)
	finishing, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTimeout)
	defer cancel()
	if err := errors.Join(err, out.finish(finishing)); err != nil {
		return sent, fmt.Errorf("sender %d: %w", s.number, err)
	}
	return sent, nil
}

func (s *Sender) push(ctx context.Context, out *call, all []*template, r Run, sent *Sent) error {
	start := time.Now()
	for turn := 0; ; turn++ {
		t := all[turn%len(all)]
		for from := 0; from < len(t.frames); {
			now := time.Now()
			if ctx.Err() != nil || r.over(now.Sub(start), sent.Envelopes) {
				return nil //nolint:nilerr // ending early is no error of a run
			}
			due := r.due(t, from, sent.Envelopes, now.Sub(start))
			if due == from {
				r.wait(ctx, t, sent.Envelopes, start)
				continue
			}
			first := t.slotsBefore(from)
			t.stamp(first, t.frames[due-1].slots, s.next, now)
			if err := out.write(t, from, due); err != nil {
				return err
			}
			sent.Envelopes += uint64(t.frames[due-1].slots - first)
			sent.Bytes += uint64(t.frames[due-1].end - t.start(from))
			from = due
		}
	}
}

// over tells whether one of the limits is reached.
func (r Run) over(elapsed time.Duration, sent uint64) bool {
	return r.For > 0 && elapsed >= r.For || r.Count > 0 && sent >= r.Count
}

// due returns up to which frame the template may be sent now: all of it, or of
// single envelopes as many as the rate and the count allow.
func (r Run) due(t *template, from int, sent uint64, elapsed time.Duration) int {
	allowed := len(t.slots)
	if r.Rate > 0 {
		allowed = min(allowed, int(r.Rate*elapsed.Seconds()-float64(sent)))
	}
	if r.Batch > 0 {
		if allowed < len(t.slots) {
			return from
		}
		return len(t.frames)
	}
	if r.Count > 0 {
		allowed = int(min(uint64(allowed), r.Count-sent))
	}
	if allowed <= 0 {
		return from
	}
	target := min(len(t.slots), t.slotsBefore(from)+allowed)
	for t.frames[from].slots < target {
		from++
	}
	return from + 1
}

// wait blocks until the next message is due.
func (r Run) wait(ctx context.Context, t *template, sent uint64, start time.Time) {
	step := 1
	if r.Batch > 0 {
		step = len(t.slots)
	}
	at := start.Add(time.Duration(float64(sent+uint64(step)) / r.Rate * float64(time.Second)))
	if r.For > 0 && at.Sub(start) > r.For {
		at = start.Add(r.For)
	}
	timer := time.NewTimer(time.Until(at) + time.Microsecond)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

func (t *template) slotsBefore(frame int) int {
	if frame == 0 {
		return 0
	}
	return t.frames[frame-1].slots
}

func (t *template) start(frame int) int {
	if frame == 0 {
		return 0
	}
	return t.frames[frame-1].end
}
