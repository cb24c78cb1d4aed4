package nozzletest

import (
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// group is a subscription, or the one tail of a connection. It is guarded by
// the server's mu.
type group struct {
	tail   bool
	match  func(*entry) bool
	cursor map[string]*streampb.CursorEntry
	places map[string]*progress // by Doppler
	leases []*lease             // not acked as a whole, oldest first
	again  []*lease             // of them, those that nobody has now
}

// progress is how far a group has got with one Doppler.
type progress struct {
	epoch   *epoch
	next    int // index in the log
	matched uint64
	seen    uint64
	lost    bool // the epoch before ended without a fin; not told yet
}

// lease is a batch that was handed out.
type lease struct {
	doppler string
	epoch   *epoch
	matched uint64 // before the first envelope
	entries []entry
	acked   []bool // of entries
	gaps    []*streampb.Gap
	holder  *conn
	again   bool
}

func newGroup(q url.Values, source string) (*group, error) {
	mask, err := envelope.MaskOf(q["type"]...)
	if err != nil {
		return nil, err
	}
	g := &group{tail: source != "", cursor: map[string]*streampb.CursorEntry{}, places: map[string]*progress{}}
	if c := q.Get("cursor"); c != "" {
		decoded, err := stream.DecodeCursor(c)
		if err != nil {
			return nil, err
		}
		for _, e := range decoded.GetEntries() {
			g.cursor[e.GetDoppler()] = e
		}
	}
	sources, names := q["source_id"], q["name"]
	if source != "" {
		sources = []string{source}
	}
	since := time.Time{}
	if ns, err := strconv.ParseInt(q.Get("since"), 10, 64); err == nil {
		since = time.Unix(0, ns)
	}
	g.match = func(e *entry) bool {
		return mask.Has(e.scan.Class) &&
			(len(sources) == 0 || slices.Contains(sources, string(envelope.SourceID(e.env)))) &&
			(len(names) == 0 || envelope.MatchName(e.env, names)) &&
			(since.IsZero() || envelope.Timestamp(e.env) >= since.UnixNano())
	}
	return g, nil
}

// at returns the group's progress with a Doppler.
func (g *group) at(d *Doppler) *progress {
	p := g.places[d.name]
	if p == nil || p.epoch != d.epoch {
		lost := p != nil && !p.epoch.fin
		p = &progress{epoch: d.epoch, lost: lost}
		if e := g.cursor[d.name]; e != nil && e.GetEpoch() != d.epoch.number {
			p.lost = p.lost || !e.GetFinished()
		} else if e != nil {
			for p.next < len(d.epoch.log) && d.epoch.log[p.next].offset < e.GetOffset() {
				p.next++
			}
			p.matched, p.seen = e.GetMatched(), e.GetSeen()
		}
		g.places[d.name] = p
		delete(g.cursor, d.name)
	}
	return p
}

// recent moves a tail to the newest n envelopes that match.
func (g *group) recent(d *Doppler, n int) {
	p := g.at(d)
	matching := 0
	for i := len(d.epoch.log) - 1; i >= 0; i-- {
		if e := &d.epoch.log[i]; e.env != nil && g.match(e) {
			if matching++; matching > n {
				p.matched++
				p.next = max(p.next, i+1)
			}
		}
	}
}

// lend hands out the next batch, or nil when there is none.
func (g *group) lend(c *conn, dopplers []*Doppler, size int) *lease {
	var l *lease
	if len(g.again) > 0 {
		l, g.again = g.again[0], g.again[1:]
	}
	for i := 0; l == nil && i < len(dopplers); i++ {
		if l = g.fresh(dopplers[i], size); l != nil {
			g.leases = append(g.leases, l)
		}
	}
	if l != nil {
		l.holder = c
	}
	return l
}

func (g *group) fresh(d *Doppler, size int) *lease {
	p := g.at(d)
	l := &lease{doppler: d.name, epoch: d.epoch}
	if p.lost {
		p.lost = false
		l.gaps = append(l.gaps, d.unknown(streampb.Gap_DOPPLER_LOST))
	}
	for p.next < len(d.epoch.log) && len(l.entries) < size {
		e := &d.epoch.log[p.next]
		if e.gap != nil {
			if len(l.entries) > 0 {
				break // a gap comes before envelopes
			}
			l.gaps = append(l.gaps, e.gap)
			p.matched += e.gap.GetCount()
		} else if g.match(e) {
			l.entries = append(l.entries, *e)
			l.again = l.again || e.offset < p.seen
		}
		p.next++
	}
	if len(l.entries) == 0 && len(l.gaps) == 0 {
		return nil
	}
	l.matched = p.matched
	p.matched += uint64(len(l.entries))
	l.acked = make([]bool, len(l.entries))
	return l
}

// low returns the offset before which everything of a Doppler is acked, and
// the matching envelopes before it.
func (g *group) low(d *Doppler) (low, matched uint64) {
	p := g.at(d)
	low, matched = p.offset(), p.matched
	for _, l := range g.leases {
		if l.epoch != d.epoch {
			continue
		}
		for _, gap := range l.gaps {
			if gap.GetTo() > gap.GetFrom() && gap.GetFrom() < low {
				low, matched = gap.GetFrom(), l.matched-gap.GetCount()
			}
		}
		if i := slices.Index(l.acked, false); i >= 0 && l.entries[i].offset < low {
			low, matched = l.entries[i].offset, l.matched+uint64(i)
		}
	}
	return low, matched
}

// offset is the next one that the group will look at.
func (p *progress) offset() uint64 {
	if p.next < len(p.epoch.log) {
		return p.epoch.log[p.next].offset
	}
	return p.epoch.next
}

// ack marks offsets first to last of an epoch and returns how many envelopes
// and gaps were not acked before.
func (g *group) ack(doppler string, number, first, last uint64) (envelopes, gaps int) {
	for _, l := range g.leases {
		if l.doppler != doppler || l.epoch.number != number {
			continue
		}
		for i, e := range l.entries {
			if e.offset >= first && e.offset <= last && !l.acked[i] {
				l.acked[i] = true
				envelopes++
			}
		}
		l.gaps = slices.DeleteFunc(l.gaps, func(gap *streampb.Gap) bool {
			hit := gap.GetTo() > gap.GetFrom() && gap.GetFrom() >= first && gap.GetFrom() <= last
			if hit {
				gaps++
			}
			return hit
		})
	}
	g.settle()
	return envelopes, gaps
}

// told settles the gaps of a lease that have no offsets: being told is all.
func (g *group) told(l *lease) {
	l.gaps = slices.DeleteFunc(l.gaps, func(gap *streampb.Gap) bool { return gap.GetTo() <= gap.GetFrom() })
	g.settle()
}

// settle forgets leases that are acked as a whole.
func (g *group) settle() {
	over := func(l *lease) bool { return len(l.gaps) == 0 && !slices.Contains(l.acked, false) }
	g.again = slices.DeleteFunc(g.again, over)
	g.leases = slices.DeleteFunc(g.leases, over)
}

// takeBack makes leases free to be handed out again.
func (g *group) takeBack(which func(*lease) bool) {
	for _, l := range g.leases {
		if l.holder != nil && which(l) {
			l.holder, l.again = nil, true
			g.again = append(g.again, l)
		}
	}
}

// forget drops the leases of a Doppler's epoch that is no more.
func (g *group) forget(doppler string) {
	of := func(l *lease) bool { return l.doppler == doppler }
	g.again = slices.DeleteFunc(g.again, of)
	g.leases = slices.DeleteFunc(g.leases, of)
}
