package stream

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Follower keeps a client connection open: it dials, reads, and dials again.
// Its fields are set before Run and not changed.
type Follower struct {
	// Dial opens a connection, typically with the present cursor.
	Dial func(ctx context.Context) (*Conn, error)
	// Opened, if set, is called with each new connection before it is read.
	Opened func(ctx context.Context, c *Conn) error
	// Message takes a message; it owns b. An error ends the connection, and
	// with Permanent also Run.
	Message func(c *Conn, b *Buffer) error
	// Closed, if set, is told why a connection or a dial failed.
	Closed func(err error)
	// IdleTimeout is how long a connection may be silent before the path is
	// taken for dead; 0 for no limit.
	IdleTimeout time.Duration
	// StableAfter is how long a connection has to live for the waiting to
	// start anew at its shortest; 10 s.
	StableAfter time.Duration
	// NewBackOff makes the waiting between dials; by default from 100 ms to
	// 10 s with jitter, for ever.
	NewBackOff func() backoff.BackOff
	Logger     *slog.Logger
}

// Permanent marks an error that another dial would not mend.
func Permanent(err error) error { return backoff.Permanent(err) }

// IsPermanent tells whether a connection that ended so should not be opened
// again: a close code or an answer that says so, or an error marked Permanent.
func IsPermanent(err error) bool {
	var p *backoff.PermanentError
	if errors.As(err, &p) {
		return true
	}
	var ce *CloseError
	if errors.As(err, &ce) {
		return !ce.Code.Reconnect()
	}
	var he *HandshakeError
	return errors.As(err, &he) && he.Permanent()
}

// ErrSilent ends a connection that was silent for longer than IdleTimeout.
var ErrSilent = errors.New("nothing was heard for too long")

// DefaultBackOff is the waiting between dials unless told otherwise.
func DefaultBackOff() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 100 * time.Millisecond
	b.MaxInterval = 10 * time.Second
	b.MaxElapsedTime = 0
	b.Reset()
	return b
}

// Run blocks until ctx ends, whose error it then returns, or until an error
// that another dial would not mend, or the back-off gives up.
func (f *Follower) Run(ctx context.Context) error {
	newBackOff, stable := f.NewBackOff, f.StableAfter
	if newBackOff == nil {
		newBackOff = DefaultBackOff
	}
	if stable <= 0 {
		stable = 10 * time.Second
	}
	wait := newBackOff()
	for {
		opened := time.Now()
		err := f.once(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f.Closed != nil {
			f.Closed(err)
		}
		if IsPermanent(err) {
			return err
		}
		if time.Since(opened) > stable {
			wait.Reset()
		}
		d := wait.NextBackOff()
		if d == backoff.Stop {
			return err
		}
		var he *HandshakeError
		if errors.As(err, &he) {
			d = max(d, he.RetryAfter)
		}
		if !sleep(ctx, d) {
			return ctx.Err()
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// once opens a connection and reads it to its end.
func (f *Follower) once(ctx context.Context) error {
	conn, err := f.Dial(ctx)
	if err != nil {
		return err
	}
	silent := newWatchdog(f.IdleTimeout, conn)
	defer silent.stop()
	// Ends a Read when ctx does, without a context switch per message.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close(CloseNormal, "") })
	defer stop()
	err = f.read(ctx, conn, silent)
	if silent.fired() {
		err = fmt.Errorf("%w (%s)", ErrSilent, f.IdleTimeout)
	}
	if stop() {
		_ = conn.Close(CloseNormal, "")
	}
	return err
}

func (f *Follower) read(ctx context.Context, conn *Conn, silent *watchdog) error {
	if f.Opened != nil {
		if err := f.Opened(ctx, conn); err != nil {
			return err
		}
	}
	for {
		b, err := conn.Read(context.Background())
		if err != nil {
			return err
		}
		silent.heard()
		if err := f.Message(conn, b); err != nil {
			return err
		}
	}
}
