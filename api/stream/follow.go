package stream

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Defaults of a Follower.
const (
	defaultStableAfter = 10 * time.Second
	maxRetryAfter      = 5 * time.Minute // what a server can ask for
)

// Follower keeps a client connected: it dials, reads, and when the connection
// is lost waits and dials again. Its fields are set before Run, which calls
// the functions one at a time.
type Follower struct {
	// Dial opens a connection, typically with the cursor as it is then.
	Dial func(ctx context.Context) (*Conn, error)
	// Opened, if set, is called with each new connection before it is read.
	Opened func(ctx context.Context, c *Conn) error
	// Message takes a message and owns b. It may block; nothing is read until
	// it returns.
	Message func(c *Conn, b *Buffer) error
	// Closed, if set, is called once for each Dial: with why it failed, or with
	// why its connection is over.
	Closed func(err error)
	// IdleTimeout is how long no message may come before the path is taken for
	// dead (or up to a sixteenth longer), and how long the server may take to
	// answer a ping, which it gets four times in that; until Greeted knows better.
	// 0 is for ever.
	IdleTimeout time.Duration
	// StableAfter is how long a connection has to live for the next wait to be
	// the shortest again; 10 s if 0.
	StableAfter time.Duration
	// NewBackOff makes the waits between dials; NewBackOff of this package if
	// nil.
	NewBackOff func() backoff.BackOff
	// Logger, if set, is told what fails and how long the wait is.
	Logger *slog.Logger

	idle   *IdleWatch    // of the connection
	spread time.Duration // what its server said
}

// MissedHeartbeats in a row make a path dead.
const MissedHeartbeats = 2

// Greeted says what the server's hello promises of this connection: how long a
// silence is none, and over what time to come back. It is to be called from
// Message.
func (f *Follower) Greeted(h *streampb.Hello) {
	f.spread = Spread(h)
	if ms := h.GetHeartbeatMillis(); ms > 0 {
		f.idle.SetTimeout(MissedHeartbeats * time.Duration(ms) * time.Millisecond)
	}
}

const (
	spreadPerReader = 500 * time.Microsecond
	maxSpread       = 10 * time.Second
)

// SpreadMillis is the spread that a server with so many readers says in its
// hello.
func SpreadMillis(readers int) uint32 {
	return uint32(min(time.Duration(readers)*spreadPerReader, maxSpread).Milliseconds())
}

// Spread is over what time a server wants its readers to come back when it is
// lost, at most 10 s.
func Spread(h *streampb.Hello) time.Duration {
	return min(time.Duration(h.GetSpreadMillis())*time.Millisecond, maxSpread)
}

// SpreadWait is a random part of a spread.
func SpreadWait(spread time.Duration) time.Duration { return rand.N(spread + 1) }

// NewBackOff waits from 100 ms to 10 s, give or take half of it, for ever.
func NewBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(10*time.Second),
		backoff.WithRandomizationFactor(0.5),
		backoff.WithMaxElapsedTime(0),
	)
}

// Permanent marks an error of Dial, Opened or Message that another dial would
// not mend.
func Permanent(err error) error { return backoff.Permanent(err) }

// IsPermanent tells whether a connection that failed with err is not worth
// another dial: the close code or the answer to the handshake says so, or the
// error is marked Permanent.
func IsPermanent(err error) bool {
	var marked *backoff.PermanentError
	var closed *CloseError
	var broke *ProtocolError
	var refused *HandshakeError
	switch {
	case errors.As(err, &marked):
		return true
	case errors.As(err, &closed):
		return !closed.Code.Reconnect()
	case errors.As(err, &broke):
		return !broke.Code.Reconnect()
	case errors.As(err, &refused):
		return !refused.Reconnect()
	}
	return false
}

// Run follows until ctx ends, and returns its error, or until an error that is
// permanent, or the back-off stops. An error of Opened or Message ends that
// connection; unless marked Permanent, it is dialed again. When Run returns,
// the connection is closed.
func (f *Follower) Run(ctx context.Context) error {
	newBackOff, stable := f.NewBackOff, f.StableAfter
	if newBackOff == nil {
		newBackOff = NewBackOff
	}
	if stable <= 0 {
		stable = defaultStableAfter
	}
	waits := newBackOff()
	for {
		lived, err := f.follow(ctx)
		if f.Closed != nil {
			f.Closed(err)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if IsPermanent(err) {
			return err
		}
		if lived >= stable {
			waits.Reset()
		}
		wait := waits.NextBackOff()
		if wait == backoff.Stop {
			return err
		}
		asked := askedFor(err)
		wait += asked + SpreadWait(asked/4) + SpreadWait(f.spread)
		if f.Logger != nil {
			f.Logger.Warn("stream lost", "error", err, "lived", lived, "retry_in", wait)
		}
		if err := sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// askedFor is how long the server wants not to be dialed.
func askedFor(err error) time.Duration {
	var refused *HandshakeError
	if errors.As(err, &refused) {
		return min(refused.RetryAfter, maxRetryAfter)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// follow opens one connection and reads it to its end.
func (f *Follower) follow(ctx context.Context) (lived time.Duration, err error) {
	f.spread = 0
	c, err := f.Dial(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	left := context.AfterFunc(ctx, func() { _ = c.Close(CloseNormal, "") })
	f.idle = WatchIdle(c, f.IdleTimeout)
	err = f.read(ctx, c, f.idle)
	if dead := f.idle.Stop(); dead != nil {
		err = dead
	}
	left()
	_ = c.Close(closeFor(err)) // if it is not closed; otherwise waits for that
	return time.Since(began), err
}

// closeFor is what to tell the server when err ended a connection.
func closeFor(err error) (CloseCode, string) {
	var broke *ProtocolError
	if errors.As(err, &broke) {
		return broke.Code, broke.Fault
	}
	return CloseGoingAway, ""
}

func (f *Follower) read(ctx context.Context, c *Conn, idle *IdleWatch) error {
	if f.Opened != nil {
		if err := f.Opened(ctx, c); err != nil {
			return err
		}
	}
	for {
		b, err := c.Read(context.Background()) // the end of ctx closes c
		if err != nil {
			return err
		}
		idle.Begin()
		err = f.Message(c, b)
		idle.Done()
		if err != nil {
			return err
		}
	}
}
