package fanout

import (
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// gapsOf takes everything out of a tail's queue and returns the gaps of a reason.
func gapsOf(t *Tail, why streampb.Gap_Reason) (gaps []*streampb.Gap) {
	for _, e := range t.q.take(nil, 1<<30) {
		if e.f == nil {
			continue
		}
		for _, g := range e.f.gaps {
			if g.GetReason() == why {
				gaps = append(gaps, g)
			}
		}
		e.f.release()
	}
	return gaps
}

// run lets everything under way arrive without anybody reading.
func (w *world) run() {
	for w.arrive() {
	}
}

// vanish takes a Doppler out of the set until it is given up.
func (w *world) vanish(n *node) {
	w.breakLink(n)
	w.hub.Removed(n.addr)
	w.tick(40 * time.Second)
}

// anew ends an epoch without a farewell and begins another.
func (w *world) anew(n *node) {
	w.restart(n, false)
	w.connect(n)
	w.run()
}

// Of each epoch that is lost a reader is told once, whichever way it is found
// out, and not at all if it says that it knows.
func TestLossIsToldOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		cursor   bool
		finished bool
		before   func(w *world, n *node) // the tail comes
		after    func(w *world, n *node)
		want     int
	}{
		"restarted":                       {after: (*world).anew, want: 1},
		"gone":                            {after: (*world).vanish, want: 1},
		"gone, then restarted":            {after: func(w *world, n *node) { w.vanish(n); w.anew(n) }, want: 1},
		"gone, back, gone for good":       {after: func(w *world, n *node) { w.vanish(n); w.connect(n); w.run(); w.vanish(n) }, want: 1},
		"cursor, gone, back, restarted":   {cursor: true, after: func(w *world, n *node) { w.vanish(n); w.connect(n); w.run(); w.anew(n) }, want: 1},
		"gone, back with more, restarted": {after: func(w *world, n *node) { w.vanish(n); w.connect(n); w.emit(n, 40); w.run(); w.anew(n) }, want: 2},
		"link breaks twice":               {after: func(w *world, n *node) { w.breakLink(n); w.connect(n); w.run(); w.anew(n) }, want: 1},
		"cursor, restarted":               {cursor: true, after: (*world).anew, want: 1},
		"cursor, gone":                    {cursor: true, after: (*world).vanish, want: 1},
		"cursor, gone, restarted":         {cursor: true, after: func(w *world, n *node) { w.vanish(n); w.anew(n) }, want: 1},
		"cursor, was gone":                {cursor: true, before: (*world).vanish, after: (*world).vanish, want: 1},
		"cursor, was gone, restarted":     {cursor: true, before: (*world).vanish, after: func(w *world, n *node) { w.tick(40 * time.Second); w.anew(n) }, want: 1},
		"cursor, was restarted":           {cursor: true, before: (*world).anew, want: 1},
		"told before, was gone":           {cursor: true, finished: true, before: (*world).vanish, after: (*world).vanish},
		"told before, was restarted":      {cursor: true, finished: true, before: (*world).anew},
		"told elsewhere, then restarted":  {cursor: true, finished: true, before: (*world).breakLink, after: (*world).anew},
		"told elsewhere, then gone":       {cursor: true, finished: true, before: (*world).breakLink, after: (*world).vanish},
		"told elsewhere, but it is there": {cursor: true, finished: true, after: func(w *world, n *node) { w.emit(n, 40); w.run(); w.anew(n) }, want: 1},
	} {
		for _, watched := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", watched"}[watched], func(t *testing.T) {
				w := newWorld(0, "")
				n := w.nodes[0]
				epoch := n.d.Epoch
				o := Options{Source: "app0", Filter: NewFilter(envelope.AllClasses, nil)}
				if watched {
					w.hub.Open(nil, o)
				}
				w.emit(n, 40)
				w.run()
				if tc.cursor {
					o.Cursor = &streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{{
						Doppler: n.name, Epoch: epoch, Offset: n.d.Head(), Matched: n.d.Matching("app0", envelope.AllClasses, n.d.Head()), Finished: tc.finished,
					}}}
				}
				if tc.before != nil {
					tc.before(w, n)
				}
				tail := w.hub.Open(nil, o)
				w.run()
				if tc.after != nil {
					tc.after(w, n)
				}
				w.tick(40 * time.Second)
				w.run()
				told := 0
				for _, g := range gapsOf(tail, streampb.Gap_DOPPLER_LOST) {
					if g.GetDoppler() != n.name || g.GetEpoch() != epoch {
						t.Errorf("foreign gap %v", g)
					}
					told++
				}
				if told != tc.want || w.fault != nil {
					t.Errorf("told %d times, want %d; %v", told, tc.want, w.fault)
				}
			})
		}
	}
}
