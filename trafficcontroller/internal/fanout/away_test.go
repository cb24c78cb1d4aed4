package fanout

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// farewell ends an epoch with a fin while its tails read history.
func (w *world) farewell(n *node) { w.restart(n, true) }

// dies lets nobody reach a Doppler, until it wakes.
func (w *world) dies(n *node) {
	n.dead = true
	w.breakLink(n)
}

func (w *world) wakes(n *node) {
	n.dead = false
	w.connect(n)
}

// stalls lets a Doppler answer for a while neither reads nor with an error.
func (w *world) stalls(n *node) {
	for w.control(n) || w.deliver(n) {
	}
	w.tick(10 * time.Second)
}

// wordsOf takes everything out of a tail's queue: how many envelopes came, which
// gaps, and the word that history is over, in their order.
func wordsOf(t *testing.T, tail *Tail) string {
	t.Helper()
	var words []string
	count := uint64(0)
	for _, e := range tail.q.take(nil, 1<<30) {
		meta, _, err := stream.SplitBatch(e.f.buf.Bytes())
		var b streampb.Batch
		if err == nil {
			err = stream.UnmarshalMeta(meta, &b)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range b.Gaps {
			words = append(words, fmt.Sprint(g.GetDoppler(), " ", g.GetReason()))
		}
		count += e.f.count
		if len(b.Watching) > 0 {
			words = append(words, fmt.Sprint("live after ", count))
		}
		e.f.release()
	}
	return fmt.Sprint(strings.Join(words, ", "), ", ", count)
}

// A tail whose history is on a Doppler that leaves is told where its history
// ends and what it misses, whether the Doppler comes back or not.
func TestHistoryOfADopplerThatLeaves(t *testing.T) {
	const minute = time.Minute
	for name, tc := range map[string]struct {
		before func(w *world, n *node) // the tail comes
		during func(w *world, n *node) // its history is read
		after  func(w *world, n *node)
		want   string
	}{
		"stays":                  {want: "live after 10, 10"},
		"farewell":               {during: (*world).farewell, want: "d0 REASON_UNSPECIFIED, live after 0, 0"},
		"farewell, new epoch":    {during: func(w *world, n *node) { w.farewell(n); w.connect(n) }, want: "d0 EVICTED, live after 0, 0"},
		"breaks, is back":        {during: func(w *world, n *node) { w.dies(n); w.wakes(n) }, want: "live after 10, 10"},
		"is slow, then breaks":   {during: func(w *world, n *node) { w.stalls(n); w.dies(n); w.tick(time.Second); w.wakes(n) }, want: "live after 10, 10"},
		"breaks, is back late":   {during: (*world).dies, after: (*world).wakes, want: "d0 DOPPLER_AWAY, live after 0, 10"},
		"breaks, is gone":        {during: (*world).dies, after: (*world).vanish, want: "d0 DOPPLER_AWAY, live after 0, d0 REASON_UNSPECIFIED, d0 DOPPLER_LOST, 0"},
		"was away":               {before: (*world).dies, want: "d0 DOPPLER_AWAY, live after 0, 0"},
		"was away, is back":      {before: (*world).dies, after: (*world).wakes, want: "d0 DOPPLER_AWAY, live after 0, 10"},
		"had said farewell":      {before: (*world).farewell, want: "live after 0, 0"},
		"said farewell, is back": {before: func(w *world, n *node) { w.fin(n); w.breakLink(n) }, after: (*world).connect, want: "live after 0, 10"},
		"said farewell, is new":  {before: func(w *world, n *node) { w.farewell(n); w.connect(n); w.run() }, want: "live after 0, 0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(0, "")
			n := w.nodes[0]
			w.breakLink(w.nodes[1])
			w.hub.Removed(w.nodes[1].addr)
			w.tick(minute)
			o := Options{Source: "app0", Filter: NewFilter(envelope.AllClasses, nil)}
			w.hub.Open(nil, o) // keeps the link
			w.run()
			for i := range 10 {
				n.d.Append("app0", "", "x", int64(i+1))
			}
			w.run()
			if tc.before != nil {
				tc.before(w, n)
			}
			o.Newest = 100
			tail := w.hub.Open(nil, o)
			if tc.during != nil {
				tc.during(w, n)
			}
			w.pause(20)
			if tc.after != nil {
				tc.after(w, n)
			}
			w.pause(20)
			if got := wordsOf(t, tail); got != tc.want || w.fault != nil {
				t.Errorf("told %q, want %q; %v", got, tc.want, w.fault)
			}
			for _, g := range tail.legs {
				if g.state != legWaits && !n.dead {
					t.Errorf("still reads history of %s", g.doppler)
				}
			}
		})
	}
}

// pause lets some seconds pass.
func (w *world) pause(seconds int) {
	for range seconds {
		w.run()
		w.tick(time.Second)
	}
}
