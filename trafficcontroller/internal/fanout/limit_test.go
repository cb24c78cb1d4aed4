package fanout

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// leftOut takes everything out of a tail's queue: how many envelopes came, and
// which gaps before the first of each Doppler.
func leftOut(t *testing.T, tail *Tail) (envelopes int, gaps string) {
	t.Helper()
	var told []string
	begun := map[string]bool{}
	for _, e := range tail.q.take(nil, 1<<30) {
		for _, g := range e.f.gaps {
			if begun[g.GetDoppler()] {
				t.Errorf("after the first of its envelopes: %v", g)
			}
			told = append(told, fmt.Sprint(g.GetDoppler(), " ", g.GetPrecision(), " ", g.GetCount(), " ", g.GetReason()))
		}
		begun[e.f.doppler] = begun[e.f.doppler] || e.f.count > 0
		envelopes += int(e.f.count)
		e.f.release()
	}
	slices.Sort(told)
	return envelopes, strings.Join(told, ", ")
}

// answerLate lets all Dopplers but one answer in time.
func (w *world) answerLate(n *node) {
	var late []Read
	w.reads = slices.DeleteFunc(w.reads, func(r Read) bool {
		if r.Addr == n.addr {
			late = append(late, r)
		}
		return r.Addr == n.addr
	})
	w.run()
	w.tick(4 * time.Second)
	w.reads = append(w.reads, late...)
	w.run()
}

// What the limit leaves out of a history by time is told once for each Doppler,
// before its first envelope; a number that was asked for is no loss.
func TestHistoryLimitIsTold(t *testing.T) {
	all := NewFilter(envelope.AllClasses, nil)
	cpu := NewFilter(envelope.AllClasses, []string{"cpu"})
	for name, tc := range map[string]struct {
		d0, d1 int // envelopes that are held; those of d1 are older
		o      Options
		late   bool // d1 answers when the others are sent
		count  int
		want   string
	}{
		"less than the limit": {d0: 2, d1: 2, o: Options{Filter: all, Newest: 6, Whole: true}, count: 4},
		"just the limit":      {d0: 3, d1: 3, o: Options{Filter: all, Newest: 6, Whole: true}, count: 6},
		"found, but too many": {d0: 4, d1: 4, o: Options{Filter: all, Newest: 6, Whole: true}, count: 6, want: "d1 EXACT 2 HISTORY_LIMIT"},
		"more than was read":  {d0: 20, d1: 20, o: Options{Filter: all, Newest: 6, Whole: true}, count: 6, want: "d0 AT_LEAST 1 HISTORY_LIMIT, d1 AT_LEAST 7 HISTORY_LIMIT"},
		"one of them late":    {d0: 4, d1: 4, o: Options{Filter: all, Newest: 6, Whole: true}, late: true, count: 6, want: "d1 EXACT 2 HISTORY_LIMIT"},
		"late, all left out":  {d0: 6, d1: 4, o: Options{Filter: all, Newest: 6, Whole: true}, late: true, count: 6, want: "d1 EXACT 4 HISTORY_LIMIT"},
		"by name":             {d0: 20, d1: 2, o: Options{Filter: cpu, Newest: 6, Whole: true}, count: 6, want: "d0 EXACT 4 HISTORY_LIMIT, d1 EXACT 1 HISTORY_LIMIT"},
		"by a rare name":      {d0: 17_000, o: Options{Filter: NewFilter(envelope.AllClasses, []string{"mem"}), Newest: 6, Whole: true}, want: "d0 UNKNOWN 0 HISTORY_LIMIT"},
		"a number":            {d0: 20, d1: 20, o: Options{Filter: all, Newest: 6}, count: 6},
		"a number, since":     {d0: 20, d1: 20, o: Options{Filter: all, Newest: 6, Since: 1}, count: 6},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(0, "")
			for i := range max(tc.d0, tc.d1) {
				kind := []string{"", "cpu"}[i%2]
				if i < tc.d0 {
					w.nodes[0].d.Append("app0", kind, "x", int64(1000+i))
				}
				if i < tc.d1 {
					w.nodes[1].d.Append("app0", kind, "x", int64(100+i))
				}
			}
			if tc.o.Whole {
				tc.o.Since = 1
			}
			tc.o.Source = "app0"
			tail := w.hub.Open(nil, tc.o)
			for busy := true; busy; {
				busy = w.control(w.nodes[0]) || w.deliver(w.nodes[0]) || w.control(w.nodes[1]) || w.deliver(w.nodes[1])
			}
			if tc.late {
				w.answerLate(w.nodes[1])
			}
			w.run()
			w.tick(time.Second)
			w.run()
			count, got := leftOut(t, tail)
			if count != tc.count || got != tc.want || w.fault != nil {
				t.Errorf("%d envelopes, gaps %q, want %d and %q; %v", count, got, tc.count, tc.want, w.fault)
			}
		})
	}
}
