package reader

import (
	"fmt"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// took is what a link said, all batches together.
type took struct {
	offs    []uint64
	gaps    []*Gap
	answers []*streampb.Watching
	batches int
}

// takeAll reads a link to its end.
func takeAll(w *world, l *Link) (all took) {
	for {
		b, more := l.Next()
		all.offs = append(all.offs, w.unpack(b.First, b.Count, b.Deltas)...)
		all.gaps = append(all.gaps, b.Gaps...)
		all.answers = append(all.answers, b.Watching...)
		empty := b.Count == 0 && len(b.Gaps) == 0 && len(b.Watching) == 0
		b.Release()
		if empty && !more {
			return all
		}
		all.batches++
	}
}

func newLink(t *testing.T, w *world, cfg LinkConfig, start Start) *Link {
	t.Helper()
	l := NewLink(w.log, cfg, start)
	t.Cleanup(l.Close)
	return l
}

// More answers, and more gaps, than go into a batch come in several; the gaps
// before any envelope.
func TestLinkBoundsMetadata(t *testing.T) {
	w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 64<<10, 1<<20 })
	defer w.close()
	l := newLink(t, w, LinkConfig{}, Start{})
	const sources = 2*maxMeta + 10
	for i := range sources {
		l.Add(uint64(i), uint32(i), fmt.Sprint("s", i), nil)
	}
	answers := 0
	for range 3 {
		b, _ := l.Next()
		if len(b.Watching) > maxMeta || b.Count > 0 {
			t.Fatalf("%d answers in a batch", len(b.Watching))
		}
		answers += len(b.Watching)
	}
	if answers != sources {
		t.Fatalf("%d answers of %d", answers, sources)
	}
	for i := range sources {
		w.append(w.make(fmt.Sprint("s", i), 0, 0))
	}
	w.churn("s0")
	gaps := 0
	for gaps < sources {
		b, more := l.Next()
		if len(b.Gaps) == 0 || len(b.Gaps) > maxMeta || !more {
			t.Fatalf("%d gaps after %d, more %v", len(b.Gaps), gaps, more)
		}
		if gaps += len(b.Gaps); gaps < sources && b.Count > 0 {
			t.Fatal("envelopes before all gaps are told")
		}
		b.Release()
	}
	if rest := takeAll(w, l); len(rest.gaps) != 0 || !l.Drained() {
		t.Errorf("%d more gaps, drained %v", len(rest.gaps), l.Drained())
	}
}

// A watch that goes takes its gaps with it: they would be read as gaps of the
// watch of the same source that comes after it.
func TestRemovedWatchTakesItsGapsWithIt(t *testing.T) {
	w := forgetful(t)
	l := newLink(t, w, LinkConfig{}, Start{})
	l.Add(1, 1, "s", nil)
	takeAll(w, l)
	w.logs("s", 3)
	w.churn("other")
	l.Appended() // finds the loss
	l.Remove(1)
	l.Add(2, 2, "s", nil)
	all := takeAll(w, l)
	if len(all.gaps) != 0 || len(all.answers) != 1 || all.answers[0].GetClassCounts()[envelope.Log] != 3 {
		t.Errorf("gaps %s, answers %v", show(all.gaps), all.answers)
	}
	if !l.Drained() {
		t.Error("not drained")
	}
}

