package fanout

import (
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Config is what a Hub needs. Every field has to be set.
type Config struct {
	Name         string        // of this Traffic Controller
	TailBytes    int64         // that one tail may hold
	AllBytes     int64         // that all tails may hold, shared frames counted once
	GatherWithin time.Duration // how long history of one Doppler waits for that of the others
	LostAfter    time.Duration // how long a Doppler may be away from the set before it is given up
	Heartbeat    time.Duration // longest silence on a tail; how often it is looked at
	Slow         slow.Policy
	SlowOld      slow.Policy // of tails of the old framing

	// Read is called with what a leg needs to know; the answer comes with
	// Hub.Answer. Ready is called when a tail that had nothing to write has
	// something. End is called when the Hub gives a tail up: its connection is to
	// be closed so. None of them may block or call back. A Pump has them.
	Read  func(Read)
	Ready func(*Tail)
	End   func(t *Tail, code stream.CloseCode, reason string)
}

// Hub joins links and tails. Its methods may run concurrently; none of them
// blocks for long.
type Hub struct {
	// static
	cfg    Config
	log    *slog.Logger
	budget *budget

	// guarded by mu
	mu      sync.Mutex
	now     time.Time
	maker   maker
	links   map[string]*link // by name of the Doppler
	sources map[string]*source
	tails   map[*Tail]struct{}
	joining map[*Tail]struct{} // that have legs
	hello   *frame
	spread  uint32 // that hello says
	beat    *frame
	beatAt  time.Time
	looked  time.Time // at how far tails are behind
	last    uint64    // number of a tail
	serial  uint64    // of a read
	runs    spec      // scratch

	received atomic.Uint64 // envelopes that came over links
}

// source is a watched source.
type source struct {
	id     string
	groups []*group
	bytes  atomic.Int64 // of the frames its tails hold
}

// group are the tails of a source with the same filter and framing. They share
// frames.
type group struct {
	source *source
	filter Filter
	old    bool // framing
	tails  []*Tail
}

func (g *group) eachTail(visit func(*Tail)) {
	for _, t := range g.tails {
		visit(t)
	}
}

func (g *group) share() *atomic.Int64 { return &g.source.bytes }

// everyTail are the holders of frames that go to any tail.
type everyTail struct{ hub *Hub }

func (e everyTail) eachTail(visit func(*Tail)) {
	for t := range e.hub.tails {
		visit(t)
	}
}

func (e everyTail) share() *atomic.Int64 { return nil }

// NewHub returns a Hub without links and tails.
func NewHub(cfg Config, now time.Time, log *slog.Logger) (*Hub, error) {
	h := &Hub{
		cfg: cfg, log: log, now: now, budget: &budget{limit: cfg.AllBytes},
		links: map[string]*link{}, sources: map[string]*source{},
		tails: map[*Tail]struct{}{}, joining: map[*Tail]struct{}{},
	}
	h.maker.budget, h.maker.now = h.budget, func() time.Time { return h.now }
	return h, h.makeHello(0)
}

// makeHello makes the hello of all tails that follow.
func (h *Hub) makeHello(spread uint32) error {
	f, err := h.maker.make(&spec{hello: &streampb.Hello{
		Version: stream.Version, Server: h.cfg.Name, HeartbeatMillis: uint32(h.cfg.Heartbeat.Milliseconds()), SpreadMillis: spread,
	}}, everyTail{h})
	if err != nil {
		return err
	}
	if h.hello != nil {
		h.hello.release()
	}
	h.hello, h.spread = f, spread
	return nil
}

// greet queues a hello. How long tails are to take to come back grows with
// their number; a power of two will do, so that few hellos are made.
func (h *Hub) greet(t *Tail) {
	if spread := stream.SpreadMillis(1 << bits.Len(uint(len(h.tails)))); spread != h.spread {
		if err := h.makeHello(spread); err != nil {
			h.log.Error("hello for tails", "error", err)
		}
	}
	t.enqueue(h.hello)
}

// ErrSameDoppler says that a Doppler is linked already, at another address.
var ErrSameDoppler = errors.New("the same Doppler is linked at another address")

// Connected says that the Doppler at addr has said hello on a new tail link.
// wake is called, and must not block or call back, when Watch has something to
// send.
func (h *Hub) Connected(addr string, hello *streampb.Hello, wake func()) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.squeeze()
	name := hello.GetServer()
	if name == "" || hello.GetEpoch() == 0 {
		return fmt.Errorf("%w: hello without name or epoch", errMalformed)
	}
	l := h.links[name]
	if l != nil && l.up && l.addr != addr {
		return fmt.Errorf("%w: %s is %s", ErrSameDoppler, name, l.addr)
	}
	if o := h.at(addr); o != nil && o != l {
		o.gone, o.addr = h.now, "" // another one lives there now
	}
	if l == nil {
		l = newLink(name, h)
		h.links[name] = l
	}
	gone := l.given || l.finished && l.epoch == hello.GetEpoch()
	for _, s := range h.sources {
		if l.bySource[s.id] == nil {
			l.watch(s)
		}
	}
	l.connected(hello, addr, wake)
	if gone {
		h.found(l)
	}
	return nil
}

