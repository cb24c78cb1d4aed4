package reader

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// linkSim drives a Link by a random history as a server would, with a client
// that keeps for each watch how far it is and what it has counted, and comes
// back with that when the link broke.
type linkSim struct {
	*world
	l        *Link
	cfg      LinkConfig
	watches  []*simWatch
	requests uint64
	nextID   uint32
	cursor   uint64 // the client's: what the last batch said
	lost     streampb.Gap_Reason
	idle     bool // waits for Appended
	held     []heldBatch
	sent     uint64
	told     uint64 // envelopes in gaps
	untold   bool   // a watch was removed, perhaps with gaps of its own

	plant func(s *linkSim, at string)
	mute  bool
}

type heldBatch struct {
	batch LinkBatch
	want  []byte
}

// simWatch is a watch as its client sees it.
type simWatch struct {
	id      uint32
	source  string
	request uint64
	refused string      // a part of the error to come
	open    bool        // answered
	removed bool        // before it was answered
	join    uint64      // expected
	at      uint64      // everything of the source below was received or told
	counts  ring.Counts // likewise
	owed    ring.Counts // a gap with these is due
	resumed bool
}

func newLinkSim(t testing.TB, seed uint64) *linkSim {
	w := newWorld(t, seed, nil)
	s := &linkSim{world: w}
	s.cfg = LinkConfig{
		BatchEnvelopes: 1 + w.rng.IntN(20), BatchBytes: 100 + w.rng.IntN(1500), MaxWatches: 2 + w.rng.IntN(6),
		ShareBytes: 200 + w.rng.IntN(2000),
	}
	if w.chance(3) {
		s.cfg.ShareBytes = 1 << 20
	}
	for range w.rng.IntN(20) {
		w.appendSome(10)
	}
	s.open(s.anyStart())
	return s
}

func (s *linkSim) anyStart() Start {
	switch s.rng.IntN(4) {
	case 0:
		return Start{Place: PlaceOrigin}
	case 1:
		return Start{Place: PlaceOrigin, Lost: streampb.Gap_DOPPLER_LOST}
	case 2:
		return Start{Place: PlaceOffset, Offset: s.head() + 1}
	}
	return Start{}
}

func (s *linkSim) open(start Start) {
	s.l = NewLink(s.log, s.cfg, start)
	s.lost, s.idle, s.sent, s.told, s.untold = start.Lost, false, 0, 0, false
	s.cursor = s.head()
	switch {
	case start.Place == PlaceOrigin:
		s.cursor = 0
	case start.Place == PlaceOffset && start.Offset > s.head():
		s.lost = streampb.Gap_CURSOR_UNKNOWN
	case start.Place == PlaceOffset:
		s.cursor = start.Offset
	}
	if s.l.Cursor() != s.cursor {
		s.fault("the link begins at %d, want %d", s.l.Cursor(), s.cursor)
	}
	s.does("open at %d", s.cursor)
	s.call("after open")
}

func (s *linkSim) call(at string) bool {
	s.mute = false
	if s.plant != nil {
		s.plant(s, at)
	}
	return !s.mute
}

func (s *linkSim) close() {
	s.release()
	s.l.Close()
	s.world.close()
}

func (s *linkSim) release() {
	for i := range s.held {
		if string(join(s.held[i].batch.Pieces)) != string(s.held[i].want) {
			s.fault("a batch's bytes changed before its release")
		}
		s.held[i].batch.Release()
	}
	s.held = nil
}

func (s *linkSim) step() {
	switch n := s.rng.IntN(100); {
	case n < 30:
		most := 10
		if s.chance(8) {
			most = 60
		}
		s.appendSome(most)
		s.call("after append")
	case n < 40:
		s.pump()
	case n < 75:
		if !s.idle {
			s.next()
		}
	case n < 86:
		s.add(s.anySource(), nil)
	case n < 92 && len(s.watches) > 0:
		s.remove(s.watches[s.rng.IntN(len(s.watches))])
	case n < 94:
		s.release()
	case n < 95:
		s.log.EvictAhead()
	case n < 97:
		s.resume()
	}
	if s.l.Cursor() > s.head() {
		s.fault("the cursor is %d, head %d", s.l.Cursor(), s.head())
	}
	if open := s.count(); s.l.Watches() != open {
		s.fault("%d sources are watched, want %d", s.l.Watches(), open)
	}
}

