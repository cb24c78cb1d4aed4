package reader

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

func TestStartFrom(t *testing.T) {
	entry := func(doppler string, epoch uint64, finished bool) *streampb.CursorEntry {
		return &streampb.CursorEntry{Doppler: doppler, Epoch: epoch, Offset: 5, Matched: 3, Seen: 9, Finished: finished}
	}
	here := Start{Place: PlaceOffset, Offset: 5, Matched: 3, Seen: 9}
	origin := Start{Place: PlaceOrigin}
	lost := Start{Place: PlaceOrigin, Lost: streampb.Gap_DOPPLER_LOST}
	for name, tc := range map[string]struct {
		entries       []*streampb.CursorEntry
		origin, young bool
		want          Start
	}{
		"new":                         {want: Start{}},
		"before the Doppler":          {origin: true, want: origin},
		"young epoch":                 {young: true, want: origin},
		"this epoch":                  {entries: []*streampb.CursorEntry{entry("d", 1, false)}, want: here},
		"this epoch, young":           {entries: []*streampb.CursorEntry{entry("d", 1, false)}, young: true, want: here},
		"among others":                {entries: []*streampb.CursorEntry{entry("e", 2, false), entry("d", 1, false)}, want: here},
		"another Doppler's":           {entries: []*streampb.CursorEntry{entry("e", 1, false)}, want: origin},
		"another epoch":               {entries: []*streampb.CursorEntry{entry("d", 2, false)}, want: lost},
		"another epoch, finished":     {entries: []*streampb.CursorEntry{entry("d", 2, true)}, want: origin},
		"this epoch after another":    {entries: []*streampb.CursorEntry{entry("d", 2, false), entry("d", 1, false)}, want: here},
		"finished and not, both gone": {entries: []*streampb.CursorEntry{entry("d", 2, true), entry("d", 3, false)}, want: lost},
	} {
		t.Run(name, func(t *testing.T) {
			if got := StartFrom(&streampb.Cursor{Entries: tc.entries}, "d", 1, tc.origin, tc.young); got != tc.want {
				t.Errorf("start %+v, want %+v", got, tc.want)
			}
		})
	}
	if got := StartFrom(nil, "d", 1, false, false); got != (Start{}) {
		t.Errorf("without a cursor %+v", got)
	}
}

// forgetful is a ring that remembers one idle source.
func forgetful(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, 1, func(c *ring.Config) {
		c.SegmentBytes, c.Bytes, c.MaxIdleSources = 512, 4*(512+16*16), 1
	})
	t.Cleanup(w.close)
	return w
}

// logs appends n logs of a source.
func (w *world) logs(source string, n int) {
	for range n {
		w.append(w.make(source, 0, 20))
	}
}

// churn appends logs of source until all that is held is evicted.
func (w *world) churn(source string) {
	for to := w.head(); w.oldest() < to; {
		w.logs(source, 1)
	}
}

// forget makes the ring forget what is idle.
func (w *world) forget(t *testing.T, source string) {
	t.Helper()
	for _, other := range []string{"busy", "idle1", "idle2", "busy"} {
		w.churn(other)
		w.log.EvictAhead()
	}
	if _, ok := w.log.Find(source); ok {
		t.Fatalf("%q is still known", source)
	}
}

// tellAll reads a group to its end and returns the gaps.
func tellAll(g *Group, w *world) (gaps []*Gap, granted int) {
	m := g.Join(w.now, true)
	defer g.Leave(m)
	for {
		grant, status, _ := g.Next(w.now, m)
		if status != Granted {
			return gaps, granted
		}
		gaps = append(gaps, grant.Gaps...)
		granted += grant.Count
		grant.Release()
		g.Sent(m, grant.Lease)
		g.Ack(w.now, m, 0, w.head())
	}
}

