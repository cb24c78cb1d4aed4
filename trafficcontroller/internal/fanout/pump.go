package fanout

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Fetch reads history: the body of what the Doppler at addr answers to query
// on the path of source. It may block.
type Fetch func(ctx context.Context, addr, source string, query map[string][]string) ([]byte, error)

// PumpConfig is what a Pump needs. Every field has to be set.
type PumpConfig struct {
	StuckTimeout time.Duration // a reader that takes nothing for so long is cut
	OldTimeout   time.Duration // likewise, in the old framing
	Copies       bool          // connections copy what they write (TLS)
	Fetch        Fetch
	Fetches      int // at a time
}

// Pump gives a Hub goroutines and time. A tail has a goroutine only while
// something is written to it; a few of them do for all tails, because a write
// normally does not wait. One that has to is left to its goroutine, and
// another takes its place.
type Pump struct {
	// static after NewPump
	cfg     PumpConfig
	hub     *Hub
	log     *slog.Logger
	workers int
	fetches chan struct{}
	ctx     context.Context // of Run; ends fetches
	stop    context.CancelFunc

	wg sync.WaitGroup

	// guarded by mu
	mu      sync.Mutex
	ready   []*Tail // to be flushed now
	later   []*Tail // were flushed just now: at the next beat
	running int     // goroutines that flush and do not wait for a socket
	pace    time.Duration
	armed   bool
	stopped bool
}

// NewPump makes a Hub and the Pump for it; Read, Ready and End of the Hub's
// configuration are the Pump's own.
func NewPump(hub Config, cfg PumpConfig, log *slog.Logger) (*Hub, *Pump, error) {
	p := &Pump{
		cfg: cfg, log: log, workers: max(2, runtime.GOMAXPROCS(0)), pace: minPace,
		fetches: make(chan struct{}, cfg.Fetches),
	}
	p.ctx, p.stop = context.WithCancel(context.Background())
	hub.Read, hub.Ready, hub.End = p.read, p.schedule, p.end
	var err error
	p.hub, err = NewHub(hub, time.Now(), log)
	return p.hub, p, err
}

// tickEvery is how often the Hub looks at what waits.
const tickEvery = 100 * time.Millisecond

// Run lets time pass until ctx ends. Then it waits for everything the Pump has
// begun; tails should be closed by then.
func (p *Pump) Run(ctx context.Context) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			p.hub.Tick(now)
			continue
		case <-ctx.Done():
		}
		break
	}
	p.stop()
	p.mu.Lock()
	p.stopped = true
	p.mu.Unlock()
	p.wg.Wait()
	return nil
}

// begin starts f unless the Pump has stopped. mu is held.
func (p *Pump) begin(f func()) {
	if !p.stopped {
		p.wg.Go(f)
	}
}

// end closes a tail's connection.
func (p *Pump) end(t *Tail, code stream.CloseCode, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(func() { _ = t.conn.Close(code, reason) })
}

// read answers a Read.
func (p *Pump) read(r Read) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin(func() {
		select {
		case p.fetches <- struct{}{}:
			defer func() { <-p.fetches }()
		case <-p.ctx.Done():
			return
		}
		body, err := p.cfg.Fetch(p.ctx, r.Addr, r.Source, r.Query)
		if p.ctx.Err() == nil {
			p.hub.Answer(r, body, err)
		}
	})
}

// A tail that was written to less than a pace ago waits for the next beat, so
// that many tails of busy sources do not become very many system calls. The
// pace grows with the number of tails that wait for it.
const (
	minPace     = 500 * time.Microsecond
	maxPace     = 10 * time.Millisecond
	pacePerTail = 40 * time.Microsecond
)

// schedule says that a tail has something to write.
func (p *Pump) schedule(t *Tail) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().UnixNano()-t.wrote.Load() < int64(p.pace) {
		p.later = append(p.later, t)
		p.arm()
		return
	}
	p.ready = append(p.ready, t)
	p.work()
}

// again says that a tail has much to write.
func (p *Pump) again(t *Tail) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready = append(p.ready, t)
	p.work()
}

// arm makes sure that the beat comes. mu is held.
func (p *Pump) arm() {
	if !p.armed && !p.stopped {
		p.armed = true
		p.wg.Add(1)
		time.AfterFunc(p.pace, p.beat)
	}
}

// beat lets the tails that have waited write.
func (p *Pump) beat() {
	defer p.wg.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	p.pace = min(max(time.Duration(len(p.later))*pacePerTail, minPace), maxPace)
	p.ready = append(p.ready, p.later...)
	clear(p.later)
	p.later = p.later[:0]
	p.work()
}

// work starts goroutines for what is ready. mu is held.
func (p *Pump) work() {
	for n := min(p.workers, len(p.ready)); p.running < n && !p.stopped; {
		p.running++
		p.begin(p.flushAll)
	}
}

