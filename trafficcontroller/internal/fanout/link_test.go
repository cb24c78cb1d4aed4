package fanout

import (
	"fmt"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

// told counts what a link tells the hub.
type told struct {
	joins, gaps int
	counts      map[string]int // envelopes by source
}

func (c *told) joined(*watch)                   { c.joins++ }
func (c *told) missed(*watch, *streampb.Gap)    { c.gaps++ }
func (c *told) lost(*link, streampb.Gap_Reason) { c.gaps++ }
func (c *told) refused(*watch, string)          { c.gaps++ }
func (c *told) ends(*link)                      {}
func (c *told) fin(*link, uint64)               {}
func (c *told) envelopes(w *watch, _ []item, _ uint64) {
	for i := w.head; i >= 0; i = w.link.items[i].next {
		c.counts[w.source.id]++
	}
}

// hear lets l have what the Doppler says until it has nothing to say.
func hear(t *testing.T, l *link, d *dopplertest.Link) {
	t.Helper()
	for {
		msg, err := d.Next(100)
		if err != nil {
			t.Fatal(err)
		}
		if msg == nil {
			return
		}
		meta, records, err := stream.SplitBatch(msg)
		b := &streampb.Batch{}
		if err == nil {
			err = stream.UnmarshalMeta(meta, b)
		}
		if err == nil {
			err = l.batch(b, records)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A resume of more watches than go into a message: no source misses what the
// Doppler still has, and only the last message says that it is the last.
func TestResumeTakesSeveralMessages(t *testing.T) {
	const sources = 5
	d := &dopplertest.Doppler{Name: "d", Epoch: 1}
	hub := &told{counts: map[string]int{}}
	l := newLink("d", hub)
	l.most = 1 // one watch in each
	connect := func() (more []bool) {
		far := d.NewLink()
		l.connected(d.Hello(), "d:1", func() {})
		for w := l.take(); w != nil; w = l.take() {
			more = append(more, w.More)
			far.Watch(w)
			hear(t, l, far)
		}
		return more
	}
	connect()
	for i := range sources {
		l.watch(&source{id: fmt.Sprint("app", i)})
	}
	if w := l.take(); w.More {
		t.Error("new watches are taken for a resume")
	}
	l.disconnected()
	for range 3 {
		for i := range sources {
			d.Append(fmt.Sprint("app", i), "", "x", 1)
		}
		more := connect()
		if fmt.Sprint(more) != "[true true true true false]" {
			t.Errorf("more: %v", more)
		}
		l.disconnected()
	}
	if hub.joins != sources || hub.gaps != 0 || len(hub.counts) != sources || hub.counts["app4"] != 3 {
		t.Errorf("%d joined, %d gaps, envelopes %v", hub.joins, hub.gaps, hub.counts)
	}
}

// The last message of a resume comes even if what waited is not wanted any
// more: the Doppler holds the link for it.
func TestResumeEndsWithoutItsLastWatches(t *testing.T) {
	l := newLink("d", &told{})
	l.most = 1
	s := []*source{{id: "a"}, {id: "b"}}
	l.watch(s[0])
	l.watch(s[1])
	l.connected(&streampb.Hello{Server: "d", Epoch: 1}, "d:1", func() {})
	first := l.take()
	if !first.More {
		t.Fatal("the resume is over after one of two")
	}
	for _, s := range s {
		l.unwatch(s)
	}
	if last := l.take(); last == nil || last.More || len(last.Add) != 0 || l.take() != nil {
		t.Errorf("last message: %v", last)
	}
}
