package egress

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// encodeCursor and decodeCursor are as of the SDK.
func encodeCursor(p *stream.Place) string {
	c := p.Cursor()
	if len(c.GetEntries()) == 0 {
		return ""
	}
	return stream.EncodeCursor(c)
}

func decodeCursor(s string) (*streampb.Cursor, error) {
	if s == "" {
		return &streampb.Cursor{}, nil
	}
	return stream.DecodeCursor(s)
}

// pathLife is the life of the subscription's group in one Doppler.
type pathLife struct {
	book     *pathBook
	group    *group
	from     uint64 // where it began
	seen     uint64 // of the cursor it was made from
	granted  map[uint64]bool
	settled  map[uint64]bool // the Doppler knows that it is acked
	unmarked map[uint64]bool // received without the mark of what may come again
	gaps     map[gapKey]*gapTold
	lossDue  bool // somebody came from an epoch that was lost
	lossTold bool
	leases   []pathLease
}

type gapKey struct {
	from, to, count uint64
	reason          streampb.Gap_Reason
	precision       streampb.Gap_Precision
}

type gapTold struct {
	grants, received int
	heard            bool // the Doppler knows, for sure, that a client has it
}

type pathLease struct {
	at   time.Time
	hop  *pathHop
	id   uint64
	offs []uint64
	gaps []gapKey
}

func keyOf(g *streampb.Gap) gapKey {
	return gapKey{g.GetFrom(), g.GetTo(), g.GetCount(), g.GetReason(), g.GetPrecision()}
}

// checkJoin takes note of a group that is new, and of what its first member has
// brought.
func (w *pathWorld) checkJoin(h *pathHop, q firehoseQuery) {
	n := h.node
	var here *streampb.CursorEntry
	elsewhere, lost := false, false
	for _, e := range q.cursor.GetEntries() {
		switch {
		case e.GetDoppler() != n.name:
			elsewhere = true
		case e.GetEpoch() == n.epoch:
			here = e
		default:
			elsewhere = true
			lost = lost || !e.GetFinished()
		}
	}
	if n.life == nil {
		from, _ := h.m.group.state.Low()
		n.life = &pathLife{
			book: n.book, group: h.m.group, from: from, seen: here.GetSeen(), granted: map[uint64]bool{}, settled: map[uint64]bool{},
			unmarked: map[uint64]bool{}, gaps: map[gapKey]*gapTold{},
		}
		w.checkStart(n, here, elsewhere || q.origin || n.server.young())
	}
	h.life = n.life
	h.life.lossDue = h.life.lossDue || lost && here == nil
}

// checkStart checks where a group begins: nothing of what its reader does not
// have is left out.
func (w *pathWorld) checkStart(n *pathNode, here *streampb.CursorEntry, origin bool) {
	b, from := n.book, n.life.from
	want := b.head()
	switch {
	case here != nil:
		want = here.GetOffset()
	case origin:
		want = 0
	}
	if from < want || b.matched(from) != b.matched(want) {
		w.fault("the group of %s/%d begins at %d, want %d", n.name, n.epoch, from, want)
	}
	if !b.begun || here == nil && !origin {
		b.begun, b.base = true, from // nobody was there before, or so they say
		return
	}
	if off, found := b.open(b.base, from); found {
		w.fault("the group of %s/%d begins at %d, and nobody has %d", n.name, n.epoch, from, off)
	}
}

// checkCursor: what lies before a cursor somebody has, or was told.
func (w *pathWorld) checkCursor(p *stream.Place, whose string) {
	for _, e := range p.Cursor().GetEntries() {
		for _, n := range w.nodes {
			if n.name != e.GetDoppler() || n.epoch != e.GetEpoch() || n.server == nil || !n.book.begun {
				continue
			}
			if e.GetOffset() > n.book.head() {
				w.fault("the cursor of %s is at %d, head %d", whose, e.GetOffset(), n.book.head())
				return
			}
			if off, found := n.book.open(n.book.base, e.GetOffset()); found {
				w.fault("the cursor of %s is at %d, and nobody has %d", whose, e.GetOffset(), off)
			}
			if want := n.book.matched(e.GetOffset()); e.GetMatched() != want {
				w.fault("the cursor of %s says %d lie before %d, there are %d", whose, e.GetMatched(), e.GetOffset(), want)
			}
		}
	}
}

// checkGrant looks at what the Doppler hands out.
func (w *pathWorld) checkGrant(h *pathHop, b *streampb.Batch) {
	life := h.life
	offs, err := stream.ParseOffsets(b.GetPosition(), int(b.GetPosition().GetCount()))
	if err != nil {
		w.fault("%v", err)
		return
	}
	lease := pathLease{at: time.Now(), hop: h, id: b.GetLease().GetId()}
	for off := range offs {
		switch {
		case !life.book.match[off]:
			w.fault("%d is handed out, which nobody has asked for", off)
		case off < life.from:
			w.fault("%d is handed out, from before the group", off)
		case life.settled[off]:
			w.fault("%d is handed out after its ack", off)
		case life.granted[off] && !b.GetLease().GetRedelivered():
			w.fault("%d is handed out again without a mark", off)
		}
		life.granted[off] = true
		lease.offs = append(lease.offs, off)
	}
	for _, g := range b.GetGaps() {
		key := keyOf(g)
		if life.gaps[key] == nil {
			life.gaps[key] = &gapTold{}
		}
		if life.gaps[key].heard {
			w.fault("a gap is told again after its ack: %v", g)
		}
		life.gaps[key].grants++
		lease.gaps = append(lease.gaps, key)
		if in := life.book.matched(key.to) - life.book.matched(key.from); key.precision == streampb.Gap_EXACT && key.count > in {
			w.fault("a gap counts %d of %d: %v", key.count, in, g)
		}
	}
	life.leases = append(life.leases, lease)
}