// found lets the tails that came while a Doppler was thought to be gone for good
// join it.
func (h *Hub) found(l *link) {
	for _, w := range l.bySource {
		if !w.joined {
			continue
		}
		for _, g := range w.source.groups {
			for _, t := range g.tails {
				if t.waitsFor(l) {
					t.join(l, place{l.next, w.counts.of(g.filter.Mask)}, false)
				}
			}
		}
	}
}

// Watch returns the next message to send to the Doppler at addr, or nil.
func (h *Hub) Watch(addr string) *streampb.Watch {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.at(addr); l != nil {
		return l.take()
	}
	return nil
}

// Batch takes a message of the Doppler at addr, its metadata decoded. Neither
// part is kept. The error means that the connection is to be ended.
func (h *Hub) Batch(addr string, b *streampb.Batch, records []byte) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.squeeze()
	l := h.at(addr)
	if l == nil || !l.up {
		return fmt.Errorf("%w: before hello", errMalformed)
	}
	h.received.Add(uint64(b.GetPosition().GetCount()))
	return l.batch(b, records)
}

// Disconnected says that the tail link to addr is gone. It will be back, with
// Connected, unless Removed is called.
func (h *Hub) Disconnected(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.at(addr); l != nil && l.up {
		l.disconnected()
		l.left = h.now
	}
}

// Removed says that addr is no Doppler any more. Should the one that was there
// not come back at another address, its tails are told.
func (h *Hub) Removed(addr string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if l := h.at(addr); l != nil {
		l.gone = h.now
	}
}

func (h *Hub) at(addr string) *link {
	for _, l := range h.links {
		if l.addr == addr && addr != "" {
			return l
		}
	}
	return nil
}

// Open adds a tail that writes to conn. Close has to follow.
func (h *Hub) Open(conn Conn, o Options) *Tail {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.squeeze()
	h.last++
	t := newTail(h, conn, o)
	h.tails[t] = struct{}{}
	s := h.sources[o.Source]
	if s == nil {
		s = &source{id: o.Source}
		h.sources[o.Source] = s
		for _, l := range h.links {
			if !l.given {
				l.watch(s)
			}
		}
	}
	t.source = s
	t.group = s.group(t.filter, o.Old)
	t.group.tails = append(t.group.tails, t)
	if !o.Old {
		h.greet(t)
	}
	h.joining[t] = struct{}{}
	t.gathering = t.newest()
	for _, l := range h.links {
		if !l.given {
			t.newLeg(l.name)
		}
	}
	for name := range t.cursor {
		if t.leg(name) == nil {
			t.newLeg(name)
		}
	}
	for _, l := range h.links {
		if w := l.bySource[s.id]; w != nil && w.joined && !l.given && (t.cursor != nil || !h.isOver(l.name)) {
			t.join(l, place{l.next, w.counts.of(t.filter.Mask)}, false)
		}
	}
	t.gathered()
	t.endPast()
	if len(t.legs) == 0 {
		delete(h.joining, t)
	}
	return t
}

// group finds or makes the group of a filter and a framing.
func (s *source) group(f Filter, old bool) *group {
	key := f.key()
	for _, g := range s.groups {
		if g.old == old && g.filter.key() == key {
			return g
		}
	}
	g := &group{source: s, filter: f, old: old}
	s.groups = append(s.groups, g)
	return g
}

// Close takes the tail out. It may be called again.
func (t *Tail) Close() {
	h := t.hub
	h.mu.Lock()
	defer h.mu.Unlock()
	if t.closed {
		return
	}
	t.closed = true
	for len(t.legs) > 0 {
		t.removeLeg(t.legs[0])
	}
	t.q.close()
	delete(h.tails, t)
	delete(h.joining, t)
	t.group.tails = remove(t.group.tails, t)
	if len(t.group.tails) > 0 {
		return
	}
	s := t.source
	s.groups = remove(s.groups, t.group)
	if len(s.groups) > 0 {
		return
	}
	delete(h.sources, s.id)
	for _, l := range h.links {
		l.unwatch(s)
		h.forget(l)
	}
}

