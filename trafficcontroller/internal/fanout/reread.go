package fanout

import "github.com/a1ea6966/loggregator/api/streampb"

// A Doppler's ring is shared: a loud app may turn it over before a link that is
// held up has taken what a quiet one has said. Of that the Doppler still has the
// newest, app by app, in its recent store. So a tail of which the link says that
// it misses a little goes back and reads it as history, while what comes next
// is held: the same way as a tail that has just come.
const (
	// rereadMost is the largest gap worth the question: as many lines as a
	// Doppler keeps by default.
	rereadMost = 1000
	// rereadAll bounds what all tails of an app read for one gap.
	rereadAll = 20 * rereadMost
)

// worthReading tells whether tails may find in history what a gap of n of their
// envelopes says they miss.
func (g *group) worthReading(gap *streampb.Gap, n uint64) bool {
	return gap.GetReason() == streampb.Gap_EVICTED && gap.GetPrecision() == streampb.Gap_EXACT && gap.GetTo() > 0 &&
		n <= rereadMost && n*uint64(len(g.tails)) <= rereadAll
}

// reread makes the tail look for what lies between from and to, where the link
// goes on. It returns false when it cannot, and has to be told.
func (t *Tail) reread(l *link, from, to place) bool {
	g := t.leg(l.name)
	if g == nil {
		g = &leg{
			doppler: l.name, state: legReads, want: wantAll, since: t.hub.now, epoch: l.epoch,
			place: from, join: to, told: true,
		}
		t.legs = append(t.legs, g)
		t.hub.joining[t] = struct{}{}
		t.advance(g)
		return true
	}
	if g.state != legReads && g.state != legDone {
		return false
	}
	// It reads already: a little further, then.
	for t.letGo(g) {
	}
	if len(g.held) > 0 {
		return false
	}
	g.join = to
	return true
}

// countedBy counts what a page lacks by what the link knows of both its ends, if
// its Doppler cannot any more.
func (p *page) countedBy(from, until place) {
	all := uint64(p.all)
	if from.matched+all > until.matched {
		return
	}
	before := until.matched - all
	for i := range p.entries {
		p.entries[i].matched += before - p.pos.GetMatched()
	}
	p.pos.Matched, p.pos.Next = before, until.offset
	p.gap, p.unsure = before-from.matched, false
}
