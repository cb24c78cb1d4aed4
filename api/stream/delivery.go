package stream

import (
	"sort"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Delivery is a batch of which somebody has to say when it is done with. Its
// exported fields are set before Receive and not changed after it.
type Delivery struct {
	Position    *streampb.Position // nil only when gaps come without one
	Gaps        []*streampb.Gap
	Redelivered bool

	mark      *mark // nil without a position
	acked     bool
	gapsAcked bool
	covered   covered
}

// Acks is what a Doppler is to be told, see AppendAck.
type Acks struct {
	Doppler string
	Epoch   uint64
	Ranges  []OffsetRange
}

// Len returns the number of envelopes.
func (d *Delivery) Len() int { return int(d.Position.GetCount()) }

// Offset returns the offset of envelope i.
func (d *Delivery) Offset(i int) uint64 {
	off, deltas := d.Position.GetFirst(), d.Position.GetDeltas()
	if len(deltas) == 0 {
		return off + uint64(i)
	}
	for _, delta := range deltas[:i] {
		off += uint64(delta)
	}
	return off
}

// Index returns the number of envelopes with offsets below off.
func (d *Delivery) Index(off uint64) int {
	return sort.Search(d.Len(), func(i int) bool { return d.Offset(i) >= off })
}

// Receive takes note of a batch that came over connection number link.
func (p *Place) Receive(d *Delivery, link int) {
	if d.Position != nil {
		d.mark = p.at(d.Position, link, true)
	}
}

// Ack says that the envelopes with indices [from, to) of a delivery are where
// they have to be, and its gaps with them. settled says that nothing of it is
// left to ack now.
func (p *Place) Ack(d *Delivery, from, to int) (settled bool) {
	if d.acked {
		return false
	}
	if !d.gapsAcked {
		d.gapsAcked = true
		p.ackGaps(d)
	}
	if to > from {
		p.ackEnvelopes(d, from, to)
	}
	if d.acked = d.covered.add(from, to, d.Len()); d.acked {
		p.settled(d)
	}
	return d.acked
}

// Consume says that the owner of a delivery has done with it, of which the
// server needs not hear.
func (p *Place) Consume(d *Delivery) (settled bool) {
	if d.acked {
		return false
	}
	d.acked = true
	if !p.tail && d.Len() > 0 {
		d.mark.ack(whole(d.Position, d.Redelivered))
	}
	p.settled(d)
	return true
}

// settled says that nothing of a delivery is left to ack.
func (p *Place) settled(d *Delivery) {
	d.covered = nil
	if d.mark != nil {
		p.done(d.mark, d.Position)
	}
	p.lose(d.Gaps, d.Position)
}

func (p *Place) ackEnvelopes(d *Delivery, from, to int) {
	pos := d.Position
	acked := whole(pos, d.Redelivered)
	acked.first, acked.last = d.Offset(from), d.Offset(to-1)
	acked.from, acked.to = pos.GetMatched()+uint64(from), pos.GetMatched()+uint64(to)
	p.owe(pos.GetDoppler(), pos.GetEpoch(), acked.first, acked.last)
	d.mark.ack(acked)
}

// whole is the span of all envelopes of a position, which has some.
func whole(pos *streampb.Position, redelivered bool) span {
	n := uint64(pos.GetCount())
	return span{
		first: pos.GetFirst(), last: lastOffset(pos), from: pos.GetMatched(), to: pos.GetMatched() + n,
		// What was handed out before comes again without what was acked of it.
		counted: !redelivered || len(pos.GetDeltas()) == 0,
	}
}

func (p *Place) ackGaps(d *Delivery) {
	for _, g := range d.Gaps {
		if g.GetTo() <= g.GetFrom() {
			continue // known to be told when it is in our socket
		}
		doppler, epoch := g.GetDoppler(), g.GetEpoch()
		if doppler == "" {
			doppler, epoch = d.Position.GetDoppler(), d.Position.GetEpoch()
		}
		p.owe(doppler, epoch, g.GetFrom(), g.GetTo()-1)
		if m := p.find(doppler, epoch); m != nil {
			m.ack(span{first: g.GetFrom(), last: g.GetTo() - 1})
		}
	}
}

// owe adds a range to what a Doppler is to be told.
func (p *Place) owe(doppler string, epoch, first, last uint64) {
	for i := range p.owed {
		a := &p.owed[i]
		if a.Doppler != doppler || a.Epoch != epoch {
			continue
		}
		if prev := &a.Ranges[len(a.Ranges)-1]; prev.Last+1 == first {
			prev.Last = last
		} else {
			a.Ranges = append(a.Ranges, OffsetRange{First: first, Last: last})
		}
		return
	}
	p.owed = append(p.owed, Acks{doppler, epoch, []OffsetRange{{First: first, Last: last}}})
}

// Owes tells whether there is something to tell a Doppler.
func (p *Place) Owes() bool { return len(p.owed) > 0 }

// TakeAcks returns what the Dopplers are to be told. It is the caller's, who
// tells them.
func (p *Place) TakeAcks() []Acks {
	owed := p.owed
	p.owed = nil
	return owed
}

// Reconnected adds everything that is acked and that no Doppler is known to
// have heard: what was told over an old connection may have got lost with it.
func (p *Place) Reconnected() {
	for _, marks := range p.dopplers {
		for _, m := range marks {
			for _, s := range m.acked {
				p.owe(m.doppler, m.epoch, s.first, s.last)
			}
		}
	}
}

// covered is what of a delivery is acked, as runs of indices [from, to), sorted.
type covered []struct{ from, to int }

// add adds a run and reports whether n indices are covered now.
func (c *covered) add(from, to, n int) bool {
	out := make(covered, 0, len(*c)+1)
	for _, r := range *c {
		if r.to < from || r.from > to {
			out = append(out, r)
			continue
		}
		from, to = min(from, r.from), max(to, r.to)
	}
	out = append(out, struct{ from, to int }{from, to})
	*c = out
	return from == 0 && to == n
}
