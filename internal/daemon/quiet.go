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
// that one that flaps does not fill the log. Things over maxGates share one. It may
// be used concurrently.
type QuietEach struct {
	log *slog.Logger
	key string

	mu     sync.Mutex
	gates  map[string]*gate
	others *gate     // of what there is no room for
	swept  time.Time // when gates was last gone through
}

// NewQuietEach returns loggers that name their thing as the attribute key.
func NewQuietEach(log *slog.Logger, key string) *QuietEach {
	return &QuietEach{log: log, key: key, gates: map[string]*gate{}, others: &gate{spare: spare}}
}

const (
	// spare is what may be said of a thing at once: that it is there, and what
	// happens to it then.
	spare = 1
	// maxGates is how many things are told apart: others may choose their names.
	maxGates = 1000
	// sweepEvery is how often those are looked for that can be forgotten.
	sweepEvery = 10 * time.Second
)

// Of is the logger of one thing. Those of things nothing was said of for some
// minutes are forgotten.
func (q *QuietEach) Of(thing string) *slog.Logger {
	q.mu.Lock()
	defer q.mu.Unlock()
	return quiet(q.log, q.gate(thing, time.Now())).With(q.key, thing)
}

// gate finds a thing's, or makes it. mu is held.
func (q *QuietEach) gate(thing string, now time.Time) *gate {
	if g := q.gates[thing]; g != nil {
		return g
	}
	if now.Sub(q.swept) >= sweepEvery {
		q.swept = now
		for name, old := range q.gates {
			if old.idle(now) {
				delete(q.gates, name)
			}
		}
	}
	if len(q.gates) >= maxGates {
		return q.others
	}
	g := &gate{spare: spare}
	q.gates[thing] = g
	return g
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