// flushAll flushes tails until none is ready.
func (p *Pump) flushAll() {
	f := &flusher{pump: p, maker: maker{budget: p.hub.budget, now: time.Now}}
	for {
		p.mu.Lock()
		if len(p.ready) == 0 || p.running > p.workers {
			if len(p.ready) == 0 {
				p.ready = nil
			}
			p.running--
			p.mu.Unlock()
			return
		}
		t := p.ready[0]
		p.ready[0] = nil
		p.ready = p.ready[1:]
		p.mu.Unlock()
		f.flush(t)
	}
}

// waiting says that a goroutine waits for a socket, or no longer does.
func (p *Pump) waiting(waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if waits {
		p.running--
		p.work()
	} else {
		p.running++
	}
}

// How much is written to a tail at a time. One that had to wait gets less, for
// what it has still to take is a copy that nobody shares.
const (
	chunk     = 64 << 10
	slowChunk = 16 << 10
)

// flusher belongs to a goroutine that flushes.
type flusher struct {
	pump    *Pump
	maker   maker
	entries []entry
	frames  []*frame
	bufs    [][]byte
}

// flush writes the next chunk of a tail.
func (f *flusher) flush(t *Tail) {
	size := int64(chunk)
	if t.slow.Load() {
		size = slowChunk
	}
	f.entries = t.q.take(f.entries[:0], size)
	if len(f.entries) == 0 {
		return
	}
	err := f.encode(t)
	if err == nil {
		err = f.write(t)
	}
	if err != nil {
		f.pump.failed(t, err)
		t.q.close()
		return
	}
	if t.wants.Load() {
		if _, past := t.q.level(); past == 0 && t.wants.Swap(false) {
			f.pump.hub.drained(t)
		}
	}
	switch t.q.flushed() {
	case queueFull:
		f.pump.again(t)
	case queueSome:
		f.pump.schedule(t)
	}
}

// encode makes frames of the entries.
func (f *flusher) encode(t *Tail) error {
	f.frames = f.frames[:0]
	var fault error
	for _, e := range f.entries {
		s := e.spec()
		if s == nil {
			f.frames = append(f.frames, e.f)
			continue
		}
		s.inFraming(t.options)
		told, err := f.maker.make(s, nobody{})
		switch {
		case err == nil:
			f.frames = append(f.frames, told)
		case e.access != nil: // the stream is whole without it
			f.pump.log.Error("answer to a token", "error", err)
		default:
			fault = err
		}
	}
	clear(f.entries)
	if fault != nil {
		f.release()
	}
	return fault
}

func (f *flusher) release() {
	for _, one := range f.frames {
		one.release()
	}
	clear(f.frames)
}

// nobody has the frame in a queue.
type nobody struct{}

func (nobody) eachTail(func(*Tail)) {}

func (nobody) share() *atomic.Int64 { return nil }

// write hands frames to the connection.
func (f *flusher) write(t *Tail) error {
	f.bufs = f.bufs[:0]
	var size int64
	var envelopes, gaps uint64
	for _, one := range f.frames {
		if b := one.wire(); len(b) > 0 {
			f.bufs = append(f.bufs, b)
			size += int64(len(b))
		}
		envelopes += one.count
		gaps += uint64(len(one.gaps))
	}
	if len(f.bufs) == 0 {
		f.release()
		return nil
	}
	waits := false
	err := t.conn.WriteFrames(f.bufs, func(spilled bool) {
		f.release()
		if waits = spilled || f.pump.cfg.Copies; waits {
			t.q.spilled(size)
			f.pump.hub.budget.used.Add(size)
			f.pump.waiting(true)
		}
		t.slow.Store(spilled)
	}, f.pump.stuckTimeout(t))
	if waits {
		t.q.spilled(-size)
		f.pump.hub.budget.used.Add(-size)
		f.pump.waiting(false)
	}
	clear(f.bufs)
	t.wrote.Store(time.Now().UnixNano())
	if err == nil {
		t.envelopes.Add(envelopes)
		t.bytes.Add(uint64(size))
		t.gaps.Add(gaps)
	}
	return err
}

func (p *Pump) stuckTimeout(t *Tail) time.Duration {
	if t.options.Old {
		return p.cfg.OldTimeout
	}
	return p.cfg.StuckTimeout
}

// failed ends a tail that could not be written to.
func (p *Pump) failed(t *Tail, err error) {
	if !errors.Is(err, stream.ErrStuck) {
		t.gone()
		return
	}
	lag := t.q.waiting(time.Now())
	t.cut(slow.Stuck, lag, slow.StuckReason(p.stuckTimeout(t), lag))
}