// A link that is behind skips the sources over their fair share, tells it
// exactly, and gives the others all they have; when it has caught up it skips
// nobody.
func TestLinkSkipsWhoIsOverItsShare(t *testing.T) {
	w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 16<<10, 1<<20 })
	defer w.close()
	l := newLink(t, w, LinkConfig{BatchEnvelopes: 64, ShareBytes: 8 << 10}, Start{})
	quiet := []string{"q1", "q2", "q3", "q4"}
	for i, s := range append(quiet, "busy") {
		l.Add(uint64(i), uint32(i), s, nil)
	}
	takeAll(w, l)
	for i := range 4000 { // far behind, but not evicted
		w.append(w.make("busy", 0, 10))
		if i%40 == 0 {
			w.append(w.make(quiet[i/40%4], 0, 10))
		}
	}
	if lag := w.head() - l.Cursor(); lag < l.log.CapacityOffsets()/4 || w.oldest() > 0 {
		t.Fatalf("lag %d of %d, oldest %d", lag, l.log.CapacityOffsets(), w.oldest())
	}
	all := takeAll(w, l)
	got := map[string]uint64{}
	for _, off := range all.offs {
		got[w.all[off].source]++
	}
	var missed uint64
	for _, g := range all.gaps {
		if g.Source != "busy" || g.Reason != streampb.Gap_OVER_SHARE || g.Classes.Sum(envelope.AllClasses) != g.Count {
			t.Errorf("gap %s of %q", show([]*Gap{g}), g.Source)
		}
		missed += g.Count
	}
	for _, s := range quiet {
		if got[s] != 25 {
			t.Errorf("quiet source %q got %d of 25", s, got[s])
		}
	}
	if got["busy"]+missed != 4000 || missed < 1000 {
		t.Errorf("the busy source got %d and missed %d of 4000", got["busy"], missed)
	}
	w.logs("busy", 50)
	if rest := takeAll(w, l); len(rest.offs) != 50 || len(rest.gaps) != 0 || !l.Drained() {
		t.Errorf("caught up, %d of 50 and gaps %s", len(rest.offs), show(rest.gaps))
	}
	if sent, dropped := l.Counters(); sent != uint64(len(all.offs))+50 || dropped != missed {
		t.Errorf("counters %d and %d, want %d and %d", sent, dropped, len(all.offs)+50, missed)
	}
}

// A source alone is never over its share.
func TestLinkDoesNotSkipASourceAlone(t *testing.T) {
	w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 16<<10, 1<<20 })
	defer w.close()
	l := newLink(t, w, LinkConfig{ShareBytes: 1 << 10}, Start{})
	l.Add(1, 1, "busy", nil)
	takeAll(w, l)
	w.logs("busy", 4000)
	if all := takeAll(w, l); len(all.offs) != 4000 || len(all.gaps) != 0 {
		t.Errorf("%d of 4000, gaps %s", len(all.offs), show(all.gaps))
	}
}

// Skipped envelopes that are not told yet keep a link from being drained.
func TestLinkIsNotDrainedBeforeAllIsTold(t *testing.T) {
	w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 16<<10, 1<<20 })
	defer w.close()
	l := newLink(t, w, LinkConfig{ShareBytes: 2 << 10, BatchEnvelopes: 10_000, BatchBytes: 1 << 20}, Start{})
	l.Add(1, 1, "quiet", nil)
	l.Add(2, 2, "busy", nil)
	takeAll(w, l)
	for i := range 4000 {
		w.logs([]string{"busy", "busy", "busy", "quiet"}[i%4], 1)
	}
	var told, got uint64
	for {
		b, more := l.Next()
		got += uint64(b.Count)
		for _, g := range b.Gaps {
			told += g.Count
		}
		b.Release()
		if l.Drained() && got+told != 4000 {
			t.Fatalf("drained with %d received and %d told of 4000", got, told)
		}
		if !more && b.Count == 0 && len(b.Gaps) == 0 {
			break
		}
	}
	if got+told != 4000 || told == 0 {
		t.Errorf("%d received and %d told of 4000", got, told)
	}
}

// A source that was forgotten while the link was away counts anew.
func TestLinkResumesAForgottenSource(t *testing.T) {
	for _, lost := range []int{0, 2} { // after the link broke, before it is forgotten
		w := forgetful(t)
		s := w.log.Ref("s")
		w.logs("s", 3)
		counts, at := w.log.Totals(s), w.head()
		w.log.Unref(s)
		w.logs("s", lost)
		w.forget(t, "s")
		w.logs("s", 4)
		w.churn("busy")
		l := newLink(t, w, LinkConfig{}, Start{Place: PlaceOffset, Offset: at})
		l.Add(1, 1, "s", &Resume{Counts: counts})
		all := takeAll(w, l)
		if len(all.gaps) != 1 || all.gaps[0].Count != 4 || all.gaps[0].Precision != streampb.Gap_AT_LEAST {
			t.Fatalf("gaps %s, want at least 4", show(all.gaps))
		}
		if c := all.answers[0].GetClassCounts(); c[envelope.Log] != 4 {
			t.Errorf("joined with %v", c)
		}
	}
}

