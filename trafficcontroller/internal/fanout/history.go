package fanout

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

const (
	pageEnvelopes  = 2000      // of one read
	historyBytes   = 8 << 20   // of a merged history
	historyFrame   = 64 << 10  // bytes, about
	fullAnswer     = 3 << 20   // an answer of so many bytes may have been cut
	maxNewestReads = 8         // for one leg
	maxRead        = 100_000   // envelopes, as the Doppler has it
	anyTime        = int64(-1) // no since
)

// Read is a bounded read of one source's history on one Doppler, to be
// answered with Hub.Answer.
type Read struct {
	Addr   string
	Source string
	Query  url.Values // of stream.PathHistory

	tail   *Tail
	leg    *leg
	serial uint64
	limit  int
}

// found is one envelope of history.
type found struct {
	offset  uint64
	matched uint64 // by class, this one included
	time    int64
	record  []byte
}

// entries are what one read has found, oldest first.
type entries []found

// page is an answer.
type page struct {
	entries entries
	all     int // entries before names were looked at
	bytes   int
	pos     *streampb.Position
	gap     uint64 // envelopes by class that are no more, before entries
	unsure  bool   // the gap is not exact
	reason  streampb.Gap_Reason
}

// readForward reads on from the leg's place.
func (h *Hub) readForward(t *Tail, g *leg) {
	q := url.Values{
		"epoch":   {strconv.FormatUint(g.epoch, 10)},
		"from":    {strconv.FormatUint(g.place.offset, 10)},
		"matched": {strconv.FormatUint(g.place.matched, 10)},
		"limit":   {strconv.Itoa(pageEnvelopes)},
	}
	g.until = g.join
	h.read(t, g, q, g.until.offset, pageEnvelopes)
}

// readNewest reads the newest before the place where the tail has joined, or
// before what was found so far. What came after it is read forward, later.
func (h *Hub) readNewest(t *Tail, g *leg) {
	to, limit := g.before, t.wanted()-g.have()
	if len(g.found) == 0 {
		to = g.place.offset
	}
	if t.filter.Names != nil {
		limit = pageEnvelopes // few of them may have the name
	}
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	if t.since != anyTime {
		q.Set("since", strconv.FormatInt(t.since, 10))
	}
	h.read(t, g, q, to, limit)
}

// have is the number of envelopes found so far.
func (g *leg) have() int {
	n := 0
	for _, e := range g.found {
		n += len(e)
	}
	return n
}

func (h *Hub) read(t *Tail, g *leg, q url.Values, to uint64, limit int) {
	l := h.links[g.doppler]
	if l == nil || l.addr == "" {
		t.failed(g)
		return
	}
	q.Set("to", strconv.FormatUint(to, 10))
	if t.filter.Mask != envelope.AllClasses {
		q["class"] = t.filter.Mask.Classes()
	}
	h.serial++
	g.serial = h.serial
	h.cfg.Read(Read{Addr: l.addr, Source: t.source.id, Query: q, tail: t, leg: g, serial: h.serial, limit: limit})
}

// Answer gives the body of the answer to a read, or why there is none. The
// Hub keeps parts of body for a while.
func (h *Hub) Answer(r Read, body []byte, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.squeeze()
	t, g := r.tail, r.leg
	if t.closed || g.serial != r.serial || !slices.Contains(t.legs, g) {
		return
	}
	g.serial = 0
	var p page
	if err == nil {
		p, err = t.parse(g, body)
	}
	if err != nil {
		h.log.Warn("history could not be read", "doppler", g.doppler, "source_id", t.source.id, "error", err)
		t.failed(g)
		return
	}
	g.fails = 0
	if g.want == wantNewest {
		t.newestFound(g, r, p)
	} else {
		t.pageFound(g, p)
	}
}

var errAnswer = errors.New("answer makes no sense")

