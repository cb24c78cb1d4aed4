package fanout

import (
	"fmt"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"google.golang.org/protobuf/proto"
)

// client keeps account of what one tail is sent, and compares it with the
// logs.
type client struct {
	world  *world
	tail   *Tail
	source string
	filter Filter
	newest int
	from   map[epochID]account // where its cursor stood
	heads  map[epochID]uint64  // when it was opened
	asked  map[epochID]uint64  // head when the Doppler was asked to watch the source
	had    map[epochID]*account
	helloo bool
	past   bool // was asked for
	live   bool // was told that it has had it
}

type epochID struct {
	doppler string
	epoch   uint64
}

// account is what is known of one epoch.
type account struct {
	placed   bool
	next     uint64 // offset to come
	matched  uint64 // by class, before next
	got      map[uint64]bool
	gaps     [][2]uint64
	unknown  bool
	finished bool
	history  bool // has come from a cursor
	lost     bool // was told so, and had nothing since
}

func newClient(w *world, o Options, from *client) *client {
	c := &client{
		world: w, source: o.Source, filter: o.Filter, newest: o.Newest, past: o.Newest > 0 || o.Cursor != nil,
		from: map[epochID]account{}, heads: map[epochID]uint64{}, asked: map[epochID]uint64{}, had: map[epochID]*account{},
	}
	for _, n := range w.nodes {
		c.heads[epochID{n.name, n.d.Epoch}] = n.d.Head()
		for _, d := range n.past {
			c.heads[epochID{n.name, d.Epoch}] = d.Head()
		}
	}
	if o.Cursor != nil {
		for id, a := range from.had {
			if !a.placed {
				continue
			}
			c.from[id] = *a
			c.had[id] = &account{placed: true, next: a.next, matched: a.matched, got: map[uint64]bool{}, finished: a.finished, history: true}
		}
	}
	return c
}

// cursor is where the client stands.
func (c *client) cursor() *streampb.Cursor {
	cur := &streampb.Cursor{Version: 1}
	for id, a := range c.had {
		if a.placed {
			cur.Entries = append(cur.Entries, &streampb.CursorEntry{
				Doppler: id.doppler, Epoch: id.epoch, Offset: a.next, Matched: a.matched, Finished: a.finished,
			})
		}
	}
	return cur
}

func (c *client) account(doppler string, epoch uint64) *account {
	id := epochID{doppler, epoch}
	if c.had[id] == nil {
		c.had[id] = &account{got: map[uint64]bool{}}
	}
	return c.had[id]
}

func (c *client) fail(format string, args ...any) {
	c.world.fail("tail %d of %s %q: %s", c.tail.number, c.source, c.filter, fmt.Sprintf(format, args...))
}

// receive takes one message.
func (c *client) receive(msg []byte) {
	meta, records, err := stream.SplitBatch(msg)
	var b streampb.Batch
	if err == nil {
		err = stream.UnmarshalMeta(meta, &b)
	}
	if err != nil {
		c.fail("message: %v", err)
		return
	}
	c.world.note("tail %d gets %v", c.tail.number, &b)
	if b.Hello != nil {
		c.helloo = true
	} else if !c.helloo {
		c.fail("something before hello")
	}
	for _, g := range b.Gaps {
		a := c.account(g.Doppler, g.Epoch)
		c.gap(g)
		if lost := g.Reason == streampb.Gap_DOPPLER_LOST && g.Precision == streampb.Gap_UNKNOWN && g.To == 0; lost {
			if a.lost && !c.world.cameBack(g.Doppler, g.Epoch) {
				c.fail("%s/%d: told twice that it is lost", g.Doppler, g.Epoch)
			}
			a.lost = true
		}
		if g.Precision != streampb.Gap_EXACT {
			a.unknown = true
			continue
		}
		a.gaps = append(a.gaps, [2]uint64{g.From, g.To})
		a.matched += g.Count
	}
	if b.Position != nil {
		c.position(b.Position, records)
	}
	if len(b.Watching) > 0 {
		if !c.past || c.live {
			c.fail("told that history is over, asked for it: %v, told before: %v", c.past, c.live)
		}
		c.live = true
	}
	for _, f := range b.Fins {
		c.account(f.Doppler, f.Epoch).finished = true
	}
}

// gap checks that there is a reason for it.
func (c *client) gap(g *streampb.Gap) {
	id := epochID{g.Doppler, g.Epoch}
	_, known := c.from[id]
	for _, n := range c.world.nodes {
		if n.name == g.Doppler && g.Reason == streampb.Gap_DOPPLER_LOST && g.Precision == streampb.Gap_UNKNOWN && g.To == 0 &&
			n.fins[g.Epoch] && !n.lost[g.Epoch] && !known {
			c.fail("%s/%d: lost after a fin", g.Doppler, g.Epoch)
		}
	}
	d := c.world.epoch(g.Doppler, g.Epoch)
	if g.Reason == streampb.Gap_EVICTED && g.To > 0 && !c.world.skips && d != nil && g.From >= d.Oldest {
		c.fail("%s/%d: gap %d to %d, but %d is held", g.Doppler, g.Epoch, g.From, g.To, d.Oldest)
	}
}