func (s *linkSim) anySource() string {
	if s.chance(8) {
		return "never"
	}
	return s.source()
}

// count is how many watches the link has.
func (s *linkSim) count() (n int) {
	for _, w := range s.watches {
		if w.refused == "" && !w.removed {
			n++
		}
	}
	return n
}

// pump is the server's waker.
func (s *linkSim) pump() {
	if !s.idle || !s.call("before pump") {
		return
	}
	if s.l.Appended() {
		s.idle = false
		s.does("woken")
		return
	}
	s.checkNothing()
}

// checkNothing makes sure that nothing is due to the client.
func (s *linkSim) checkNothing() {
	for _, w := range s.watches {
		if w.removed {
			continue
		}
		if !w.open {
			s.fault("nothing to say although watch %d is not answered", w.id)
			continue
		}
		if w.owed != (ring.Counts{}) {
			s.fault("nothing to say although %q is owed a gap", w.source)
		}
		if n := s.between(w.source, w.at, s.head()); n != (ring.Counts{}) {
			s.fault("nothing to say although %q has %v from %d on", w.source, n, w.at)
		}
	}
	if s.lost != streampb.Gap_REASON_UNSPECIFIED {
		s.fault("nothing to say although a gap of unknown size is due")
	}
}

// between counts a source's envelopes in [from, to).
func (s *linkSim) between(source string, from, to uint64) (c ring.Counts) {
	for off := from; off < to; off++ {
		if s.all[off].source == source {
			c[s.all[off].class]++
		}
	}
	return c
}

// add watches a source, with counts when it was watched before the link broke.
func (s *linkSim) add(source string, from *simWatch) {
	s.requests++
	w := &simWatch{id: s.nextID, source: source, request: s.requests}
	s.nextID++
	if from == nil && s.chance(10) && len(s.watches) > 0 {
		w.id = s.watches[s.rng.IntN(len(s.watches))].id
	}
	for _, o := range s.watches {
		switch {
		case o.removed || o.refused != "":
		case o.id == w.id:
			w.refused = "is in use"
		case o.source == source && w.refused == "":
			w.refused = "is watched already"
		}
	}
	if w.refused == "" && s.count() == s.cfg.MaxWatches {
		w.refused = fmt.Sprintf("the limit is %d", s.cfg.MaxWatches)
	}
	var resume *Resume
	if from != nil && s.call("before resume") {
		resume = &Resume{Counts: from.counts}
	}
	s.l.Add(w.request, w.id, source, resume)
	s.call("after add")
	w.join = s.l.Cursor()
	if from != nil && w.refused == "" {
		w.resumed, w.counts = true, from.counts
	}
	s.watches = append(s.watches, w)
	s.idle = false
	s.does("add watch %d of %q, resume %v, refused %q", w.id, source, resume, w.refused)
}

func (s *linkSim) remove(w *simWatch) {
	if w.refused != "" || w.removed {
		return
	}
	s.l.Remove(w.id)
	s.untold = true
	s.does("remove watch %d of %q", w.id, w.source)
	w.removed = true
	if w.open {
		s.forget(w)
	}
	s.call("after remove")
	s.l.Remove(1 << 30)
}

func (s *linkSim) forget(w *simWatch) {
	s.watches = slices.DeleteFunc(s.watches, func(o *simWatch) bool { return o == w })
}