// Counts that are too high say nothing, and that is said.
func TestLinkResumesWithCountsThatLie(t *testing.T) {
	w := forgetful(t)
	w.logs("s", 3)
	l := newLink(t, w, LinkConfig{}, Start{Place: PlaceOffset, Offset: 3})
	l.Add(1, 1, "s", &Resume{Counts: ring.Counts{envelope.Log: 9}})
	all := takeAll(w, l)
	if len(all.gaps) != 1 || all.gaps[0].Precision != streampb.Gap_UNKNOWN || all.gaps[0].Count != 0 {
		t.Errorf("gaps %s", show(all.gaps))
	}
}

// A link without watches keeps up with the ring and says nothing.
func TestLinkWithoutWatches(t *testing.T) {
	w := forgetful(t)
	l := newLink(t, w, LinkConfig{}, Start{})
	w.churn("a")
	w.logs("a", 100)
	if l.Appended() || l.Cursor() != w.head() {
		t.Errorf("cursor %d, head %d", l.Cursor(), w.head())
	}
	if all := takeAll(w, l); all.batches != 0 || !l.Drained() {
		t.Errorf("said %+v", all)
	}
}

// Appended looks past what nobody watches and stops at what somebody does.
func TestLinkAppended(t *testing.T) {
	w := roomy(t)
	l := newLink(t, w, LinkConfig{}, Start{})
	l.Add(1, 1, "s", nil)
	if !l.Appended() {
		t.Error("an answer is due")
	}
	takeAll(w, l)
	appendLogs(w, 10)
	if l.Appended() || l.Cursor() != 10 {
		t.Errorf("woken for foreign envelopes, cursor %d", l.Cursor())
	}
	appendLogs(w, 5)
	w.logs("s", 1)
	if !l.Appended() || l.Cursor() != 15 {
		t.Errorf("not woken, cursor %d", l.Cursor())
	}
	if all := takeAll(w, l); len(all.offs) != 1 || all.offs[0] != 15 {
		t.Errorf("took %v", all.offs)
	}
}

// A resume in parts: the link stays at its start until all of them are there,
// so that those who come last get what the ring holds, too.
func TestHeldLinkStaysAtItsStart(t *testing.T) {
	w := roomy(t)
	w.logs("a", 1)
	w.logs("b", 1)
	l := newLink(t, w, LinkConfig{}, Start{Place: PlaceOffset, Offset: 0})
	l.Add(1, 1, "a", &Resume{})
	l.Hold(true)
	if all := takeAll(w, l); len(all.answers) != 1 || len(all.offs) != 0 || l.Appended() || l.Cursor() != 0 || l.Drained() {
		t.Fatalf("said %+v, cursor %d, drained %v", all, l.Cursor(), l.Drained())
	}
	l.Add(2, 2, "b", &Resume{})
	l.Hold(false)
	all := takeAll(w, l)
	if len(all.offs) != 2 || len(all.gaps) != 0 || all.answers[0].GetJoin() != 0 || !l.Drained() {
		t.Errorf("offsets %v, gaps %s, answers %v", all.offs, show(all.gaps), all.answers)
	}
}

// What the ring lets go of while a link is held is told once to each watch.
func TestHeldLinkTellsWhatIsEvicted(t *testing.T) {
	w := forgetful(t)
	w.logs("a", 1)
	w.logs("b", 1)
	l := newLink(t, w, LinkConfig{}, Start{Place: PlaceOffset, Offset: 0})
	l.Add(1, 1, "a", &Resume{})
	l.Hold(true)
	takeAll(w, l)
	w.churn("c")
	if !l.Appended() {
		t.Error("a gap is due")
	}
	l.Add(2, 2, "b", &Resume{})
	l.Hold(false)
	all := takeAll(w, l)
	if len(all.gaps) != 2 || all.gaps[0].Source != "a" || all.gaps[1].Source != "b" || all.gaps[0].Count+all.gaps[1].Count != 2 {
		t.Errorf("gaps %s", show(all.gaps))
	}
}
