//go:build linux

package chaos

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// TestFaults has one pipeline go through all faults, one after the other.
func TestFaults(t *testing.T) {
	w := newWorld(t, pipeline.Config{})
	w.open(blackbox.Deadline(t), t)
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) { w.suffer(t, f) })
	}
}

// suffer lets a fault come and go under load, and takes the account of it.
func (w *world) suffer(t *testing.T, f fault) {
	t.Helper()
	ctx := blackbox.Deadline(t)
	s := w.startSpell(ctx, t, f)
	stop := w.load(ctx, t)
	w.flows(ctx, t, "before the fault", func(*reader, int) bool { return true })

	began := time.Now()
	end := f.begin(t, w)
	s.notice(ctx, t, began)
	// The others go on meanwhile: what was under way has come by the second look.
	for range 2 {
		w.flows(ctx, t, "while it lasts", func(r *reader, d int) bool { return !f.hits(r, d) })
	}
	time.Sleep(f.lasts - time.Since(began))
	s.watch()
	end()
	w.flowsOn(ctx, t, "after the fault", func(*reader, int) bool { return true })
	s.recovered()
	s.undone(ctx, t)
	stop()
	w.last(ctx, t)
	s.complete(ctx, t)
	w.settled(ctx, t)
	s.judge(ctx, t)
}

// spell is what one fault does to a world.
type spell struct {
	*world
	fault  fault
	before map[*ledger]account
	// accepted are all and those of the tailed source, before.
	accepted, acceptedTail uint64
	ended                  time.Time
	rows                   map[*ledger]*row
}

func (w *world) startSpell(ctx context.Context, t *testing.T, f fault) *spell {
	t.Helper()
	s := &spell{world: w, fault: f, before: make(map[*ledger]account), rows: make(map[*ledger]*row)}
	s.accepted, s.acceptedTail = w.acceptedNow(ctx, t)
	for _, l := range w.ledgers {
		s.before[l] = l.now()
		s.rows[l] = &row{fault: f.name, who: l.name}
	}
	for _, r := range w.readers {
		r.cuts.Store(0)
	}
	return s
}

// notice waits until the fault is noticed, if it has to be.
func (s *spell) notice(ctx context.Context, t *testing.T, began time.Time) {
	t.Helper()
	if s.fault.noticed == nil {
		return
	}
	if !pollFor(2*detection, func() bool { return s.fault.noticed(ctx, t, s.world) }) {
		t.Fatal("the fault was not noticed at all")
	}
	took := time.Since(began)
	if took > detection {
		t.Errorf("noticed after %v, promised are 10 s", took)
	}
	for _, row := range s.rows {
		row.noticed = took
	}
}

// watch begins to wait for what comes after the fault.
func (s *spell) watch() {
	s.world.watch()
	s.ended = time.Now()
}

// recovered notes how long those that were hit have waited for the first
// envelope after the fault, and who was cut off.
func (s *spell) recovered() {
	for _, r := range s.readers {
		row := s.rows[r.ledger]
		if row == nil {
			continue // nobody keeps the account of a quiet one
		}
		row.cuts += r.cuts.Load()
		for d := range dopplers {
			if took, ok := r.arrival(d); ok && s.fault.hits(r, d) {
				row.hit = true
				row.first = max(row.first, took)
			}
		}
	}
}

// undone waits until nothing is left of the fault, if that does not show.
func (s *spell) undone(ctx context.Context, t *testing.T) {
	t.Helper()
	undone := s.fault.undone
	if undone != nil && !pollFor(2*detection, func() bool { return undone(ctx, t, s.world) }) {
		t.Fatal("the fault does not end")
	}
}

// complete waits until every reader has all that there is for it, and notes
// how long that took.
func (s *spell) complete(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, l := range s.ledgers {
		want := s.accepts(ctx, t, l)
		done := func() bool {
			if a := l.now().sub(s.before[l]); !l.old && a.distinct+a.told < want {
				return false
			}
			return s.hasLast(l)
		}
		if !pollFor(time.Minute, done) {
			t.Errorf("%s: there was never all of it", l.name)
		}
		s.rows[l].all = time.Since(s.ended)
	}
}

// accepts is how many the Dopplers accepted for a ledger since the spell began.
func (s *spell) accepts(ctx context.Context, t *testing.T, l *ledger) uint64 {
	t.Helper()
	all, tail := s.acceptedNow(ctx, t)
	if l.tail {
		return tail - s.acceptedTail
	}
	return all - s.accepted
}

// judge holds what every reader has against what was accepted.
func (s *spell) judge(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, l := range s.ledgers {
		row := s.rows[l]
		row.account, row.accepted = l.now().sub(s.before[l]), s.accepts(ctx, t, l)
		report.add(*row)
		t.Logf("%+v", *row)
		if row.distinct > row.accepted || row.vague > 0 {
			t.Errorf("%s: has %d of %d, and %d gaps without a number", l.name, row.distinct, row.accepted, row.vague)
		}
		switch {
		case !l.old || row.cuts == 0:
			// The rings hold everything all the time, so nothing may be lost.
			if row.lost() != 0 || row.told != 0 || row.unmarked != 0 && !l.old {
				t.Errorf("%s: lost %d, told %d, again without a mark %d", l.name, row.lost(), row.told, row.unmarked)
			}
		case !l.tail && row.lost() > row.cuts*socketsHold:
			t.Errorf("%s: lost %d, its sockets can have held %d", l.name, row.lost(), row.cuts*socketsHold)
		}
	}
}

// socketsHold is how many envelopes of the old framing, of 512 bytes, fit into
// the sockets of one connection: 256 KiB each, which the kernel doubles.
const socketsHold = 2 * 2 * (256 << 10) / 512

// watch begins to wait for the next envelopes of all.
func (w *world) watch() {
	for _, r := range w.readers {
		r.watch()
	}
}

// flows waits until all those readers have something new of those Dopplers.
func (w *world) flows(ctx context.Context, t *testing.T, when string, which func(*reader, int) bool) {
	t.Helper()
	w.watch()
	w.flowsOn(ctx, t, when, which)
}

// flowsOn is flows from the last watch on.
func (w *world) flowsOn(ctx context.Context, t *testing.T, when string, which func(*reader, int) bool) {
	t.Helper()
	for _, r := range w.readers {
		for d := range dopplers {
			if which(r, d) && r.kind != quiet {
				blackbox.Poll(ctx, t, fmt.Sprintf("%s: %s gets something of doppler-%d", when, r.name, d), func() bool {
					_, ok := r.arrival(d)
					return ok
				})
			}
		}
	}
}