// resume breaks the link and comes back.
func (s *linkSim) resume() {
	s.release()
	old := s.watches
	s.l.Close()
	s.does("the link breaks")
	for range s.rng.IntN(10) {
		s.appendSome(10)
	}
	s.watches = nil
	if s.chance(4) {
		s.open(s.anyStart())
		return
	}
	s.open(Start{Place: PlaceOffset, Offset: s.cursor})
	for _, w := range old {
		if w.removed || w.refused != "" || s.chance(5) {
			continue
		}
		if s.chance(4) {
			for range s.rng.IntN(4) {
				s.next()
			}
		}
		if !w.open {
			w = nil
		}
		source := s.anySource()
		if w != nil {
			source = w.source
		}
		s.add(source, w)
	}
}

// next takes a batch and does with it what the client does.
func (s *linkSim) next() {
	s.call("before next")
	b, more := s.l.Next()
	s.call("after next")
	s.does("next: %d from %d, %d answers, gaps %s, more %v", b.Count, b.First, len(b.Watching), show(b.Gaps), more)
	for _, r := range b.Watching {
		s.answer(r)
	}
	for _, g := range b.Gaps {
		s.gap(g)
	}
	s.take(&b)
	if b.Next != s.l.Cursor() || b.Next < s.cursor || b.Next > s.head() {
		s.fault("next is %d after %d, the cursor %d", b.Next, s.cursor, s.l.Cursor())
	}
	s.cursor = b.Next
	if b.Count == 0 && len(b.Watching) == 0 && len(b.Gaps) == 0 && !more {
		s.idle = true
		s.checkNothing()
	}
	if s.chance(4) && len(s.held) < 3 {
		s.held = append(s.held, heldBatch{b, join(b.Pieces)})
		return
	}
	b.Release()
	b.Release()
}

// answer follows an answer to a watch.
func (s *linkSim) answer(r *streampb.Watching) {
	var w *simWatch
	for _, o := range s.watches {
		if !o.open {
			w = o
			break
		}
	}
	if w == nil || w.request != r.GetRequest() || w.id != r.GetWatch() || w.source != r.GetSourceId() {
		s.fault("answer %v, want one to %+v", r, w)
		return
	}
	if w.refused != "" {
		if !strings.Contains(r.GetError(), w.refused) || r.GetClassCounts() != nil {
			s.fault("answer %v, want a refusal that says %q", r, w.refused)
		}
		s.forget(w)
		return
	}
	want := s.between(w.source, 0, r.GetJoin())
	if r.GetError() != "" || r.GetJoin() != w.join || !slices.Equal(r.GetClassCounts(), want[:]) {
		s.fault("answer %v, want join at %d with %v", r, w.join, want)
	}
	if r.GetJoin() < s.cursor {
		s.fault("join is %d behind the cursor %d", r.GetJoin(), s.cursor)
	}
	w.open, w.at = true, r.GetJoin()
	if w.removed {
		s.forget(w)
	}
	if w.resumed {
		for c := range want {
			w.owed[c] = want[c] - w.counts[c]
		}
		return
	}
	w.counts = want
}

// gap follows a gap.
func (s *linkSim) gap(g *Gap) {
	if g.Source == "" {
		if g.Reason != s.lost || g.Precision != streampb.Gap_UNKNOWN {
			s.fault("gap %+v, want one of reason %v", *g, s.lost)
		}
		s.lost = streampb.Gap_REASON_UNSPECIFIED
		return
	}
	i := slices.IndexFunc(s.watches, func(w *simWatch) bool { return w.source == g.Source && w.open })
	if i < 0 || g.Precision != streampb.Gap_EXACT || g.Classes == nil || g.Count != g.Classes.Sum(envelope.AllClasses) {
		s.fault("gap %+v", *g)
		return
	}
	w := s.watches[i]
	s.told += g.Count
	for c := range w.counts {
		w.counts[c] += g.Classes[c]
	}
	if w.owed != (ring.Counts{}) {
		if *g.Classes != w.owed || g.To != w.at {
			s.fault("gap %v up to %d, want %v up to %d", *g.Classes, g.To, w.owed, w.at)
		}
		w.owed = ring.Counts{}
		return
	}
	if g.From < w.at || g.To <= g.From || g.To > s.l.Cursor() {
		s.fault("gap of %q in [%d,%d), everything below %d was told", g.Source, g.From, g.To, w.at)
		return
	}
	want := s.between(w.source, w.at, g.To)
	if *g.Classes != want || s.between(w.source, w.at, g.From) != (ring.Counts{}) {
		s.fault("gap of %q in [%d,%d) has %v, want %v", g.Source, g.From, g.To, *g.Classes, want)
	}
	if g.Reason == streampb.Gap_EVICTED && g.To > s.oldest() || g.Reason != streampb.Gap_EVICTED && s.cfg.ShareBytes == 1<<20 {
		s.fault("gap of %q up to %d for %v, oldest %d", g.Source, g.To, g.Reason, s.oldest())
	}
	w.at = g.To
}

