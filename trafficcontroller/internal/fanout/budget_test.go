package fanout

import (
	"fmt"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// When all tails together hold too much, those of loud apps make room, though the
// lines of a quiet one are older.
func TestLoudTailsMakeRoom(t *testing.T) {
	const quietApps, lines, loudApps, loudLines = 20, 5, 4, 500
	w := newWorld(2, "")
	w.breakLink(w.nodes[1])
	n := w.nodes[0]
	open := func(source string) *client {
		o := Options{Source: source, Filter: NewFilter(envelope.AllClasses, nil)}
		c := newClient(w, o, nil)
		c.tail = w.hub.Open(nil, o)
		w.tails = append(w.tails, c)
		return c
	}
	var quiet, loud []*client
	for i := range quietApps {
		quiet = append(quiet, open(fmt.Sprint("quiet", i)))
	}
	for i := range loudApps * 3 {
		loud = append(loud, open(fmt.Sprint("loud", i%loudApps)))
	}
	w.run()
	w.hub.cfg.TailBytes = allBytes / 2
	w.hub.cfg.AllBytes, w.hub.budget.limit = 100_000, 100_000
	for i := range loudLines {
		if i < lines {
			for k := range quietApps {
				n.d.Append(fmt.Sprint("quiet", k), "", instance(n), 1)
			}
		}
		for k := range loudApps {
			n.d.Append(fmt.Sprint("loud", k), "", instance(n), 1)
		}
		w.deliver(n)
		if used := w.hub.budget.used.Load(); used > w.hub.budget.limit {
			t.Fatalf("%d bytes are held", used)
		}
	}
	w.run()
	account := func(c *client) *account {
		for w.flush(c, 1<<20) {
		}
		return c.had[epochID{n.name, n.d.Epoch}]
	}
	for i, c := range quiet {
		if a := account(c); len(a.got) != lines || len(a.gaps) > 0 {
			t.Errorf("quiet app %d: got %d of %d, gaps %v", i, len(a.got), lines, a.gaps)
		}
	}
	for i, c := range loud {
		if a := account(c); a.matched != loudLines || len(a.got) == 0 || len(a.gaps) == 0 {
			t.Errorf("tail %d of loud apps: got %d of %d, accounted for %d", i, len(a.got), loudLines, a.matched)
		}
	}
	if w.fault != nil {
		t.Error(w.fault)
	}
}