// parse reads an answer for a leg.
func (t *Tail) parse(g *leg, body []byte) (page, error) {
	meta, records, err := stream.SplitBatch(body)
	if err != nil {
		return page{}, fmt.Errorf("read answer: %w", err)
	}
	var b streampb.Batch
	if err := stream.UnmarshalMeta(meta, &b); err != nil {
		return page{}, fmt.Errorf("read answer: %w", err)
	}
	pos := b.GetPosition()
	if pos.GetDoppler() != g.doppler || pos.GetEpoch() != g.epoch {
		return page{}, fmt.Errorf("%w: it is of %s, epoch %d", errAnswer, pos.GetDoppler(), pos.GetEpoch())
	}
	n := int(pos.GetCount())
	if d := len(pos.GetDeltas()); d != 0 && d != n-1 {
		return page{}, fmt.Errorf("%w: %d deltas for %d envelopes", errAnswer, d, n)
	}
	p := page{pos: pos, all: n, bytes: len(records), entries: make(entries, 0, min(n, len(records)/2))}
	for _, gap := range b.GetGaps() {
		p.gap += gap.GetCount()
		p.unsure = p.unsure || gap.GetPrecision() != streampb.Gap_EXACT
		p.reason = gap.GetReason()
	}
	offset := pos.GetFirst()
	for i := range n {
		env, rest, ok := envelope.Next(records)
		if !ok {
			return page{}, fmt.Errorf("%w: %d of %d envelopes", errAnswer, i, n)
		}
		if i > 0 {
			offset += delta(pos.GetDeltas(), i)
		}
		record := records[:len(records)-len(rest)]
		records = rest
		if t.filter.Names == nil || envelope.MatchName(env, t.filter.Names) {
			p.entries = append(p.entries, found{offset, pos.GetMatched() + uint64(i) + 1, envelope.Timestamp(env), record})
		}
	}
	return p, nil
}

// pageFound takes what a read forward has found.
func (t *Tail) pageFound(g *leg, p page) {
	if p.unsure && p.pos.GetNext() >= g.until.offset {
		p.countedBy(g.place, g.until)
	}
	end := place{p.pos.GetNext(), p.pos.GetMatched() + uint64(p.all)}
	switch {
	case end.offset <= g.place.offset:
		t.failed(g)
		return
	case p.all == 0 && p.unsure && end.offset >= g.join.offset:
		t.arrive(g)
		return
	case p.gap > 0 || p.unsure:
		t.tellHistoryGap(g, p, end)
	}
	end.offset = min(end.offset, g.join.offset)
	t.sendHistory(g, p.entries, &end)
	g.place, g.told = end, true
	t.advance(g)
}

// tellHistoryGap tells what lies between the leg's place and a page.
func (t *Tail) tellHistoryGap(g *leg, p page, end place) {
	to := end
	if p.all > 0 {
		to = place{p.pos.GetFirst(), p.pos.GetMatched()}
	}
	gap := &streampb.Gap{
		From: g.place.offset, To: to.offset, Count: p.gap, Reason: p.reason, Doppler: g.doppler, Epoch: g.epoch,
	}
	if p.unsure {
		gap.Precision, gap.Count = streampb.Gap_UNKNOWN, 0
	}
	t.vague(gap)
	t.enqueueSpec(&spec{
		doppler: g.doppler, epoch: g.epoch, first: to.offset, end: to.offset, matched: to.matched,
		placed: true, gaps: []*streampb.Gap{gap},
	})
}

// newestFound takes what a read of the newest has found.
func (t *Tail) newestFound(g *leg, r Read, p page) {
	g.found, g.before = append(g.found, p.entries), p.pos.GetFirst()
	bytes := 0
	for _, list := range g.found {
		for _, e := range list {
			bytes += len(e.record)
		}
	}
	cut := p.all > 0 && (p.all >= r.limit || p.bytes >= fullAnswer)
	if cut && g.have() < t.wanted() && bytes < historyBytes && len(g.found) < maxNewestReads {
		t.advance(g) // older ones
		return
	}
	g.state, g.since, g.cut = legDone, t.hub.now, cut
	t.newestDone(g)
}

// newestDone goes on when a leg has its newest.
func (t *Tail) newestDone(g *leg) {
	if t.gathering {
		t.gathered()
	} else {
		t.late(g)
	}
}

// sendNewest sends what a leg has of its newest without waiting for others.
func (t *Tail) sendNewest(g *leg) {
	if t.gathering {
		t.finishGather()
	} else {
		t.late(g)
	}
}

// entriesOf puts together what a leg has read, oldest first.
func (g *leg) entriesOf() entries {
	var all entries
	for _, e := range slices.Backward(g.found) {
		all = append(all, e...)
	}
	g.found = nil
	return all
}

// gathered ends the gathering when every leg has its newest.
func (t *Tail) gathered() {
	if !t.gathering {
		return
	}
	for _, g := range t.legs {
		if g.want == wantNewest && g.state != legDone && !g.isOver(t) {
			return
		}
	}
	t.finishGather()
}

