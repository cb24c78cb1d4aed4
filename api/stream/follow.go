package stream

import (
	"context"
	"log/slog"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Follower keeps a client connected: it dials, reads, and dials again when the
// connection is lost. Set its fields, then call Run once.
type Follower struct {
	// Dial opens a connection. Required.
	Dial func(ctx context.Context) (*Conn, error)
	// Opened is called after each Dial, before the first message. Optional.
	Opened func(ctx context.Context, c *Conn) error
	// Message is called with each message, and owns it. Required.
	Message func(c *Conn, b *Buffer) error
	// Closed is called when a connection that was opened is over. Optional.
	Closed func(err error)
	// IdleTimeout ends a connection on which nothing was received for so long;
	// 0 means never.
	IdleTimeout time.Duration
	// StableAfter is how long a connection has to last for the back-off to
	// start anew.
	StableAfter time.Duration
	// NewBackOff makes the back-off; nil means 100 ms to 10 s, half of it at
	// random, without end.
	NewBackOff func() backoff.BackOff
	// Logger is told of connections lost and dials failed; nil means silence.
	Logger *slog.Logger
}

// Run returns when ctx ends, or with an error that another dial would only
// meet again.
func (f *Follower) Run(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
