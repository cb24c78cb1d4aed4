package egress

import (
	"fmt"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// pathNode is a Doppler: at any time one life of it, or none.
type pathNode struct {
	name     string
	epoch    uint64
	log      *ring.Ring // nil between two lives
	server   *Server
	book     *pathBook
	life     *pathLife // of the subscription's group; nil when there is none
	stopping bool
	orderly  bool // it stops, and everybody has everything
}

// pathBook is what became of the envelopes of an epoch, by offset.
type pathBook struct {
	match  []bool
	acked  []bool // a client has taken responsibility
	told   []bool // a client has taken a gap that has it
	got    []bool // a client has received it
	before []uint64
	begun  bool   // the subscription was here
	base   uint64 // from here on
}

func (b *pathBook) head() uint64 { return uint64(len(b.match)) }

// matched is how many envelopes of the stream lie below off.
func (b *pathBook) matched(off uint64) uint64 {
	if off == b.head() {
		n := uint64(0)
		if off > 0 {
			n = b.before[off-1]
			if b.match[off-1] {
				n++
			}
		}
		return n
	}
	return b.before[off]
}

// open returns the first offset of the stream in [from, to) that nobody has
// taken and of which nobody was told.
func (b *pathBook) open(from, to uint64) (off uint64, found bool) {
	for off := from; off < to; off++ {
		if b.match[off] && !b.acked[off] && !b.told[off] {
			return off, true
		}
	}
	return 0, false
}

// begin starts the next life of a Doppler.
func (w *pathWorld) begin(n *pathNode) {
	w.epochs++
	n.epoch, n.book, n.stopping, n.orderly = w.epochs, &pathBook{}, false, false
	cfg := w.cfg
	cfg.Doppler, cfg.Epoch = n.name, n.epoch
	var err error
	n.log, err = ring.New(ring.Config{
		SegmentBytes: w.segment, Bytes: (3 + w.rng.Int64N(4)) * int64(w.segment+16*max(w.segment/128, 16)),
		BeforeEvict: func(c ring.Chunk) { n.server.BeforeEvict(c) },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	log := n.log
	n.server = New(log, noRecent{}, cfg, slog.New(slog.DiscardHandler), func() (uint64, uint64) { return log.Head(), 0 })
	w.does("%s begins epoch %d", n.name, n.epoch)
}

// end is the end of a life, however it came.
func (w *pathWorld) end(n *pathNode) {
	for _, h := range append(w.hops(), w.ghosts...) {
		if h.node == n && h.epoch == n.epoch {
			w.hangUp(h)
		}
	}
	for _, g := range n.server.groups {
		g.state.Close()
	}
	n.log.Close()
	n.log, n.server, n.life = nil, nil, nil
}

// produce appends a few envelopes.
func (w *pathWorld) produce(n *pathNode) {
	if n.server == nil || n.stopping {
		return
	}
	for range 1 + w.rng.IntN(6) {
		source := string(rune('a' + w.rng.IntN(4)))
		e := &loggregatorv2.Envelope{SourceId: source, InstanceId: fmt.Sprintf("%s/%d/%d", n.name, n.epoch, n.book.head())}
		if w.chance(2) {
			e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: make([]byte, w.rng.IntN(60))}}
		} else {
			e.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "c", Delta: 1}}
		}
		msg, err := proto.Marshal(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{e}})
		if err != nil {
			w.t.Fatal(err)
		}
		recs, _ := envelope.ScanBatch(msg, envelope.Limits{}, nil)
		n.log.Append(msg, recs)
		b := n.book
		before := b.matched(b.head())
		match := false
		for _, s := range w.filter.filter {
			match = match || s.Matches(recs[0].Class, source, nil)
		}
		b.before = append(b.before, before)
		b.match, b.acked = append(b.match, match), append(b.acked, false)
		b.told, b.got = append(b.told, false), append(b.got, false)
	}
	n.server.wake()
	n.log.EvictAhead()
	w.does("%s has %d, oldest %d", n.name, n.book.head(), n.log.Oldest())
}

// stop is SIGTERM: nothing more is taken in.
func (w *pathWorld) stop(n *pathNode) {
	if n.server == nil || n.stopping {
		return
	}
	n.stopping = true
	w.does("%s stops", n.name)
	w.drain(n, false)
}

// drain is what Server.Drain does when it looks. Grace that is over ends it in
// any case.
func (w *pathWorld) drain(n *pathNode, over bool) {
	if !n.stopping || !over && !n.server.drained() || n.server.finished.Load() {
		return
	}
	n.orderly = n.server.drained()
	w.does("%s says goodbye, drained %v", n.name, n.orderly)
	n.server.draining.Store(true)
	n.server.finished.Store(true)
	n.server.wakeAll()
	for _, h := range append(w.hops(), w.ghosts...) {
		for h.node == n && h.epoch == n.epoch && !h.closed {
			w.turn(h)
		}
	}
	w.end(n)
}

// crash is SIGKILL.
func (w *pathWorld) crash(n *pathNode) {
	if n.server != nil {
		w.does("%s/%d is killed", n.name, n.epoch)
		for _, h := range w.hops() {
			if h.node == n && h.epoch == n.epoch {
				h.down = h.down[:w.rng.IntN(len(h.down)+1)] // the rest was with it
			}
		}
		w.end(n)
	}
}

// revive ends a drain whose grace is over, or starts what has ended.
func (w *pathWorld) revive(n *pathNode) {
	if n.server != nil {
		w.drain(n, true)
	}
	if n.server == nil {
		w.begin(n)
	}
}

// fin checks a last word: whatever the group had is taken, or told.
func (w *pathWorld) fin(n *pathNode) *streampb.Batch {
	if n.life != nil {
		if off, found := n.book.open(n.life.from, n.book.head()); found {
			w.fault("%s/%d says fin, and nobody has %d", n.name, n.epoch, off)
		}
	}
	return &streampb.Batch{Fins: []*streampb.Fin{n.server.fin()}}
}