func (c *client) position(p *streampb.Position, records []byte) {
	a := c.account(p.Doppler, p.Epoch)
	d := c.world.epoch(p.Doppler, p.Epoch)
	if d == nil {
		c.fail("of nobody: %v", p)
		return
	}
	count, err := stream.CountRecords(records)
	if err != nil || count != int(p.Count) {
		c.fail("%d envelopes in %v: %v", count, p, err)
		return
	}
	offsets, err := stream.ParseOffsets(p, count)
	if err != nil {
		c.fail("%v: %v", p, err)
		return
	}
	if c.filter.Names == nil && a.placed && !a.unknown && p.Matched != a.matched && !c.first(a) && !c.corrected(a, p) {
		c.fail("%s/%d: %d matched before %d, accounted for %d", p.Doppler, p.Epoch, p.Matched, p.First, a.matched)
	}
	for off := range offsets {
		env, rest, ok := envelope.Next(records)
		if !ok {
			c.fail("records end")
			return
		}
		records = rest
		c.envelope(a, d.Log[off].ID, p, off, env)
	}
	if p.Next < a.next && a.placed && p.Count == 0 && len(a.got) > 0 {
		c.fail("%s/%d: goes back from %d to %d", p.Doppler, p.Epoch, a.next, p.Next)
	}
	a.lost = false
	a.placed, a.next, a.matched = true, max(a.next, p.Next), p.Matched+uint64(p.Count)
}

// corrected tells whether a position says no more than that the tail has
// joined after envelopes that the link had not told as left out yet.
func (c *client) corrected(a *account, p *streampb.Position) bool {
	return c.world.skips && p.Count == 0 && len(a.got) == 0 && p.Matched > a.matched
}

// first tells whether the newest envelopes were read, before which nothing is
// owed.
func (c *client) first(a *account) bool { return c.newest > 0 && !a.history }

func (c *client) envelope(a *account, id string, p *streampb.Position, off uint64, raw []byte) {
	var e loggregatorv2.Envelope
	if err := proto.Unmarshal(raw, &e); err != nil {
		c.fail("envelope: %v", err)
		return
	}
	switch {
	case e.SourceId != c.source:
		c.fail("foreign envelope %s of %s", e.InstanceId, e.SourceId)
	case e.InstanceId != id:
		c.fail("%s/%d: offset %d is %s, got %s", p.Doppler, p.Epoch, off, id, e.InstanceId)
	case !c.wants(&e):
		c.fail("envelope %s does not match", e.InstanceId)
	case a.got[off]:
		c.fail("%s/%d: offset %d twice", p.Doppler, p.Epoch, off)
	case a.placed && off < a.next:
		c.fail("%s/%d: offset %d after %d", p.Doppler, p.Epoch, off, a.next)
	}
	a.got[off] = true
}

func (c *client) wants(e *loggregatorv2.Envelope) bool {
	class := envelope.Log
	if e.GetCounter() != nil {
		class = envelope.Counter
	}
	return c.matches(class, e.GetCounter().GetName())
}

func (c *client) matches(class envelope.Class, name string) bool {
	return c.filter.Mask.Has(class) && (c.filter.Names == nil || class == envelope.Counter && name == c.filter.Names[0])
}

// check compares, at the end, what the client had with what there was.
func (c *client) check() {
	if c.past && !c.live && (len(c.tail.legs) > 0 || len(c.had) > len(c.from)) {
		c.fail("not told that history is over")
	}
	for _, g := range c.tail.legs {
		if g.state == legReads {
			c.fail("history of %s never ends", g.doppler)
		}
	}
	for _, n := range c.world.nodes {
		c.checkEpoch(epochID{n.name, n.d.Epoch}, !n.dead)
		for _, d := range n.past {
			c.checkEpoch(epochID{n.name, d.Epoch}, false)
		}
	}
}

func (c *client) checkEpoch(id epochID, alive bool) {
	d := c.world.epoch(id.doppler, id.epoch)
	a := c.had[id]
	if a == nil {
		a = &account{}
	}
	start, owed := c.owedFrom(id, a, alive)
	if !owed {
		return
	}
	for _, e := range d.Log[min(start, d.Head()):] {
		if e.Source == c.source && c.matches(e.Class, e.Name) && !a.got[e.Offset] && !a.unknown && !a.inGap(e.Offset) {
			c.fail("%s/%d: offset %d (%s) is missing without a word, from %d of %d", id.doppler, id.epoch, e.Offset, e.ID, start, d.Head())
			return
		}
	}
	if c.filter.Names == nil && a.placed && !a.unknown && alive {
		if truth := d.Matching(c.source, c.filter.Mask, d.Head()); a.matched != truth {
			c.fail("%s/%d: accounted for %d of %d", id.doppler, id.epoch, a.matched, truth)
		}
	}
}

func (a *account) inGap(off uint64) bool {
	for _, g := range a.gaps {
		if g[0] <= off && off < g[1] {
			return true
		}
	}
	return false
}

// owedFrom is the offset from which the client has to be told of everything.
func (c *client) owedFrom(id epochID, a *account, alive bool) (uint64, bool) {
	if f, ok := c.from[id]; ok {
		return f.next, !f.finished || alive
	}
	met := false
	for _, n := range c.world.nodes {
		met = met || n.name == id.doppler && n.met[id.epoch]
	}
	_, existed := c.heads[id]
	head, asked := c.asked[id]
	switch {
	case !met:
		return 0, false // over before anybody knew
	case !existed:
		return 0, true // the epoch is younger than the tail
	case len(c.from) > 0:
		return 0, alive // its cursor does not know the epoch
	}
	return head, asked && (alive || a.placed)
}

// instanceID reads the id that a test has given an envelope.
func instanceID(raw []byte) string {
	var e loggregatorv2.Envelope
	if err := proto.Unmarshal(raw, &e); err != nil {
		return err.Error()
	}
	return e.InstanceId
}
