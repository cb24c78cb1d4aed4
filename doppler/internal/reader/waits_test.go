package reader

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestTheOldestThatWaits(t *testing.T) {
	w := roomy(t)
	sources := func(ids ...string) Filter { return Filter{{Mask: envelope.AllClasses, Sources: ids}} }
	g := NewGroup(w.log, sources("mine"), Config{LeaseEnvelopes: 2}, Start{Place: PlaceOrigin})
	t.Cleanup(g.Close)
	check := func(when string, off uint64, waits bool) {
		t.Helper()
		if gotOff, got := g.Waits(); got != waits || waits && gotOff != off {
			t.Errorf("%s: %d %v, want %d %v", when, gotOff, got, off, waits)
		}
	}
	m := g.Join(w.now, false)
	check("empty", 0, false)
	w.logs("other", 5)
	check("nothing that matches", 0, false)
	w.logs("mine", 4)
	w.logs("other", 3)
	check("four", 5, true)
	grant, status, _ := g.Next(w.now, m)
	if status != Granted {
		t.Fatal(status)
	}
	grant.Release()
	check("two are granted", 7, true)
	g.Leave(m)
	check("two are to be granted again", 5, true)
	m = g.Join(w.now, false)
	for range 2 {
		grant, status, _ = g.Next(w.now, m)
		if status != Granted {
			t.Fatal(status)
		}
		grant.Release()
	}
	check("all are granted", 0, false)
}
