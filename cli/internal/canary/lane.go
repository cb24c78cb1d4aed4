package canary

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/a1ea6966/loggregator/cli/internal/emit"
)

// joinRate is how many envelopes per second look for the way back.
const joinRate = 10

// Lane sends to one address for ever.
type Lane struct {
	Book *Book
	// Index is its number in the book.
	Index int
	// Emit says where and how; its Observer is the lane itself.
	Emit emit.Config
	// Rate is per second.
	Rate float64
}

// Join sends envelopes that do not count until they come back on every path:
// from then on, everything of the lane has to. It fails when they do not
// within the time given, or cannot be sent; that ctx ended is no error. The end
// of sending, which has to come later, aborts it.
func (l *Lane) Join(ctx, sending context.Context, within time.Duration) error {
	sender, err := emit.Dial(sending, l.Emit)
	if err != nil {
		return err
	}
	late := time.Now().Add(within)
	stop := errors.New("joined")
	_, err = emit.Pace(ctx, joinRate, math.MaxUint64, func(uint64) error {
		switch {
		case l.Book.Joined(l.Index):
			return stop
		case time.Now().After(late):
			return fmt.Errorf("what is sent to %s does not come back within %s: nothing on %v",
				l.Emit.Addr, within, l.Book.Missing(l.Index))
		}
		return sender.Send(l.Book.mint.Make(Stamp{Lane: l.Index}, time.Now().UnixNano()))
	})
	closeErr := sender.Close()
	if errors.Is(err, stop) {
		err = nil
	}
	return errors.Join(err, closeErr)
}

// Run sends until ctx ends, and then blocks until the Doppler has confirmed
// what it was sent, or is lost. The end of sending, which has to come later,
// aborts that.
func (l *Lane) Run(ctx, sending context.Context) {
	for {
		sender := l.dial(ctx, sending)
		if sender == nil {
			return
		}
		_, err := emit.Pace(ctx, l.Rate, math.MaxUint64, func(uint64) error { return l.send(sender) })
		if closeErr := sender.Close(); closeErr != nil {
			err = closeErr // it says what sending failed of
		}
		if err != nil {
			l.down()
			l.Emit.Notice(err.Error())
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// dial connects, however long it takes; nil when ctx ended before.
func (l *Lane) dial(ctx, sending context.Context) *emit.Sender {
	config := l.Emit
	config.Observer = &observer{lane: l, base: l.sent() + 1}
	tries := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond), backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0),
	)
	sender, err := backoff.RetryWithData(func() (*emit.Sender, error) {
		s, err := emit.Dial(sending, config)
		if err != nil {
			return nil, errors.New(err.Error()) // one that is permanent for others may end, too
		}
		return s, nil
	}, backoff.WithContext(tries, ctx))
	if err != nil {
		return nil
	}
	l.up()
	return sender
}

func (l *Lane) send(sender *emit.Sender) error {
	s, ok := l.Book.next(l.Index)
	if !ok {
		return nil // it is made when there is room
	}
	return sender.Send(l.Book.mint.Make(s, time.Now().UnixNano()))
}

// sent is the last number.
func (l *Lane) sent() uint64 {
	l.Book.mu.Lock()
	defer l.Book.mu.Unlock()
	return l.Book.lanes[l.Index].Emitted
}

func (l *Lane) up() {
	l.Book.mu.Lock()
	defer l.Book.mu.Unlock()
	l.Book.lanes[l.Index].Up = true
}

// down says that the Doppler is given up.
func (l *Lane) down() {
	b := l.Book
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes[l.Index].Up = false
	for p := range b.paths {
		b.paths[p].ledger.GiveUp(l.Index, b.now())
	}
}

// observer tells the book what becomes of what one Sender was given, whose
// first envelope has the number base.
type observer struct {
	lane      *Lane
	base      uint64
	confirmed uint64
}

func (o *observer) Confirmed(n uint64) {
	b, i := o.lane.Book, o.lane.Index
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes[i].Confirmed += n - o.confirmed
	o.confirmed = n
	for p := range b.paths {
		b.paths[p].ledger.Confirm(i, o.base+n, b.now())
	}
}

func (o *observer) Broken(first, end uint64) {
	b, i := o.lane.Book, o.lane.Index
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lanes[i].Up = false
	b.lanes[i].Resent += end - first
	for p := range b.paths {
		b.paths[p].ledger.Resend(i, o.base+first, o.base+end)
	}
}

func (o *observer) Mended() { o.lane.up() }