// A cursor whose source was forgotten meanwhile: the ring's counters began
// anew. What it says of the gap has to be true, and no counter may run
// backwards.
func TestCursorOfAForgottenSource(t *testing.T) {
	one := Filter{{Mask: envelope.AllClasses, Sources: []string{"s"}}}
	two := Filter{{Mask: envelope.AllClasses, Sources: []string{"kept", "s"}}}
	for name, tc := range map[string]struct {
		filter  Filter
		start   func(w *world, before uint64) Start
		between int // envelopes of s after the cursor and before it is forgotten
		evict   bool
		want    Gap
		granted int
	}{
		"nothing in between": {one, func(_ *world, n uint64) Start {
			return Start{Place: PlaceOffset, Offset: n, Matched: 5}
		}, 0, true, Gap{Count: 7, Precision: streampb.Gap_AT_LEAST}, 0}, // nobody can tell
		"some forgotten": {one, func(_ *world, n uint64) Start {
			return Start{Place: PlaceOffset, Offset: n, Matched: 5}
		}, 3, true, Gap{Count: 7, Precision: streampb.Gap_AT_LEAST}, 0},
		"from the origin": {one, func(*world, uint64) Start {
			return Start{Place: PlaceOrigin}
		}, 0, true, Gap{Count: 7, Precision: streampb.Gap_AT_LEAST}, 0},
		"two sources": {two, func(_ *world, n uint64) Start {
			return Start{Place: PlaceOffset, Offset: n, Matched: 6}
		}, 0, true, Gap{Count: 2, Precision: streampb.Gap_AT_LEAST}, 0},
		"two sources, too many before": {two, func(_ *world, n uint64) Start {
			return Start{Place: PlaceOffset, Offset: n, Matched: 60}
		}, 0, true, Gap{Precision: streampb.Gap_UNKNOWN}, 0},
		"at its second birth": {one, func(w *world, _ uint64) Start {
			s, _ := w.log.Find("s")
			return Start{Place: PlaceOffset, Offset: s.BornAt(), Matched: 5}
		}, 0, true, Gap{Count: 7}, 0},
		"two sources, still held": {two, func(w *world, _ uint64) Start {
			s, _ := w.log.Find("s")
			return Start{Place: PlaceOffset, Offset: s.BornAt(), Matched: 6}
		}, 0, false, Gap{}, 7},
		"too many before, some held": {two, func(w *world, n uint64) Start {
			w.logs("s", 3)
			return Start{Place: PlaceOffset, Offset: n, Matched: 60}
		}, 0, true, Gap{Precision: streampb.Gap_UNKNOWN}, 3},
		"still held": {one, func(w *world, _ uint64) Start {
			return Start{Place: PlaceOffset, Offset: w.head() - 2, Matched: 5}
		}, 0, false, Gap{}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			w := forgetful(t)
			kept := w.log.Ref("kept")
			defer w.log.Unref(kept)
			w.logs("kept", 1)
			w.logs("s", 5)
			before := w.head()
			w.logs("s", tc.between)
			w.forget(t, "s")
			w.logs("s", 7)
			if tc.evict {
				w.churn("busy")
			}
			g := NewGroup(w.log, tc.filter, Config{}, tc.start(w, before))
			defer g.Close()
			gaps, granted := tellAll(g, w)
			got := Gap{}
			for _, gap := range gaps {
				got.Count += gap.Count
				got.Precision = max(got.Precision, gap.Precision)
			}
			if got != tc.want || granted != tc.granted {
				t.Errorf("%d granted, gaps %s", granted, show(gaps))
			}
			w.logs("s", 4)
			want := Account{Lag: 4, Dropped: got.Count, Acked: uint64(granted)}
			want.Accepted = want.Lag + want.Dropped + want.Acked
			if a := g.Account(); a != want {
				t.Errorf("account %+v, want %+v", a, want)
			}
			w.churn("busy")
			if gaps, _ := tellAll(g, w); len(gaps) != 1 || gaps[0].Count != 4 || gaps[0].Precision != streampb.Gap_EXACT {
				t.Errorf("the next gap is %s, want exactly 4", show(gaps))
			}
		})
	}
}

// A cursor that says more than there ever was must not make counters wrap.
func TestCursorThatLies(t *testing.T) {
	w := forgetful(t)
	w.logs("a", 5)
	g := NewGroup(w.log, Filter{{Mask: envelope.AllClasses}}, Config{}, Start{Place: PlaceOffset, Offset: 2, Matched: 5, Seen: 1 << 60})
	defer g.Close()
	if a := g.Account(); a.Lag > 3 {
		t.Errorf("account %+v", a)
	}
	_, granted := tellAll(g, w)
	if want := (Account{Accepted: 3, Acked: 3}); granted != 3 || g.Account() != want {
		t.Errorf("account %+v, want %+v", g.Account(), want)
	}
	m := g.Join(w.now, true)
	w.logs("a", 1)
	if grant, _, _ := g.Next(w.now, m); grant.Redelivered {
		t.Error("a new envelope is marked redelivered")
	} else {
		grant.Release()
	}
	g.Leave(m)
	w.churn("a")
	_, more := tellAll(g, w)
	granted += more
	if a := g.Account(); a.Lag != 0 || a.Acked != uint64(granted) || a.Accepted > w.head() {
		t.Errorf("account %+v after %d", a, granted)
	}
}

// Envelopes that were evicted before a group by name existed are not counted,
// and that is said.
func TestNamesBeforeTheGroup(t *testing.T) {
	w := forgetful(t)
	for range 100 {
		w.append(w.make("a", 6, 20))
	}
	f := Filter{{Mask: envelope.AllClasses, Names: simNames}}
	g := NewGroup(w.log, f, Config{}, Start{Place: PlaceOrigin})
	defer g.Close()
	w.group = g
	if !g.CountsNames() {
		t.Error("a group by name does not count them")
	}
	oldest := w.oldest()
	for w.oldest() == oldest {
		w.append(w.make("a", 6, 20))
	}
	gaps, granted := tellAll(g, w)
	if len(gaps) != 2 || gaps[0].Precision != streampb.Gap_UNKNOWN || gaps[0].To != oldest ||
		gaps[1].Precision != streampb.Gap_EXACT || gaps[1].Count != w.oldest()-oldest {
		t.Errorf("gaps %s, oldest was %d and is %d", show(gaps), oldest, w.oldest())
	}
	if uint64(granted) != w.head()-w.oldest() {
		t.Errorf("%d granted, %d are held", granted, w.head()-w.oldest())
	}
}
