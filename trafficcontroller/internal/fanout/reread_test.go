package fanout

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// overtaken is a world with one Doppler that keeps so many envelopes of each
// source and has a tail of app0 that has joined, and one of app1.
func overtaken(keep int, filter Filter) (w *world, n *node, quiet, loud *client) {
	w = newWorld(2, "")
	w.breakLink(w.nodes[1])
	n = w.nodes[0]
	n.d.Keep = keep
	open := func(source string) *client {
		o := Options{Source: source, Filter: filter}
		c := newClient(w, o, nil)
		c.tail = w.hub.Open(nil, o)
		w.tails = append(w.tails, c)
		return c
	}
	quiet, loud = open("app0"), open("app1")
	w.run()
	return w, n, quiet, loud
}

// speak lets the quiet app say some lines among many of the loud one.
func (w *world) speak(n *node, lines int) {
	for range lines {
		n.d.Append("app0", "", instance(n), 1)
		for range 50 {
			n.d.Append("app1", "", instance(n), 1)
		}
	}
}

func instance(n *node) string { return string(rune('A' + n.d.Head()%26)) }

// A ring that turns over before the link has taken what a quiet app has said
// costs the app nothing that its Doppler still keeps, and is told to the
// envelope otherwise.
func TestQuietAppIsReadAgain(t *testing.T) {
	const lines = 30
	all := NewFilter(envelope.AllClasses, nil)
	for name, test := range map[string]struct {
		keep    int
		filter  Filter
		happens func(w *world, n *node)
		got     int
	}{
		"the ring turns over": {1000, all, func(w *world, n *node) {
			w.speak(n, lines)
			n.d.Evict(n.d.Head())
		}, lines},
		"the rest is in the ring": {1000, all, func(w *world, n *node) {
			w.speak(n, lines)
			n.d.Evict(n.d.Head() / 2)
		}, lines},
		"again while it is read": {1000, all, func(w *world, n *node) {
			for range 3 {
				w.speak(n, lines/3)
				n.d.Evict(n.d.Head() - 70)
				for w.deliver(n) {
				}
			}
		}, lines},
		"the ring turns further before it is read": {1000, all, func(w *world, n *node) {
			w.speak(n, lines/2)
			n.d.Evict(n.d.Head() - 20)
			for w.deliver(n) {
			}
			w.speak(n, lines/2)
			for w.deliver(n) {
			}
			n.d.Evict(n.d.Head())
		}, lines},
		"while the link was broken": {1000, all, func(w *world, n *node) {
			w.breakLink(n)
			w.speak(n, lines)
			n.d.Evict(n.d.Head())
			w.connect(n)
		}, lines},
		"a filter": {1000, NewFilter(envelope.Mask(envelope.Log), nil), func(w *world, n *node) {
			n.d.Append("app0", "cpu", "no log", 1)
			w.speak(n, lines)
			n.d.Evict(n.d.Head())
		}, lines},
		"less is kept": {10, all, func(w *world, n *node) {
			w.speak(n, lines)
			n.d.Evict(n.d.Head())
		}, 10},
		"nothing is kept": {0, all, func(w *world, n *node) {
			w.speak(n, lines)
			n.d.Evict(n.d.Head())
		}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w, n, quiet, loud := overtaken(test.keep, test.filter)
			test.happens(w, n)
			w.run()
			for w.flush(quiet, 1<<20) || w.flush(loud, 1<<20) || w.arrive() {
			}
			a := quiet.had[epochID{n.name, n.d.Epoch}]
			if len(a.got) != test.got || len(a.gaps) > 0 != (test.got < lines) || a.matched != lines || a.unknown {
				t.Errorf("got %d of %d, gaps %v, accounted for %d", len(a.got), lines, a.gaps, a.matched)
			}
			quiet.check()
			loud.check()
			if w.fault != nil {
				t.Error(w.fault)
			}
		})
	}
}

// A loud app is told at once: it would have too much to read.
func TestLoudAppIsNotReadAgain(t *testing.T) {
	w, n, _, loud := overtaken(10_000, NewFilter(envelope.AllClasses, nil))
	w.speak(n, rereadMost/50+1)
	n.d.Evict(n.d.Head())
	for w.deliver(n) {
	}
	for _, r := range w.reads {
		if r.tail == loud.tail {
			t.Error("the loud app is read again")
		}
	}
	w.flush(loud, 1<<20)
	if a := loud.had[epochID{n.name, n.d.Epoch}]; len(a.gaps) != 1 || a.matched != 50*(rereadMost/50+1) {
		t.Errorf("gaps %v, accounted for %d", a.gaps, a.matched)
	}
	w.run()
}

// An old client gets lines that are read again as any others.
func TestOldClientIsReadAgain(t *testing.T) {
	w, n, _, _ := overtaken(1000, NewFilter(envelope.AllClasses, nil))
	old := w.hub.Open(nil, Options{Source: "app0", Filter: NewFilter(envelope.AllClasses, nil), Old: true})
	w.run()
	for _, e := range old.q.take(nil, 1<<30) { // it is read on when it has had what was read before
		e.f.release()
	}
	w.speak(n, 3)
	n.d.Evict(n.d.Head())
	w.run()
	var count uint64
	for _, e := range old.q.take(nil, 1<<30) {
		count += e.f.count
		for _, g := range e.f.gaps {
			t.Errorf("gap %v", g)
		}
		if e.f.count > 0 && e.f.buf.Len() == 0 {
			t.Error("a frame with envelopes is empty")
		}
		e.f.release()
	}
	if count != 3 {
		t.Errorf("%d lines, want 3", count)
	}
}

// What an answer cannot count is counted by what the link knows of its ends.
func TestAnswerIsCountedByItsEnds(t *testing.T) {
	page := func() *page {
		return &page{
			pos: &streampb.Position{Next: 90, Matched: 3}, all: 2, unsure: true,
			entries: entries{{offset: 50, matched: 4}, {offset: 60, matched: 5}},
		}
	}
	p := page()
	p.countedBy(place{10, 3}, place{80, 9})
	if p.unsure || p.gap != 4 || p.pos.GetMatched() != 7 || p.pos.GetNext() != 80 || p.entries[0].matched != 8 || p.entries[1].matched != 9 {
		t.Errorf("%+v", p)
	}
	p = page() // more than there can have been
	if p.countedBy(place{10, 3}, place{80, 4}); !p.unsure || p.pos.GetMatched() != 3 {
		t.Errorf("%+v", p)
	}
}
