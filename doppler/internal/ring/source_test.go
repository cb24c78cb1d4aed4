package ring

import (
	"fmt"
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// churn appends until everything that is held now is evicted.
func churn(r *Ring, source string) {
	for to := r.Head(); r.Oldest() < to; {
		logs(r, 40, source)
	}
}

func newest(r *Ring, s *Source, mask envelope.ClassMask, to uint64) (offs []uint64) {
	r.Newest(s, mask, to, func(off uint64, class envelope.Class, _ []byte) bool {
		if !mask.Has(class) {
			offs = append(offs, ^uint64(0))
		}
		offs = append(offs, off)
		return true
	})
	return offs
}

func TestCountsSum(t *testing.T) {
	c := Counts{envelope.Log: 1, envelope.Counter: 10, envelope.None: 100}
	for mask, want := range map[envelope.ClassMask]uint64{
		envelope.AllClasses:             111,
		0:                               0,
		envelope.Mask(envelope.Log):     1,
		envelope.Mask(envelope.Event):   0,
		envelope.Mask(envelope.None, 0): 101,
	} {
		if got := c.Sum(mask); got != want {
			t.Errorf("sum of %b: %d, want %d", mask, got, want)
		}
	}
}

func TestNewestFollowsTheChainAcrossSegments(t *testing.T) {
	r := small(t, nil)
	b := &batch{}
	for i := range 40 { // three segments
		source := "other"
		if i%7 == 0 {
			source = "s"
		}
		b.add(source, envelope.Class(i%2), sized(4, byte(i)))
	}
	b.to(r)
	s := r.Ref("s")
	defer r.Unref(s)
	for name, tc := range map[string]struct {
		mask envelope.ClassMask
		to   uint64
		want []uint64
	}{
		"all":        {envelope.AllClasses, 40, []uint64{35, 28, 21, 14, 7, 0}},
		"below":      {envelope.AllClasses, 28, []uint64{21, 14, 7, 0}},
		"one class":  {envelope.Mask(1), 40, []uint64{35, 21, 7}},
		"none below": {envelope.AllClasses, 0, nil},
	} {
		if got := newest(r, s, tc.mask, tc.to); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	n := 0
	r.Newest(s, envelope.AllClasses, 40, func(uint64, envelope.Class, []byte) bool { n++; return n < 2 })
	if n != 2 {
		t.Errorf("visited %d envelopes after saying stop at 2", n)
	}
	unknown := r.Ref("unknown")
	defer r.Unref(unknown)
	if got := newest(r, unknown, envelope.AllClasses, 40); got != nil {
		t.Errorf("a source without envelopes has %v", got)
	}
}

func TestCountsAt(t *testing.T) {
	r := small(t, nil)
	s := r.Ref("s")
	defer r.Unref(s)
	if at, c := r.CountsAt(s, 0); at != 0 || c != (Counts{}) {
		t.Errorf("empty ring: %v at %d", c, at)
	}
	for range 4 {
		logs(r, 10, "s", "other", "s")
	}
	for off, want := range []uint64{0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7, 7, 8, 8} {
		if at, c := r.CountsAt(s, uint64(off)); at != uint64(off) || c != (Counts{envelope.Log: want}) {
			t.Errorf("at %d: %v at %d, want %d logs", off, c, at, want)
		}
	}
	churn(r, "other")
	if at, c := r.CountsAt(s, 3); at != r.Oldest() || c != (Counts{envelope.Log: 8}) {
		t.Errorf("evicted: %v at %d, want 8 logs at %d", c, at, r.Oldest())
	}
	if st := r.Stats(); len(r.touched) != 0 || st.Sources != 2 {
		t.Errorf("%d touched, %d sources left", len(r.touched), st.Sources)
	}
}

func TestIdleSourcesAreForgotten(t *testing.T) {
	r := small(t, func(c *Config) { c.MaxIdleSources = 2 })
	kept := r.Ref("kept")
	logs(r, 10, "kept", "a", "b", "c", "d")
	if r.ForgottenSince(0) {
		t.Error("something was forgotten already")
	}
	churn(r, "busy")
	r.EvictAhead()
	known := map[string]bool{}
	for _, id := range []string{"kept", "a", "b", "c", "d", "busy"} {
		_, known[id] = r.Find(id)
	}
	if !known["kept"] || !known["busy"] {
		t.Errorf("a source with a reader or with envelopes was forgotten: %v", known)
	}
	if n := r.Stats().Sources; n > 4 {
		t.Errorf("%d sources are remembered, want the two in use and at most 2 idle ones: %v", n, known)
	}
	if !r.ForgottenSince(2) || r.ForgottenSince(5) {
		t.Errorf("forgotten below %d, want 3 to 5", r.sources.forgottenBelow)
	}
	if c := r.Totals(kept); c.Sum(envelope.AllClasses) != 1 {
		t.Errorf("kept source counts %v", c)
	}
	r.Unref(kept)
	for i := range 4 {
		churn(r, fmt.Sprint("later", i))
		r.EvictAhead()
	}
	if _, ok := r.Find("kept"); ok {
		t.Error("a source is kept without a reader")
	}
}

// A source that is forgotten and comes back begins anew: number, counters and
// chain of its first life are gone.
func TestForgottenSourceComesBack(t *testing.T) {
	r := small(t, func(c *Config) { c.MaxIdleSources = 1 })
	logs(r, 10, "s", "s")
	churn(r, "busy")
	for i := range 5 {
		logs(r, 10, fmt.Sprint("idle", i))
	}
	churn(r, "busy")
	r.EvictAhead()
	if _, ok := r.Find("s"); ok {
		t.Fatal("s is still known")
	}
	off := logs(r, 10, "s")
	s, ok := r.Find("s")
	if !ok || s.BornAt() != off {
		t.Fatalf("s is born at %d, want %d", s.BornAt(), off)
	}
	if got := newest(r, s, envelope.AllClasses, r.Head()); !slices.Equal(got, []uint64{off}) {
		t.Errorf("envelopes of s: %v, want only %d", got, off)
	}
	if c := r.Totals(s); c != (Counts{envelope.Log: 1}) {
		t.Errorf("totals %v", c)
	}
	if !r.ForgottenSince(0) {
		t.Error("nobody can tell that something was forgotten")
	}
}

// No number is given again while a reader may still meet it in a segment.
func TestNumbersStayWhileSegmentsArePinned(t *testing.T) {
	r := small(t, func(c *Config) { c.MaxIdleSources = 1 })
	logs(r, 10, "a", "b", "c")
	c, err := r.Acquire(0)
	if err != nil {
		t.Fatal(err)
	}
	churn(r, "busy")
	r.EvictAhead()
	for i, want := range []string{"a", "b", "c"} {
		if s := r.sources.byNumber[c.Source(i)]; s == nil || s.ID() != want {
			t.Errorf("number %d does not stand for %q any more", c.Source(i), want)
		}
	}
	c.Release()
	r.EvictAhead()
	if n := r.Stats().Sources; n > 2 {
		t.Errorf("%d sources remembered after the release", n)
	}
}

func TestRefCounts(t *testing.T) {
	r := small(t, func(c *Config) { c.MaxIdleSources = 1 })
	a, again := r.Ref("a"), r.Ref("a")
	if a != again || a.ID() != "a" {
		t.Fatalf("two references to %q and %q", a.ID(), again.ID())
	}
	for i := range 4 {
		r.Unref(r.Ref(fmt.Sprint("idle", i)))
	}
	r.Unref(a)
	for range 3 {
		r.EvictAhead()
	}
	if s, ok := r.Find("a"); !ok || s != a {
		t.Error("a was forgotten with one reference left")
	}
	if n := r.Stats().Sources; n != 2 {
		t.Errorf("%d sources, want a and one idle one", n)
	}
	r.Unref(a)
	r.Unref(r.Ref("last"))
	r.EvictAhead()
	if _, ok := r.Find("a"); ok {
		t.Error("a is known without a reference")
	}
}

// Sources whose hashes are the same are told apart by their bytes.
func TestTwins(t *testing.T) {
	for _, order := range [][]string{{"a", "b", "c"}, {"b", "a", "c"}, {"c", "b", "a"}} {
		table := sourceTable{}
		table.init()
		made := map[string]*Source{}
		for _, id := range []string{"a", "b", "c"} {
			made[id] = table.lookup(7, []byte(id), 0)
		}
		for i, id := range order {
			if s := table.lookup(7, []byte(id), 0); s != made[id] {
				t.Fatalf("%q is not found", id)
			}
			table.remove(made[id])
			for j, other := range order {
				if got := table.find(7, other); (got != nil) != (j > i) {
					t.Fatalf("after %d removals in order %v, %q: %v", i+1, order, other, got)
				}
			}
		}
		if table.known() != 0 || len(table.byHash) != 0 {
			t.Errorf("%d sources left", table.known())
		}
		if s := table.lookup(7, []byte("d"), 0); s.Number() > 2 {
			t.Errorf("number %d although 0 to 2 are free", s.Number())
		}
	}
}

func TestEachSource(t *testing.T) {
	r := small(t, nil)
	r.Unref(r.Ref("never seen"))
	logs(r, 10, "a", "a", "b")
	churn(r, "b")
	logs(r, 20, "a")
	got := map[string]SourceStats{}
	r.EachSource(func(s SourceStats) { got[s.ID] = s })
	if len(got) != 2 {
		t.Errorf("visited %v", got)
	}
	if want := (SourceStats{ID: "a", Envelopes: 3, Bytes: 2*12 + 22, Held: 1}); got["a"] != want {
		t.Errorf("a: %+v, want %+v", got["a"], want)
	}
	if b := got["b"]; b.Envelopes != r.Head()-3 || b.Held != r.Head()-r.Oldest()-1 {
		t.Errorf("b: %+v with head %d, oldest %d", b, r.Head(), r.Oldest())
	}
}