// checkControl takes note of what a Doppler hears.
func (w *pathWorld) checkControl(h *pathHop, c *streampb.Control) {
	life := h.life
	// What others may have by now is not this member's any more.
	late := func(l *pathLease) bool { return l.hop != h || time.Since(l.at) >= w.cfg.AckTimeout }
	if sent := c.GetSent(); sent != nil {
		for i := range life.leases {
			l := &life.leases[i]
			if late(l) || l.id > sent.GetLease() {
				continue
			}
			for _, off := range l.offs {
				life.settled[off] = life.settled[off] || !h.client.acking
			}
			for _, key := range l.gaps {
				if !h.client.acking || key.from == key.to && len(l.offs) == 0 {
					life.gaps[key].heard = true
				}
			}
		}
	}
	if c.GetAck().GetEpoch() != h.epoch {
		return
	}
	for _, r := range c.GetAck().GetRanges() {
		for off := r.GetFirst(); off <= r.GetLast() && off < life.book.head(); off++ {
			if life.book.match[off] && !life.book.acked[off] && !life.book.told[off] {
				w.fault("an ack of %d, which nobody has", off)
			}
			if life.granted[off] {
				life.settled[off] = true
			}
		}
		for i := range life.leases {
			l := &life.leases[i]
			for _, key := range l.gaps {
				if !late(l) && key.to > key.from && key.from >= r.GetFirst() && key.to-1 <= r.GetLast() {
					life.gaps[key].heard = true
				}
			}
		}
	}
}

// checkReceived looks at what a client gets.
func (w *pathWorld) checkReceived(msg *pathMessage, b *streampb.Batch, envelopes []byte) {
	life, p := msg.hop.life, b.GetPosition()
	var batch loggregatorv2.EnvelopeBatch
	if err := proto.Unmarshal(envelopes, &batch); err != nil {
		w.fault("envelopes: %v", err)
		return
	}
	offs, err := stream.ParseOffsets(p, len(batch.GetBatch()))
	if err != nil {
		w.fault("%v", err)
		return
	}
	i := 0
	for off := range offs {
		if id := fmt.Sprintf("%s/%d/%d", p.GetDoppler(), p.GetEpoch(), off); batch.GetBatch()[i].GetInstanceId() != id {
			w.fault("%s is said to be %s", batch.GetBatch()[i].GetInstanceId(), id)
		}
		i++
		if !b.GetLease().GetRedelivered() {
			if life.unmarked[off] || life.book.got[off] && off < life.seen {
				w.fault("%d comes again without a mark", off)
			}
			life.unmarked[off] = true
		}
		life.book.got[off] = true
	}
	for _, g := range b.GetGaps() {
		told := life.gaps[keyOf(g)]
		if told == nil {
			w.fault("a gap that no Doppler has told: %v", g)
			continue
		}
		if told.received++; told.received > told.grants {
			w.fault("a gap comes twice: %v", g)
		}
	}
}

// taken notes that a client has taken responsibility.
func (w *pathWorld) taken(life *pathLife, d *stream.Delivery, from, to int) {
	for i := from; i < to; i++ {
		life.book.acked[d.Offset(i)] = true
	}
	for _, g := range d.Gaps {
		for off := g.GetFrom(); off < g.GetTo(); off++ {
			life.book.told[off] = true
		}
	}
	w.lossTold(life, d.Gaps)
}

// lossTold notes that somebody knows of a lost epoch.
func (w *pathWorld) lossTold(life *pathLife, gaps []*streampb.Gap) {
	for _, g := range gaps {
		life.lossTold = life.lossTold || g.GetReason() == streampb.Gap_DOPPLER_LOST
	}
}

// checkEnd is the promise: accepted = acked + told as gaps, for everything that
// was accepted since the group began, and what was told is what is missing.
func (w *pathWorld) checkEnd() {
	if len(w.faults) > 0 {
		return
	}
	for _, n := range w.nodes {
		life := n.life
		where := fmt.Sprintf("%s/%d", n.name, n.epoch)
		if off, found := n.book.open(n.book.base, n.book.head()); found {
			w.fault("%s: %d was lost silently", where, off)
		}
		accepted := n.book.matched(n.book.head()) - n.book.matched(life.from)
		missed := uint64(0)
		for key := range life.gaps {
			missed += key.count
		}
		a := life.group.account()
		if a.InFlight+a.Again+a.Lag != 0 || a.Accepted != accepted || a.Dropped != missed || a.Acked+a.Dropped != accepted {
			w.fault("%s: %+v; %d were accepted, %d told as missed", where, a, accepted, missed)
		}
		if life.lossDue != life.lossTold {
			w.fault("%s: the loss of an epoch is due: %v, told: %v", where, life.lossDue, life.lossTold)
		}
	}
}
