package upstream

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quiet returns a logger that says at most one thing a minute about addr, so
// that a Doppler that comes and goes does not fill the log.
func quiet(log *slog.Logger, addr string) *slog.Logger { return Quiet(log).With("addr", addr) }

// Quiet returns a logger that says at most one thing a minute, and how much it
// has left out.
func Quiet(log *slog.Logger) *slog.Logger {
	return slog.New(&quietHandler{Handler: log.Handler(), gate: &gate{}})
}

const quietFor = time.Minute

type gate struct {
	mu     sync.Mutex
	next   time.Time
	unsaid int
}

type quietHandler struct {
	slog.Handler
	gate *gate
}

// Handle passes a record on if the last one is old enough, and says how many
// were left out since.
func (q *quietHandler) Handle(ctx context.Context, r slog.Record) error {
	q.gate.mu.Lock()
	if r.Time.Before(q.gate.next) {
		q.gate.unsaid++
		q.gate.mu.Unlock()
		return nil
	}
	unsaid := q.gate.unsaid
	q.gate.unsaid, q.gate.next = 0, r.Time.Add(quietFor)
	q.gate.mu.Unlock()
	if unsaid > 0 {
		r.AddAttrs(slog.Int("times_unsaid", unsaid))
	}
	return q.Handler.Handle(ctx, r)
}

// WithAttrs keeps the gate.
func (q *quietHandler) WithAttrs(a []slog.Attr) slog.Handler {
	return &quietHandler{q.Handler.WithAttrs(a), q.gate}
}

// WithGroup keeps the gate.
func (q *quietHandler) WithGroup(name string) slog.Handler {
	return &quietHandler{q.Handler.WithGroup(name), q.gate}
}