// finishGather sends the newest of what the legs have found, merged by time.
// Legs that are not done follow on their own.
func (t *Tail) finishGather() {
	t.gathering = false
	var done []*leg
	var lists []entries
	for _, g := range t.legs {
		if g.state == legDone {
			done = append(done, g)
			lists = append(lists, g.entriesOf())
		}
	}
	order := merge(lists, t.limit, historyBytes)
	t.oldest, t.sent = anyTime, len(order)
	if len(order) > 0 {
		t.oldest = lists[order[0].list][order[0].index].time
	}
	for i, g := range done {
		t.tellLeftOut(g, len(lists[i])-ofList(order, i), len(order))
	}
	for len(order) > 0 {
		n := 1
		for n < len(order) && order[n].list == order[0].list {
			n++
		}
		first, last := order[0].index, order[n-1].index
		t.sendHistory(done[order[0].list], lists[order[0].list][first:last+1], nil)
		order = order[n:]
	}
	for _, g := range done {
		t.newestSent(g)
	}
}

// late sends the newest of a leg that was not done in time: what would have
// been among the newest of all.
func (t *Tail) late(g *leg) {
	list := g.entriesOf()
	all := len(list)
	for len(list) > 0 && t.sent+len(list) > t.limit && list[0].time < t.oldest {
		list = list[1:]
	}
	t.sent += len(list)
	t.tellLeftOut(g, all-len(list), t.sent)
	t.sendHistory(g, list, nil)
	t.newestSent(g)
}

// tellLeftOut tells a tail that n envelopes which were found, and older ones that
// were not looked for, are left out, unless it gets as many as it has asked for.
func (t *Tail) tellLeftOut(g *leg, n, gets int) {
	if n == 0 && !g.cut || !t.options.Whole && gets >= t.limit {
		return
	}
	gap := &streampb.Gap{Count: uint64(n), Reason: streampb.Gap_HISTORY_LIMIT, Doppler: g.doppler, Epoch: g.epoch}
	switch {
	case g.cut && n > 0:
		gap.Precision = streampb.Gap_AT_LEAST
	case g.cut:
		gap.Precision = streampb.Gap_UNKNOWN
	}
	t.enqueueSpec(&spec{doppler: g.doppler, epoch: g.epoch, gaps: []*streampb.Gap{gap}})
}

// ofList counts the entries of a list.
func ofList(order []at, list int) (n int) {
	for _, o := range order {
		if o.list == list {
			n++
		}
	}
	return n
}

// newestSent goes on to what came after the newest was read.
func (t *Tail) newestSent(g *leg) {
	g.want, g.state = wantAll, legReads
	t.advance(g)
}

// at names an entry of one of several lists.
type at struct{ list, index int }

// merge picks the newest entries of all lists and returns them oldest first,
// by time, but each list in its own order.
func merge(lists []entries, limit, maxBytes int) []at {
	left := make([]int, len(lists))
	for i := range lists {
		left[i] = len(lists[i])
	}
	var order []at
	for bytes := 0; len(order) < limit; {
		best := -1
		for i := range lists {
			if left[i] > 0 && (best < 0 || lists[i][left[i]-1].time > lists[best][left[best]-1].time) {
				best = i
			}
		}
		if best < 0 {
			break
		}
		left[best]--
		if bytes += len(lists[best][left[best]].record); bytes > maxBytes && len(order) > 0 {
			break
		}
		order = append(order, at{best, left[best]})
	}
	slices.Reverse(order)
	return order
}

// sendHistory puts entries into the tail's queue, in frames. end, unless nil,
// is where the last of them ends; with no entry left, it is told alone.
func (t *Tail) sendHistory(g *leg, list entries, end *place) {
	for len(list) > 0 || end != nil {
		n, size := 0, 0
		s := spec{doppler: g.doppler, epoch: g.epoch, placed: true}
		for ; n < len(list) && (n == 0 || size+len(list[n].record) <= historyFrame); n++ {
			if n > 0 {
				s.deltas = append(s.deltas, uint32(list[n].offset-list[n-1].offset))
			}
			size += len(list[n].record)
			s.records = append(s.records, list[n].record)
		}
		if n > 0 {
			s.first, s.end, s.matched = list[0].offset, list[n-1].offset+1, list[n-1].matched
		}
		if list = list[n:]; len(list) == 0 && end != nil {
			s.end, s.matched = end.offset, end.matched
			if n == 0 {
				s.first = end.offset
			}
			end = nil
		}
		s.deltas = compact(s.deltas)
		t.enqueueSpec(&s)
	}
}
