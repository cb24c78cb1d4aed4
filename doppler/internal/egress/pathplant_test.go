package egress

import (
	"net/url"
	"testing"
	"testing/synctest"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// spoilCursor makes a plant of what is done to the entries of a cursor that a
// Doppler is given.
func spoilCursor(do func(e *streampb.CursorEntry)) func(*pathWorld, url.Values) {
	return func(w *pathWorld, q url.Values) {
		if text := q.Get("cursor"); text != "" {
			q.Set("cursor", spoiled(w, text, do))
		}
	}
}

func spoiled(w *pathWorld, text string, do func(e *streampb.CursorEntry)) string {
	c, err := decodeCursor(text)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range c.GetEntries() {
		do(e)
	}
	return stream.EncodeCursor(c)
}

var pathPlants = []pathPlant{
	{name: "cursor one too far", query: spoilCursor(func(e *streampb.CursorEntry) { e.Offset++ })},
	{name: "cursor one back", query: spoilCursor(func(e *streampb.CursorEntry) {
		e.Offset = max(e.Offset, 1) - 1
		e.Matched = min(e.Matched, e.Offset)
	})},
	{name: "kept cursor one too far", kept: func(w *pathWorld, cursor string) string {
		if cursor == "" {
			return ""
		}
		return spoiled(w, cursor, func(e *streampb.CursorEntry) { e.Offset++ })
	}},
	{name: "counter of the cursor not restored", query: spoilCursor(func(e *streampb.CursorEntry) { e.Matched = 0 })},
	{name: "what was seen is forgotten", query: spoilCursor(func(e *streampb.CursorEntry) { e.Seen = 0 })},
	{name: "a fin is forgotten", query: spoilCursor(func(e *streampb.CursorEntry) { e.Finished = false })},
	{name: "a fin that never came", query: spoilCursor(func(e *streampb.CursorEntry) { e.Finished = true })},
	{name: "epochs are not told apart", query: spoilCursor(func(e *streampb.CursorEntry) { e.Epoch++ })},
	{name: "cursor not passed on", query: func(_ *pathWorld, q url.Values) { q.Del("cursor") }},
	{name: "Doppler found late read from its head", query: func(_ *pathWorld, q url.Values) {
		q.Del("start")
		q.Del("cursor")
	}},
	{name: "ack of an old epoch counts", control: func(_ *pathWorld, h *pathHop, c *streampb.Control) bool {
		if c.GetAck() != nil {
			c.GetAck().Epoch = h.epoch
		}
		return false
	}},
	{name: "ack of one too many", control: func(_ *pathWorld, _ *pathHop, c *streampb.Control) bool {
		for _, r := range c.GetAck().GetRanges() {
			r.Last++
		}
		return false
	}},
	{name: "every ack lost", control: func(_ *pathWorld, _ *pathHop, c *streampb.Control) bool { return c.GetAck() != nil }},
	{name: "Sent lost", control: func(_ *pathWorld, _ *pathHop, c *streampb.Control) bool { return c.GetSent() != nil }},
	{name: "Sent of what is not written", turn: func(w *pathWorld, h *pathHop, t *turn) {
		if t.waits && !h.client.acking {
			h.m.group.mu.Lock()
			h.m.group.signal(h.m.group.state.Sent(h.m.state, 1<<40))
			h.m.group.mu.Unlock()
		}
	}},
	{name: "gap not passed on", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) { b.Gaps = nil }},
	{name: "gap passed on twice", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) { b.Gaps = append(b.Gaps, b.Gaps...) }},
	{name: "gap one too short", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) {
		for _, g := range b.Gaps {
			g.To = max(g.To, 1) - 1
		}
	}},
	{name: "redelivery not marked", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) { b.Lease.Redelivered = false }},
	{name: "batch twice", twice: true},
	{name: "positions one off", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) { b.Position.First++ }},
	{name: "positions of another Doppler", batch: func(w *pathWorld, _ *pathHop, b *streampb.Batch) { b.Position.Doppler = w.nodes[0].name }},
	{name: "low mark too high", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) { b.Position.Low = b.Position.Next }},
	{name: "matches before low not counted", batch: func(_ *pathWorld, _ *pathHop, b *streampb.Batch) { b.Position.LowMatched /= 2 }},
	{name: "fin before the end", turn: func(_ *pathWorld, _ *pathHop, t *turn) { t.fin = true }},
	{name: "no fin", turn: func(_ *pathWorld, _ *pathHop, t *turn) { t.fin = false }},
	{name: "reader in two seats", turn: func(w *pathWorld, h *pathHop, _ *turn) {
		if w.chance(20) && !h.node.stopping {
			twin := &seat{server: h.node.server, wake: newWaker(), lose: func() {}}
			h.node.server.join(twin, firehoseQuery{shardID: "s", filter: w.filter.filter})
		}
	}},
}

// Each planted bug has to be found within a bounded number of histories: what the
// simulation checks means something.
func TestPlantedPathBugsAreFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, p := range pathPlants {
			found := uint64(0)
			for seed := uint64(1); seed <= plantSeeds && found == 0; seed++ {
				if len(runPath(t, seed, p)) > 0 {
					found = seed
				}
			}
			if found == 0 {
				t.Errorf("%s: not found in %d histories", p.name, plantSeeds)
			}
			t.Logf("%s: found with seed %d", p.name, found)
		}
	})
}

// plantSeeds is how many histories a planted bug may survive.
const plantSeeds = 500
