package dopplertest

import (
	"slices"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Group is a subscription group: leases of a few envelopes, handed out in
// order, and again when their member has left.
type Group struct {
	doppler *Doppler
	wanted  []envelope.Selector // one is enough
	next    uint64
	matched uint64
	leases  []*lease // not acked, oldest first
}

type lease struct {
	found   []Envelope
	matched uint64
	member  *Member
	id      uint64
	again   bool
}

// Member is one connection of a group.
type Member struct {
	group  *Group
	acking bool
	leases uint64
}

// NewGroup makes a group that begins at an offset.
func (d *Doppler) NewGroup(wanted []envelope.Selector, from uint64) *Group {
	g := &Group{doppler: d, wanted: wanted, next: from}
	for _, e := range d.Log[:from] {
		if g.wants(e) {
			g.matched++
		}
	}
	return g
}

func (g *Group) wants(e Envelope) bool {
	return slices.ContainsFunc(g.wanted, func(s envelope.Selector) bool { return s.Matches(e.Class, e.Source, e.Raw) })
}

// Join adds a member; acking says that the client itself acks.
func (g *Group) Join(acking bool) *Member { return &Member{group: g, acking: acking} }

// Leave takes a member out; what it has not acked goes to others.
func (m *Member) Leave() {
	for _, l := range m.group.leases {
		if l.member == m {
			l.member, l.again = nil, true
		}
	}
}

// Hello is the first message to the member.
func (m *Member) Hello() ([]byte, error) {
	g := m.group
	low, matched := g.low()
	d := g.doppler
	return stream.AppendBatchMeta(nil, &streampb.Batch{Hello: d.Hello(), Position: &streampb.Position{
		Doppler: d.Name, Epoch: d.Epoch, First: low, Next: low, Matched: matched, Low: low, LowMatched: matched,
	}})
}

func (g *Group) low() (offset, matched uint64) {
	if len(g.leases) > 0 {
		return g.leases[0].found[0].Offset, g.leases[0].matched
	}
	return g.next, g.matched
}

// Next returns the next lease of at most limit envelopes as a message, or nil.
func (m *Member) Next(limit int) ([]byte, error) {
	l := m.group.grant(limit)
	if l == nil {
		return nil, nil
	}
	m.leases++
	l.member, l.id = m, m.leases
	low, lowMatched := m.group.low()
	b := &streampb.Batch{
		Position: &streampb.Position{Next: m.group.next, Matched: l.matched, Low: low, LowMatched: lowMatched},
		Lease:    &streampb.Lease{Id: l.id, Redelivered: l.again},
	}
	return m.group.doppler.encode(b, l.found)
}

func (g *Group) grant(limit int) *lease {
	for _, l := range g.leases {
		if l.member == nil {
			return l
		}
	}
	l := &lease{matched: g.matched}
	for g.next < g.doppler.Head() && len(l.found) < limit {
		if e := g.doppler.Log[g.next]; g.wants(e) {
			l.found = append(l.found, e)
			g.matched++
		}
		g.next++
	}
	if len(l.found) == 0 {
		return nil
	}
	g.leases = append(g.leases, l)
	return l
}

// Take takes what the client says.
func (m *Member) Take(c *streampb.Control) {
	sent, ack := c.GetSent(), c.GetAck()
	var open []*lease
	for _, l := range m.group.leases {
		acked := !m.acking && sent != nil && l.member == m && l.id <= sent.GetLease()
		for _, r := range ack.GetRanges() {
			first, last := l.found[0].Offset, l.found[len(l.found)-1].Offset
			acked = acked || ack.GetEpoch() == m.group.doppler.Epoch && r.GetFirst() <= first && last <= r.GetLast()
		}
		if !acked {
			open = append(open, l)
		}
	}
	m.group.leases = open
}

// Open is the number of envelopes that are handed out and not acked.
func (g *Group) Open() int {
	n := 0
	for _, l := range g.leases {
		n += len(l.found)
	}
	return n
}
