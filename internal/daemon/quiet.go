package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// quietFor is how long a quiet logger is silent after a line.
const quietFor = time.Minute

// Quiet returns a logger that says at most one thing a minute, and how much it
// has left out.
func Quiet(log *slog.Logger) *slog.Logger { return quiet(log, &gate{}) }

func quiet(log *slog.Logger, g *gate) *slog.Logger {
	return slog.New(&quietHandler{Handler: log.Handler(), gate: g})
}

// QuietEach has a quiet logger for each of many things that come and go, so
// that one that flaps does not fill the log. It may be used concurrently.
type QuietEach struct {
	log *slog.Logger
	key string

	mu    sync.Mutex
	gates map[string]*gate
}

// NewQuietEach returns loggers that name their thing as the attribute key.
func NewQuietEach(log *slog.Logger, key string) *QuietEach {
	return &QuietEach{log: log, key: key, gates: map[string]*gate{}}
}

// spare is what may be said of a thing at once: that it is there, and what
// happens to it then.
const spare = 1

// Of is the logger of one thing. Those of things nothing was said of for some
// minutes are forgotten.
func (q *QuietEach) Of(thing string) *slog.Logger {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	g := q.gates[thing]
	if g == nil {
		for name, old := range q.gates {
			if old.idle(now) {
				delete(q.gates, name)
			}
		}
		g = &gate{spare: spare}
		q.gates[thing] = g
	}
	return quiet(q.log, g).With(q.key, thing)
}

// gate lets one record a minute through.
type gate struct {
	mu     sync.Mutex
	next   time.Time
	spare  int // that may follow at once
	unsaid int
}

// pass tells whether a record may be said, and how many were not since the
// last.
func (g *gate) pass(now time.Time) (unsaid int, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case !now.Before(g.next):
		g.next = now.Add(quietFor)
	case g.spare > 0:
		g.spare--
	default:
		g.unsaid++
		return 0, false
	}
	unsaid, g.unsaid = g.unsaid, 0
	return unsaid, true
}

// idle tells whether nothing was said for some minutes.
func (g *gate) idle(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return now.Sub(g.next) > 3*quietFor
}

type quietHandler struct {
	slog.Handler
	gate *gate
}

// Handle passes a record on if the last one is old enough, and says how many
// were left out since.
func (q *quietHandler) Handle(ctx context.Context, r slog.Record) error {
	unsaid, ok := q.gate.pass(r.Time)
	if !ok {
		return nil
	}
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