// isLost tells whether a Doppler is nowhere to be found, or has said farewell.
func (h *Hub) isLost(name string) bool {
	l := h.links[name]
	return l == nil || l.given || h.isOver(name)
}

// isAway tells whether a Doppler is not there but may come back with the same
// epoch.
func (h *Hub) isAway(name string) bool {
	l := h.links[name]
	return l != nil && !l.up && !l.finished && !l.given
}

// isOver tells whether a Doppler has said farewell and is not there.
func (h *Hub) isOver(name string) bool {
	l := h.links[name]
	return l != nil && !l.up && l.finished
}

// forget lets go of a link that was given up and has no tails left.
func (h *Hub) forget(l *link) {
	if l.given && !l.up && len(l.watches) == 0 {
		delete(h.links, l.name)
	}
}

func remove[T comparable](list []T, v T) []T {
	for i, o := range list {
		if o == v {
			last := len(list) - 1
			list[i] = list[last]
			clear(list[last:])
			return list[:last]
		}
	}
	return list
}

// maxSpared bounds what looking for a frame to drop may cost.
const maxSpared = 10_000

// squeeze drops the oldest frames while tails hold more than all of them may. But
// those of a source that is under its fair share count as new: it is not they that
// are too much. mu is held.
func (h *Hub) squeeze() {
	spared := 0
	for f := h.budget.oldest(); f != nil; f = h.budget.oldest() {
		if spared < maxSpared && h.isSpared(f) {
			spared++
			h.budget.list(f)
		} else {
			f.holders.eachTail(func(t *Tail) { t.dropFrame(f) })
		}
		f.release()
	}
}

func (h *Hub) isSpared(f *frame) bool {
	return f.share != nil && f.share.Load() <= h.cfg.AllBytes/int64(max(len(h.sources), 1))
}

// Tick lets time pass: what has waited too long goes on without. It is to be
// called a few times a second.
func (h *Hub) Tick(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.squeeze()
	h.now = now
	for t := range h.joining {
		t.tick()
	}
	for _, l := range h.links {
		if !l.gone.IsZero() && !l.up && !l.given && now.Sub(l.gone) >= h.cfg.LostAfter {
			for t := range h.joining {
				if g := t.leg(l.name); g != nil {
					g.willBeTold(l)
				}
			}
			l.giveUp()
			h.forget(l)
		}
	}
	h.heartbeat()
	if now.Sub(h.looked) >= h.cfg.Heartbeat {
		h.looked = now
		for t := range h.tails {
			t.look()
		}
	}
}

// heartbeat gives a sign of life to tails that have had nothing for a while.
func (h *Hub) heartbeat() {
	if h.now.Sub(h.beatAt) < h.cfg.Heartbeat/5 {
		return
	}
	h.beatAt = h.now
	if h.beat != nil {
		h.beat.release()
		h.beat = nil
	}
	before := h.now.Add(-h.cfg.Heartbeat * 4 / 5).UnixNano()
	for t := range h.tails {
		if t.options.Old || t.wrote.Load() > before {
			continue
		}
		if h.beat == nil {
			var err error
			h.beat, err = h.maker.make(&spec{beat: &streampb.Heartbeat{
				Timestamp: h.now.UnixNano(), Accepted: h.received.Load(), Dropped: h.budget.dropped.Load(),
			}}, everyTail{h})
			if err != nil {
				h.log.Error("heartbeat for tails", "error", err)
				return
			}
		}
		t.enqueueIdle(h.beat)
	}
}

// drained says that the tail has had the history that was read.
func (h *Hub) drained(t *Tail) {
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.squeeze()
	if t.closed {
		return
	}
	for _, g := range append([]*leg(nil), t.legs...) {
		t.advance(g)
	}
}

// Stats are the Hub's totals.
type Stats struct {
	Received uint64 // envelopes that came over tail links
	Dropped  uint64 // envelopes that slow tails were told they miss
	Tails    int
	Sources  int
	Links    int   // that are up
	Bytes    int64 // held for tails
}

// Stats may be called at any time.
func (h *Hub) Stats() Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := Stats{
		Received: h.received.Load(), Dropped: h.budget.dropped.Load(),
		Tails: len(h.tails), Sources: len(h.sources), Bytes: h.budget.used.Load(),
	}
	for _, l := range h.links {
		if l.up {
			s.Links++
		}
	}
	return s
}
