package fanout

import (
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// leg is the way of one tail on one Doppler from where it wants to begin to
// what the link says now. When it is there, the leg is gone and the tail takes
// what the link brings.
//
// A leg that reads history holds back what the link brings meanwhile. What it
// cannot hold it lets go and reads as history too: join moves on. So the seam
// is one offset at any time, with neither hole nor duplicate.
type leg struct {
	doppler string
	state   legState
	want    legWant
	entries []*entryOf // of the cursor, until they are used
	epoch   uint64     // with a join
	since   time.Time  // when the state began

	place place // what the tail has had, or was told it will not
	join  place // where held begins
	held  []*frame
	short []uint64 // of each of held: fixed when it came
	fixed uint64   // what correct has added
	bytes int64    // of held
	told  bool     // the tail has a position at place

	// reading
	serial  uint64 // of the read under way; 0: none
	until   place  // where that one ends, if it reads forward: join, as it was
	retryAt time.Time
	fails   int
	found   []entries // newest first, while older ones are being read
	before  uint64    // where the next older read ends
	cut     bool      // there may be older ones that were not read
}

// entryOf is a cursor's entry of one epoch.
type entryOf struct {
	*streampb.CursorEntry
	told bool // that its epoch is lost
}

// lose tells that nobody knows what came after the entry.
func (e *entryOf) lose(t *Tail) {
	if !e.told && !e.GetFinished() {
		t.tellUnknown(e.GetDoppler(), e.GetEpoch(), streampb.Gap_DOPPLER_LOST)
		t.knows(e.GetDoppler(), ended{e.GetEpoch(), e.GetMatched()})
	}
	e.told = true
}

type legState int

const (
	legWaits legState = iota // for the link to join
	legReads                 // history
	legDone                  // has its newest and waits for the other legs
	legAhead                 // the cursor is ahead of the link
)

type legWant int

const (
	wantLive   legWant = iota // from join on
	wantNewest                // recent or since
	wantAll                   // everything from place on
)

// newLeg makes a leg for a Doppler that is known when the tail comes. What the
// cursor says of it is used up: an epoch to come has nothing to do with it.
func (t *Tail) newLeg(doppler string) *leg {
	g := &leg{doppler: doppler, since: t.hub.now}
	switch {
	case t.cursor != nil:
		g.want = wantAll
		for _, e := range t.cursor[doppler] {
			g.entries = append(g.entries, &entryOf{CursorEntry: e})
		}
		delete(t.cursor, doppler)
	case t.newest():
		g.want = wantNewest
	}
	t.legs = append(t.legs, g)
	return g
}

func (t *Tail) leg(doppler string) *leg {
	for _, g := range t.legs {
		if g.doppler == doppler {
			return g
		}
	}
	return nil
}

func (t *Tail) removeLeg(g *leg) {
	for _, f := range g.held {
		f.release()
	}
	t.heldBytes -= g.bytes
	g.held, g.bytes, g.found = nil, 0, nil
	for i, o := range t.legs {
		if o == g {
			t.legs = append(t.legs[:i], t.legs[i+1:]...)
			break
		}
	}
	if len(t.legs) == 0 {
		t.legs = nil
		delete(t.hub.joining, t)
		t.tellLive()
	}
}

// tellLive says, once, that what the tail asked for of the past is in its
// queue: a client that wants no more than that knows where to end.
func (t *Tail) tellLive() {
	if t.live || t.closed || t.cursor == nil && !t.newest() {
		return
	}
	t.live = true
	t.enqueueSpec(&spec{live: &streampb.Watching{SourceId: t.options.Source}})
}

// pastIsOver tells whether nothing is left of the past but what Dopplers have
// that were not there for a while.
func (t *Tail) pastIsOver() bool {
	for _, g := range t.legs {
		l := t.hub.links[g.doppler]
		waits := g.state == legWaits && (l == nil || !l.up) || g.state == legReads && t.hub.isAway(g.doppler)
		since := g.since
		if l != nil && l.left.After(since) {
			since = l.left
		}
		if !waits || !g.isOver(t) && t.hub.now.Sub(since) < t.hub.cfg.GatherWithin {
			return false
		}
	}
	return len(t.legs) > 0
}

// isOver tells whether a leg waits for no more than the next epoch of its
// Doppler.
func (g *leg) isOver(t *Tail) bool { return g.state == legWaits && t.hub.isOver(g.doppler) }

// endPast tells a tail that history is over when only Dopplers that are away have
// more of it. It comes late, should they come back.
func (t *Tail) endPast() {
	if t.live || t.gathering || !t.pastIsOver() {
		return
	}
	for _, g := range t.legs {
		if l := t.hub.links[g.doppler]; l != nil && g.want == wantNewest && !l.finished {
			t.tellUnknown(g.doppler, l.epoch, streampb.Gap_DOPPLER_AWAY)
		}
	}
	t.tellLive()
}

// join says that from at on everything comes over the link. Without a leg the
// tail was there before this Doppler was found, or before its epoch, and wants
// all of it. late says that at is not where it should have been.
func (t *Tail) join(l *link, at place, late bool) {
	g := t.leg(l.name)
	if g == nil {
		g = t.newLeg(l.name)
		g.want = wantAll
		t.hub.joining[t] = struct{}{}
	}
	t.mark(l, at.offset)
	g.state, g.since, g.epoch, g.join = legReads, t.hub.now, l.epoch, at
	if g.want != wantAll {
		g.place = at
	}
	if late && g.want != wantAll {
		t.tellUnknown(l.name, l.epoch, streampb.Gap_EVICTED)
	}
	g.begin(t, l.epoch)
	t.advance(g)
}

// begin finds the place in the cursor the tail has come with. An entry of
// another epoch that was not finished is a loss of unknown size.
func (g *leg) begin(t *Tail, epoch uint64) {
	for _, e := range g.entries {
		if e.GetEpoch() == epoch {
			g.place, g.told = place{e.GetOffset(), e.GetMatched()}, true
		} else {
			e.lose(t)
		}
	}
	g.entries = nil
}

// advance takes the next step of a leg that reads.
func (t *Tail) advance(g *leg) {
	if g.state != legReads || g.serial != 0 || t.hub.now.Before(g.retryAt) {
		return
	}
	switch {
	case t.filter.Mask == 0 || g.want != wantNewest && g.place.offset >= g.join.offset:
		t.arrive(g)
	case g.want == wantNewest:
		t.hub.readNewest(t, g)
	default:
		if _, past := t.q.level(); past > 0 {
			t.wants.Store(true) // goes on when the tail has had what was read
			// It may have had it just now.
			if _, past = t.q.level(); past > 0 || !t.wants.Swap(false) {
				return
			}
		}
		t.hub.readForward(t, g)
	}
}

// correct sets right what the link knew when the tail joined: n more envelopes were
// before that place.
func (g *leg) correct(n uint64) {
	if g.state != legReads && g.state != legDone {
		return
	}
	g.join.matched += n
	g.until.matched += n
	g.fixed += n
	if g.want == wantNewest {
		g.place.matched += n
	}
}

// arrive ends the way: the tail has everything before join.
func (t *Tail) arrive(g *leg) {
	if g.want == wantAll && g.place.offset > g.join.offset {
		g.state, g.since = legAhead, t.hub.now
		for _, f := range g.held {
			t.heldBytes -= f.size()
			g.bytes -= f.size()
		}
		held := g.held
		g.held = nil
		for _, f := range held {
			t.offerAhead(g, f)
			f.release()
		}
		return
	}
	if g.place.matched < g.join.matched {
		// Neither history nor a gap of it has accounted for these.
		t.tellMissed(g, g.join.matched-g.place.matched, streampb.Gap_EVICTED)
	}
	t.goLive(g)
}

// goLive lets the tail have what was held, and ends the leg.
func (t *Tail) goLive(g *leg) {
	if !g.told || g.place.offset != g.join.offset {
		t.enqueueSpec(&spec{
			doppler: g.doppler, epoch: g.epoch, first: g.join.offset, end: g.join.offset, matched: g.join.matched, placed: true,
		})
	}
	held := g.held
	t.heldBytes -= g.bytes
	g.held, g.bytes = nil, 0
	t.removeLeg(g)
	for _, f := range held {
		t.enqueue(f)
		f.release()
	}
}

// hold keeps a frame until the leg has arrived.
func (t *Tail) hold(g *leg, f *frame) {
	g.held = append(g.held, f.retain())
	g.short = append(g.short, g.fixed)
	g.bytes += f.size()
	t.heldBytes += f.size()
	live, _ := t.q.level()
	for live+t.heldBytes > t.hub.cfg.TailBytes && t.letGo(g) {
	}
}

// letGo gives up the oldest held frame: it will be read as history.
func (t *Tail) letGo(g *leg) bool {
	if len(g.held) == 0 || g.held[0].pinned && len(g.held) == 1 {
		return false
	}
	f := g.held[0]
	g.held[0] = nil
	g.held = g.held[1:]
	less := g.fixed - g.short[0] // than there were before its end
	g.short = g.short[1:]
	g.bytes -= f.size()
	t.heldBytes -= f.size()
	if f.pinned {
		t.enqueue(f)
	} else {
		g.join = place{max(g.join.offset, f.end), max(g.join.matched, f.matched+less)}
	}
	f.release()
	return true
}

// offerAhead takes a frame for a tail whose cursor is ahead of the link.
func (t *Tail) offerAhead(g *leg, f *frame) {
	switch {
	case g.state != legAhead: // arrived with a frame before
		t.enqueue(f)
	case f.pinned:
		t.enqueue(f)
	case f.end <= g.place.offset:
	case f.first >= g.place.offset:
		t.caughtUp(g)
		t.enqueue(f)
	default:
		t.caughtUp(g)
		rest, err := t.hub.maker.cut(f, g.place.offset, t)
		if err != nil {
			t.hub.log.Error("cut a frame", "error", err)
			return
		}
		t.enqueue(rest)
		rest.release()
	}
}

// caughtUp ends a leg whose link has come to where its cursor is.
func (t *Tail) caughtUp(g *leg) {
	g.state = legReads
	t.removeLeg(g)
}

// willBeTold notes that the link is about to tell what the entry of its epoch
// would.
func (g *leg) willBeTold(l *link) {
	for _, e := range g.entries {
		e.told = e.told || e.GetEpoch() == l.epoch && !l.finished && !l.given
	}
}

// epochEnds says that a link's epoch is over before its legs have arrived.
func (t *Tail) epochEnds(l *link) {
	g := t.leg(l.name)
	if g == nil {
		return
	}
	if g.state == legWaits || g.epoch != l.epoch {
		g.want = wantAll // the tail was there before the epoch to come
		g.willBeTold(l)
		t.gathered()
		return
	}
	if g.want == wantNewest {
		if g.state == legReads {
			t.endNewest(g, l.finished, streampb.Gap_EVICTED)
		}
		t.sendNewest(g)
		if g = t.leg(l.name); g == nil {
			return
		}
	}
	switch {
	case g.state == legAhead:
		t.removeLeg(g)
		return
	case g.place.matched < g.join.matched:
		t.tellMissed(g, g.join.matched-g.place.matched, streampb.Gap_DOPPLER_LOST)
	}
	t.goLive(g)
	t.gathered()
}

// maxFails is how often a read of history is tried while its link is up.
const maxFails = 5

// failed notes that a read did not succeed. After some of them the leg goes on
// without, and says so; but not while the Doppler is away and may come back.
func (t *Tail) failed(g *leg) {
	if !t.hub.isAway(g.doppler) {
		g.fails++
	}
	if g.fails < maxFails {
		g.retryAt = t.hub.now.Add(time.Duration(1+g.fails) * 200 * time.Millisecond)
		return
	}
	if g.want == wantNewest {
		t.endNewest(g, true, streampb.Gap_REASON_UNSPECIFIED)
		t.newestDone(g)
		return
	}
	if g.place.matched < g.join.matched {
		t.tellMissed(g, g.join.matched-g.place.matched, streampb.Gap_REASON_UNSPECIFIED)
	}
	t.goLive(g)
	t.gathered()
}

// endNewest makes do with what was read of the newest. Of what was not the tail
// is told, if tell says so and nothing else will.
func (t *Tail) endNewest(g *leg, tell bool, why streampb.Gap_Reason) {
	g.cut = g.have() > 0
	if !g.cut && tell {
		t.tellUnknown(g.doppler, g.epoch, why)
	}
	g.serial, g.state, g.since = 0, legDone, t.hub.now
}

// tellMissed tells a gap up to join. Which of the envelopes have the right
// name nobody knows.
func (t *Tail) tellMissed(g *leg, n uint64, why streampb.Gap_Reason) {
	gap := &streampb.Gap{
		From: g.place.offset, To: g.join.offset, Count: n, Reason: why, Doppler: g.doppler, Epoch: g.epoch,
	}
	t.vague(gap)
	t.enqueueSpec(&spec{
		doppler: g.doppler, epoch: g.epoch, first: g.join.offset, end: g.join.offset, matched: g.join.matched,
		placed: true, gaps: []*streampb.Gap{gap},
	})
	g.place, g.told = g.join, true
}

// vague makes a gap counted by class one of a filter with names.
func (t *Tail) vague(gap *streampb.Gap) {
	if t.filter.Names != nil {
		gap.Precision, gap.Count = streampb.Gap_UNKNOWN, 0
	}
}

// tellUnknown tells a gap of unknown size.
func (t *Tail) tellUnknown(doppler string, epoch uint64, why streampb.Gap_Reason) {
	t.enqueueSpec(&spec{doppler: doppler, epoch: epoch, gaps: []*streampb.Gap{{
		Precision: streampb.Gap_UNKNOWN, Reason: why, Doppler: doppler, Epoch: epoch,
	}}})
}