// take follows the envelopes of a batch.
func (s *linkSim) take(b *LinkBatch) {
	offs := s.unpack(b.First, b.Count, b.Deltas)
	if b.Count > s.cfg.BatchEnvelopes || b.Count > 1 && b.Bytes > s.cfg.BatchBytes {
		s.fault("a batch of %d envelopes and %d bytes", b.Count, b.Bytes)
	}
	if got := join(b.Pieces); string(got) != string(s.records(offs)) || len(got) != b.Bytes {
		s.fault("the batch from %d has other bytes", b.First)
	}
	if b.Count > 0 && (len(b.Watches) != len(offs) || len(b.Classes) != len(offs)) {
		s.fault("%d watches and %d classes for %d envelopes", len(b.Watches), len(b.Classes), len(offs))
		return
	}
	s.sent += uint64(len(offs))
	for i, off := range offs {
		t := &s.all[off]
		at := slices.IndexFunc(s.watches, func(w *simWatch) bool { return w.open && w.id == b.Watches[i] })
		if at < 0 || s.watches[at].source != t.source || byte(t.class) != b.Classes[i] {
			s.fault("%d of %q came as watch %d, class %d", off, t.source, b.Watches[i], b.Classes[i])
			return
		}
		w := s.watches[at]
		if w.owed != (ring.Counts{}) {
			s.fault("%d of %q came before its gap", off, w.source)
		}
		if off < w.at || s.between(w.source, w.at, off) != (ring.Counts{}) {
			s.fault("%d of %q came after %d", off, w.source, w.at)
		}
		w.at = off + 1
		w.counts[t.class]++
	}
}

// finish reads to the end.
func (s *linkSim) finish() {
	for !s.idle && len(s.faults) == 0 {
		s.next()
		s.release()
	}
	s.pump()
	for !s.idle && len(s.faults) == 0 {
		s.next()
		s.release()
	}
	s.pump()
	if len(s.faults) > 0 {
		return
	}
	s.checkNothing()
	for _, w := range s.watches {
		if want := s.between(w.source, 0, s.head()); w.counts != want {
			s.fault("in the end %q has %v, want %v", w.source, w.counts, want)
		}
	}
	sent, dropped := s.l.Counters()
	if !s.l.Drained() || sent != s.sent || dropped < s.told || dropped > s.told && !s.untold {
		s.fault("drained %v, sent %d and dropped %d, want %d and %d", s.l.Drained(), sent, dropped, s.sent, s.told)
	}
}

// runLink plays the history of a seed and returns what went wrong.
func runLink(t testing.TB, seed uint64, plant func(*linkSim, string)) []string {
	t.Helper()
	s := newLinkSim(t, seed)
	defer s.close()
	s.plant = plant
	for i := range 30 + s.rng.IntN(150) {
		s.step()
		if len(s.faults) > 0 {
			return append(s.faults, fmt.Sprintf("at step %d", i))
		}
	}
	s.finish()
	return s.faults
}

func TestLinkHistories(t *testing.T) {
	if *linkSeed != 0 {
		if faults := runLink(t, *linkSeed, nil); faults != nil {
			t.Fatal(faults)
		}
		return
	}
	for seed := uint64(1); seed <= linkHistories; seed++ {
		if faults := runLink(t, seed, nil); faults != nil {
			t.Fatalf("seed %d: %v (replay with -link.seed=%d -history)", seed, faults, seed)
		}
	}
}
