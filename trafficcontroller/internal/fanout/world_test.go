package fanout

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

// world is a Hub among Dopplers and clients, all of them state machines, that
// lives through a random history. A flaw is a bug planted from outside.
type world struct {
	*rand.Rand
	flaw  string
	skips bool // links leave out sources over their share
	keep  int  // newest envelopes of each source that Dopplers have, also if not held
	loud  bool // keeps a trace
	hub   *Hub
	now   time.Time
	nodes []*node
	tails []*client
	gone  []*client // closed, whose cursor may come again
	reads []Read
	made  int // envelopes
	fault error
	trace []string
}

// node is one Doppler address and what lives there.
type node struct {
	addr string
	name string
	d    *dopplertest.Doppler
	past []*dopplertest.Doppler // epochs that are over
	link *dopplertest.Link
	met  map[uint64]bool   // epochs the Hub has heard of
	fins map[uint64]bool   // epochs whose fin it has heard
	lost map[uint64]bool   // epochs it has given up
	up   bool              // the tail link is
	dead bool              // never comes back
	out  [][]byte          // on the way to the Hub
	in   []*streampb.Watch // on the way to the Doppler
}

const (
	sourcesOfWorld = 4
	tailBytes      = 6000
	allBytes       = 40000
)

func newWorld(seed uint64, flaw string) *world {
	w := &world{Rand: rand.New(rand.NewPCG(seed, 7)), flaw: flaw, skips: seed%2 == 1, keep: int(seed%3) * 4, now: time.Unix(1_700_000_000, 0)}
	hub, err := NewHub(Config{
		Name: "tc", TailBytes: tailBytes, AllBytes: allBytes, GatherWithin: 3 * time.Second, LostAfter: 30 * time.Second,
		Heartbeat: 5 * time.Second,
		Read:      func(r Read) { w.reads = append(w.reads, r) },
		Ready:     func(*Tail) {},
		End:       func(t *Tail, _ stream.CloseCode, why string) { w.fail("tail %d ended: %s", t.number, why) },
	}, w.now, slog.New(slog.DiscardHandler))
	if err != nil {
		w.fault = err
	}
	w.hub = hub
	for i := range 3 {
		w.addNode(fmt.Sprintf("d%d", i), i < 2)
	}
	return w
}

