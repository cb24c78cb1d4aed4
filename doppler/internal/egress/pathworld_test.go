package egress

import (
	"fmt"
	"math/rand/v2"
	"net/url"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// pathWorld is the whole way of the Firehose of one subscription: Dopplers with
// the code of the server, Traffic Controllers and clients with the code by which
// they keep their place (stream.Place), and between them queues of encoded
// messages that a random history moves, cuts and loses. Time is that of a
// synctest bubble, in which one goroutine does everything.
type pathWorld struct {
	t         testing.TB
	rng       *rand.Rand
	selectors url.Values
	filter    firehoseQuery
	cfg       Config
	segment   int
	nodes     []*pathNode
	clients   []*pathClient
	ghosts    []*pathHop // that only their Doppler believes in
	epochs    uint64
	plant     pathPlant
	faults    []string
	trace     bool
}

// pathPlant is a bug between the machines; what is nil does nothing.
type pathPlant struct {
	name    string
	batch   func(w *pathWorld, h *pathHop, b *streampb.Batch) // of a grant, after it was checked
	twice   bool                                              // it comes again now and then
	control func(w *pathWorld, h *pathHop, c *streampb.Control) (lost bool)
	query   func(w *pathWorld, q url.Values) // of a dial to a Doppler
	kept    func(w *pathWorld, cursor string) string
	turn    func(w *pathWorld, h *pathHop, t *turn)
}

func newPathWorld(t testing.TB, seed uint64, plant pathPlant, trace bool) *pathWorld {
	w := &pathWorld{t: t, rng: rand.New(rand.NewPCG(seed, 7)), selectors: url.Values{}, plant: plant, trace: trace}
	switch w.rng.IntN(4) {
	case 0:
		w.selectors["type"] = []string{"log"}
	case 1:
		w.selectors["source_id"] = []string{"a", "c"}
	}
	q, err := parseFirehose(w.selectors)
	if err != nil {
		t.Fatal(err)
	}
	w.filter = q
	w.segment = 512 << w.rng.IntN(3)
	w.cfg = Config{
		Linger: 2 * time.Minute, WindowBytes: 500 << w.rng.IntN(4), AckTimeout: 30 * time.Second,
		MaxSubscriptions: 100,
	}
	for i := range 1 + w.rng.IntN(2) {
		w.nodes = append(w.nodes, &pathNode{name: fmt.Sprint("doppler-", i)})
		w.begin(w.nodes[i])
	}
	for i := range 1 + w.rng.IntN(3) {
		w.clients = append(w.clients, w.newClient(i))
	}
	return w
}

func (w *pathWorld) close() {
	for _, n := range w.nodes {
		if n.server != nil {
			w.end(n)
		}
	}
}

// fault notes what must not be.
func (w *pathWorld) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// does notes what happens, for a replay.
func (w *pathWorld) does(format string, args ...any) {
	if w.trace {
		w.t.Logf(format, args...)
	}
}

func (w *pathWorld) chance(n int) bool { return w.rng.IntN(n) == 0 }

// pick returns one of a list, or the zero value when there is none.
func pick[T any](w *pathWorld, list []T) (one T) {
	if len(list) > 0 {
		one = list[w.rng.IntN(len(list))]
	}
	return one
}

// hops are the connections between Traffic Controllers and Dopplers.
func (w *pathWorld) hops() (list []*pathHop) {
	for _, c := range w.clients {
		if c.conn != nil {
			list = append(list, c.conn.list()...)
		}
	}
	return list
}

// step does one thing.
func (w *pathWorld) step() {
	c := pick(w, w.clients)
	switch n := w.rng.IntN(100); {
	case n < 14:
		w.produce(pick(w, w.nodes))
	case n < 30:
		w.turn(pick(w, append(w.hops(), w.ghosts...)))
	case n < 42:
		w.relay(pick(w, w.hops()))
	case n < 52:
		w.writeOut(c.conn)
	case n < 62:
		w.receive(c)
	case n < 74:
		w.ack(c)
	case n < 82:
		w.listen(pick(w, w.hops()))
	case n < 86:
		w.dial(c)
	case n < 88:
		w.keep(c)
	default:
		w.trouble(c)
	}
}

// trouble lets something go wrong, or time go by.
func (w *pathWorld) trouble(c *pathClient) {
	switch n := w.rng.IntN(24); {
	case n < 7:
		w.pass(time.Duration(1+w.rng.IntN(20)) * time.Second)
	case n < 8:
		w.pass(3 * time.Minute)
	case n < 12:
		w.cutHop(pick(w, w.hops()))
	case n < 15:
		w.cutClient(c)
	case n < 17:
		w.kill(c)
	case n < 19:
		w.stop(pick(w, w.nodes))
	case n < 20:
		w.crash(pick(w, w.nodes))
	default:
		w.revive(pick(w, w.nodes))
	}
}

// pass lets time pass; a Doppler looks at its clock once a second.
func (w *pathWorld) pass(d time.Duration) {
	time.Sleep(d)
	w.does("%v go by", d)
	for _, n := range w.nodes {
		if n.server != nil {
			n.server.expire(time.Now())
			w.drain(n, false)
		}
	}
	w.forget()
	if d >= missedPong {
		w.notice()
	}
}

// missedPong is how long it takes a Doppler to notice that nobody is there.
const missedPong = 20 * time.Second

// forget ends the lives of groups that are no more.
func (w *pathWorld) forget() {
	for _, n := range w.nodes {
		if n.life != nil && (n.server == nil || n.server.groups[n.life.group.key] != n.life.group) {
			w.does("the group of %s/%d is gone", n.name, n.epoch)
			n.life = nil
		}
	}
}

// settle ends the history: everything is there again, is taken and acked.
func (w *pathWorld) settle() {
	for round := range 3 {
		for _, n := range w.nodes {
			w.revive(n)
		}
		for busy := true; busy && len(w.faults) == 0; {
			busy = false
			for _, c := range w.clients {
				busy = w.dial(c) || busy
				busy = w.ackAll(c) || busy
			}
			for _, h := range w.hops() {
				busy = w.turn(h) || busy
				busy = w.relay(h) || busy
				busy = w.listen(h) || busy
			}
			for _, c := range w.clients {
				busy = w.writeOut(c.conn) || busy
				busy = w.receive(c) || busy
			}
		}
		if round < 2 && len(w.faults) == 0 {
			w.pass(w.cfg.AckTimeout + time.Second) // for acks that got lost
		}
	}
	w.checkEnd()
}
