package fanout

import (
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Bugs that a history has to find. Each is what a forgotten line in the
// package would do.
var flaws = []string{
	"answer to a resumed watch is not compared",
	"resume one offset early",
	"gap is not counted",
	"gap of a link is dropped",
	"gap of a link ends early",
	"loss of a queue is not told",
	"loss of a queue is told one short",
	"history ends one late",
	"history ends one early",
	"history forgets what was had",
	"letting go does not move the join",
	"fin is dropped",
	"envelopes go to another watch",
	"watch is forgotten",
}

func (w *world) spoilWatch(msg *streampb.Watch) {
	switch w.flaw {
	case "resume one offset early":
		if msg.Start.GetOffset() > 0 {
			msg.Start.Offset--
		}
	case "watch is forgotten":
		if len(msg.Add) > 1 {
			msg.Add = msg.Add[1:]
		}
	}
}

func (w *world) spoilBatch(n *node, b *streampb.Batch) {
	switch w.flaw {
	case "answer to a resumed watch is not compared":
		for _, a := range b.Watching {
			if x := w.hub.links[n.name].watches[a.Watch]; x != nil && x.joined {
				a.ClassCounts = append([]uint64(nil), x.counts[:]...)
			}
		}
	case "gap of a link is dropped":
		b.Gaps = nil
	case "gap of a link ends early":
		for _, g := range b.Gaps {
			g.To = (g.From + g.To) / 2
		}
	case "fin is dropped":
		b.Fins = nil
	case "envelopes go to another watch":
		if p := b.GetPosition(); len(p.GetWatches()) > 1 {
			p.Watches[1] = p.Watches[0]
		}
	}
}

func (w *world) countsBefore(n *node) map[uint32]counts {
	if w.flaw != "gap is not counted" {
		return nil
	}
	before := map[uint32]counts{}
	for id, x := range w.hub.links[n.name].watches {
		before[id] = x.counts
	}
	return before
}

func (w *world) spoilCounts(n *node, b *streampb.Batch, before map[uint32]counts) {
	if w.flaw != "gap is not counted" {
		return
	}
	for _, g := range b.Gaps {
		x := w.hub.links[n.name].bySource[g.SourceId]
		if x == nil || !x.joined {
			continue
		}
		if _, ok := before[x.id]; ok {
			for c, k := range g.ClassCounts {
				x.counts[c] -= min(k, x.counts[c])
			}
		}
	}
}

// spoilLoss tells whether a loss is kept quiet.
func (w *world) spoilLoss(lost *loss) bool {
	if w.flaw == "loss of a queue is told one short" && len(lost.gaps) > 0 {
		lost.gaps[0].Count--
	}
	return w.flaw == "loss of a queue is not told"
}

func (w *world) spoilRead(r *Read) {
	switch w.flaw {
	case "history ends one late":
		r.Query.Set("to", "9999999999")
	case "history ends one early":
		if to := r.Query.Get("to"); r.Query.Has("from") && to != r.Query.Get("from") {
			r.Query.Set("to", r.Query.Get("from"))
		}
	case "history forgets what was had":
		r.Query.Set("matched", "0")
	}
}

// joins remembers where held frames begin.
func (w *world) joins() map[*leg]place {
	if w.flaw != "letting go does not move the join" {
		return nil
	}
	at := map[*leg]place{}
	for t := range w.hub.joining {
		for _, g := range t.legs {
			if g.state == legReads {
				at[g] = g.join
			}
		}
	}
	return at
}

func (w *world) spoilJoins(before map[*leg]place) {
	for t := range w.hub.joining {
		for _, g := range t.legs {
			if at, ok := before[g]; ok && g.state == legReads {
				g.join = at
			}
		}
	}
}