func (w *world) addNode(name string, known bool) {
	n := &node{addr: name + ":1", name: name, met: map[uint64]bool{}, fins: map[uint64]bool{}, lost: map[uint64]bool{}, d: &dopplertest.Doppler{Name: name, Epoch: 1 + w.Uint64N(3), Keep: w.keep}}
	w.nodes = append(w.nodes, n)
	if known {
		w.connect(n)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.fault == nil {
		w.fault = fmt.Errorf(format, args...)
	}
}

func (w *world) note(format string, args ...any) {
	if !w.loud {
		return
	}
	w.trace = append(w.trace, fmt.Sprintf(format, args...))
}

// step lets one thing happen.
func (w *world) step() {
	n := w.nodes[w.IntN(len(w.nodes))]
	switch k := w.IntN(100); {
	case k < 35:
		w.emit(n, 1+w.IntN(6))
	case k < 55:
		w.deliver(n)
	case k < 62:
		w.control(n)
	case k < 76:
		w.flushSome()
	case k < 84:
		w.answer(w.IntN(10) == 0)
	case k < 88:
		w.open()
	case k < 90:
		w.closeOne()
	case k < 92:
		w.breakLink(n)
	case k < 94:
		w.connect(n)
	case k < 95:
		w.restart(n, w.IntN(2) == 0)
	case k < 97:
		n.d.Evict(n.d.Oldest + w.Uint64N(12))
	case k < 98:
		if n.link != nil && w.skips {
			n.link.Skip = w.source(w.IntN(sourcesOfWorld + 1))
		}
	case k < 99 && w.IntN(3) == 0:
		w.remove(n)
	case w.IntN(20) == 0:
		w.tick(40 * time.Second)
	default:
		w.tick(time.Duration(w.IntN(1500)) * time.Millisecond)
	}
}

func (w *world) source(i int) string { return "app" + strconv.Itoa(i) }

func (w *world) emit(n *node, count int) {
	for range count {
		w.made++
		name := []string{"", "", "cpu", "mem"}[w.IntN(4)]
		n.d.Append(w.source(w.IntN(sourcesOfWorld)), name, fmt.Sprintf("%s-%d-%d", n.name, n.d.Epoch, w.made), int64(w.made))
	}
}

// produce lets the Doppler say what it has to on its link.
func (w *world) produce(n *node, limit int) bool {
	if !n.up {
		return false
	}
	msg, err := n.link.Next(limit)
	if err != nil {
		w.fail("doppler: %v", err)
	}
	if msg == nil {
		return false
	}
	n.out = append(n.out, msg)
	return true
}

// deliver lets the Hub have the next message of a link.
func (w *world) deliver(n *node) bool {
	w.produce(n, 1+w.IntN(8))
	if !n.up || len(n.out) == 0 {
		return false
	}
	msg := n.out[0]
	n.out = n.out[1:]
	meta, records, err := stream.SplitBatch(msg)
	var b streampb.Batch
	if err == nil {
		err = stream.UnmarshalMeta(meta, &b)
	}
	if err == nil {
		for _, f := range b.Fins {
			n.fins[f.Epoch] = true
		}
		w.spoilBatch(n, &b)
		w.note("%s: %v", n.name, &b)
		before, joins := w.countsBefore(n), w.joins()
		err = w.hub.Batch(n.addr, &b, append([]byte(nil), records...))
		w.spoilCounts(n, &b, before)
		w.spoilJoins(joins)
	}
	if err != nil {
		w.fail("hub refuses a batch of %s: %v", n.name, err)
	}
	return true
}

// control lets the Doppler have the next Watch.
func (w *world) control(n *node) bool {
	if !n.up {
		return false
	}
	if msg := w.hub.Watch(n.addr); msg != nil {
		w.spoilWatch(msg)
		n.in = append(n.in, msg)
	}
	if len(n.in) == 0 {
		return false
	}
	n.link.Watch(n.in[0])
	for _, a := range n.in[0].Add {
		for _, c := range w.tails {
			id := epochID{n.name, n.d.Epoch}
			if _, asked := c.asked[id]; !asked && c.source == a.SourceId {
				c.asked[id] = n.d.Head()
			}
		}
	}
	n.in = n.in[1:]
	return true
}

func (w *world) connect(n *node) {
	if n.up {
		return
	}
	n.link, n.out, n.in = n.d.NewLink(), nil, nil
	n.up, n.met[n.d.Epoch] = true, true
	w.note("connect %s epoch %d head %d", n.name, n.d.Epoch, n.d.Head())
	if err := w.hub.Connected(n.addr, n.d.Hello(), func() {}); err != nil {
		w.fail("connect %s: %v", n.name, err)
	}
}

func (w *world) breakLink(n *node) {
	if n.up {
		w.note("break %s", n.name)
		n.up, n.out, n.in = false, nil, nil
		w.hub.Disconnected(n.addr)
	}
}

// remove takes the Doppler's address away. It may come back at another.
func (w *world) remove(n *node) {
	w.breakLink(n)
	w.note("remove %s", n.name)
	w.hub.Removed(n.addr)
	if w.IntN(2) == 0 {
		n.addr += "'"
	}
}

// restart ends an epoch: with a fin, when everything was said, or without.
func (w *world) restart(n *node, orderly bool) {
	if orderly && n.up {
		w.fin(n)
	}
	w.breakLink(n)
	w.note("restart %s orderly %v at %d", n.name, orderly, n.d.Head())
	n.past = append(n.past, n.d)
	n.d = &dopplertest.Doppler{Name: n.name, Epoch: n.d.Epoch + 1 + w.Uint64N(3), Keep: w.keep}
}

// fin lets a Doppler say everything, and farewell.
func (w *world) fin(n *node) {
	for w.control(n) {
	}
	for w.produce(n, 100) {
	}
	for len(n.in) > 0 {
		w.control(n)
	}
	if msg, err := n.d.FinMessage(); err == nil && n.link.Drained() {
		n.out = append(n.out, msg)
	}
	for len(n.out) > 0 {
		w.deliver(n)
	}
}

// epoch finds a log that may be over.
func (w *world) epoch(doppler string, epoch uint64) *dopplertest.Doppler {
	for _, n := range w.nodes {
		if n.name != doppler {
			continue
		}
		for _, d := range append([]*dopplertest.Doppler{n.d}, n.past...) {
			if d.Epoch == epoch {
				return d
			}
		}
	}
	return nil
}

// cameBack tells whether an epoch may have been given up and found again.
func (w *world) cameBack(doppler string, epoch uint64) bool {
	for _, n := range w.nodes {
		if n.name == doppler {
			return n.lost[epoch]
		}
	}
	return false
}

// answer gives a pending read its answer, or an error.
func (w *world) answer(fails bool) bool {
	if len(w.reads) == 0 {
		return false
	}
	i := w.IntN(len(w.reads))
	r := w.reads[i]
	w.reads = append(w.reads[:i], w.reads[i+1:]...)
	w.spoilRead(&r)
	w.note("read of tail %d: %v fails %v", r.tail.number, r.Query, fails)
	for _, n := range w.nodes {
		if n.addr != r.Addr || n.dead {
			continue
		}
		body, err := n.d.History(r.Source, r.Query)
		if fails {
			body, err = nil, fmt.Errorf("no answer")
		}
		w.hub.Answer(r, body, err)
		return true
	}
	w.hub.Answer(r, nil, fmt.Errorf("nobody at %s", r.Addr))
	return true
}

func (w *world) open() {
	if len(w.tails) >= 8 {
		return
	}
	o := Options{Source: w.source(w.IntN(sourcesOfWorld)), Filter: w.filter()}
	var from *client
	switch w.IntN(4) {
	case 0:
		o.Newest = 1 + w.IntN(20)
	case 1:
		if len(w.gone) > 0 {
			i := w.IntN(len(w.gone))
			from = w.gone[i]
			w.gone = append(w.gone[:i], w.gone[i+1:]...)
			o.Source, o.Filter, o.Cursor = from.source, from.filter, from.cursor()
		}
	}
	c := newClient(w, o, from)
	w.note("open %d of %s, filter %q, newest %d, cursor %v", w.hub.last+1, o.Source, o.Filter, o.Newest, o.Cursor)
	for _, n := range w.nodes {
		if x := w.hub.links[n.name]; x != nil && x.epoch == n.d.Epoch && x.bySource[c.source] != nil && x.bySource[c.source].joined {
			c.asked[epochID{n.name, n.d.Epoch}] = n.d.Head()
		}
	}
	c.tail = w.hub.Open(nil, o)
	w.tails = append(w.tails, c)
}

func (w *world) filter() Filter {
	switch w.IntN(5) {
	case 0:
		return NewFilter(envelope.Mask(envelope.Log, envelope.ErrorLog), nil)
	case 1:
		return NewFilter(envelope.Mask(envelope.Counter), nil)
	case 2:
		return NewFilter(envelope.Mask(envelope.Counter, envelope.Gauge, envelope.ContainerGauge, envelope.Timer, envelope.HTTPTimer), []string{"cpu"})
	}
	return NewFilter(envelope.AllClasses, nil)
}

func (w *world) closeOne() {
	if len(w.tails) == 0 {
		return
	}
	i := w.IntN(len(w.tails))
	c := w.tails[i]
	w.note("close %d", c.tail.number)
	w.tails = append(w.tails[:i], w.tails[i+1:]...)
	c.tail.Close()
	c.tail.Close()
	if c.filter.Names == nil || w.IntN(2) == 0 {
		w.gone = append(w.gone, c)
	}
}

// flushSome lets a client read a part of what waits for it.
func (w *world) flushSome() {
	if len(w.tails) > 0 {
		w.flush(w.tails[w.IntN(len(w.tails))], int64(w.IntN(4000)))
	}
}

func (w *world) flush(c *client, limit int64) bool {
	taken := c.tail.q.take(nil, limit)
	if len(taken) == 0 {
		return false
	}
	m := maker{budget: w.hub.budget}
	for _, e := range taken {
		if e.lost != nil {
			if w.spoilLoss(e.lost) {
				continue
			}
			var err error
			if e.f, err = m.make(e.lost.spec(), nobody{}); err != nil {
				w.fail("loss: %v", err)
				return false
			}
		}
		c.receive(e.f.buf.Bytes())
		e.f.release()
	}
	c.tail.q.flushed()
	if c.tail.wants.Load() {
		if _, past := c.tail.q.level(); past == 0 && c.tail.wants.Swap(false) {
			w.hub.drained(c.tail)
		}
	}
	return true
}

func (w *world) tick(d time.Duration) {
	w.now = w.now.Add(d)
	w.hub.Tick(w.now)
	for _, n := range w.nodes {
		if l := w.hub.links[n.name]; l != nil && l.given {
			n.lost[l.epoch] = true
		}
	}
}

// arrive lets arrive what is under way between Dopplers and Hub, and reports
// whether there was something.
func (w *world) arrive() (busy bool) {
	for _, n := range w.nodes {
		for w.control(n) || w.deliver(n) {
			busy = true
		}
	}
	for w.answer(false) {
		busy = true
	}
	return busy
}

// stayAway makes some Dopplers that are away never come back.
func (w *world) stayAway(n *node) bool {
	l := w.hub.links[n.name]
	n.dead = !n.up && l != nil && w.IntN(2) == 0
	if n.dead {
		w.note("%s never comes back", n.name)
		if !l.finished {
			w.hub.Removed(n.addr)
		}
	}
	return n.dead
}

// settle lets everything that is under way arrive.
func (w *world) settle() {
	for _, n := range w.nodes {
		if w.stayAway(n) {
			continue
		}
		w.connect(n)
		n.link.Skip = ""
	}
	for busy, rounds := true, 0; busy && w.fault == nil; rounds++ {
		busy = w.arrive()
		for _, c := range w.tails {
			for w.flush(c, 1<<20) {
				busy = true
			}
		}
		if rounds < 40 {
			w.tick(time.Second)
			busy = true
		}
		if rounds > 10_000 {
			w.fail("never comes to rest")
		}
	}
}
