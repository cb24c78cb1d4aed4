package ingress

import (
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Buffers come in powers of two between these; a larger one is made to
// measure. gRPC allocates frames of up to 1 KiB itself.
const (
	minBufferShift = 11 // 2 KiB
	maxBufferShift = 16 // 64 KiB
)

// pool gives gRPC the buffers it reads frames into, and is where ingress meets
// its budget: Get blocks while the buffers in use would exceed limit. The
// caller is the goroutine that reads one connection, so that connection is no
// longer read and TCP holds its producer back.
//
// If all of the budget lies in messages of which the rest has not come yet,
// waiting would last for ever. So a Get that sees no buffer come back for
// patience goes over the limit.
type pool struct {
	limit    int64
	patience time.Duration

	held      atomic.Int64
	waits     atomic.Uint64
	overdrawn atomic.Uint64
	waiting   atomic.Int32
	tiers     [maxBufferShift - minBufferShift + 1]sync.Pool

	mu    sync.Mutex
	freed chan struct{} // closed and renewed by Put while somebody waits
}

func newPool(limit int64, patience time.Duration) *pool {
	return &pool{limit: limit, patience: patience, freed: make(chan struct{})}
}

// buffer is what Get hands out: gRPC sees a pointer to its first field.
type buffer struct {
	bytes []byte
	*lease
}

// lease is apart from its buffer so that it outlives it.
type lease struct {
	size int64
	out  atomic.Bool
}

// Get returns a buffer of n bytes with arbitrary content. It may block.
func (p *pool) Get(n int) *[]byte {
	b := p.take(n)
	if p.held.Add(b.size) > p.limit {
		p.wait(b.size)
	}
	b.out.Store(true)
	b.bytes = b.bytes[:n]
	return &b.bytes
}

// Put takes back a buffer that Get handed out.
func (p *pool) Put(bytes *[]byte) {
	// Get returned a pointer to the first field of a buffer, and gRPC
	// promises to bring back that pointer.
	b := (*buffer)(unsafe.Pointer(bytes))
	b.out.Store(false)
	p.release(b.size)
	if i := tier(int(b.size)); i < len(p.tiers) {
		b.bytes = b.bytes[:0]
		p.tiers[i].Put(b)
	}
}

func (p *pool) take(n int) *buffer {
	size := n
	if i := tier(n); i < len(p.tiers) {
		if b, ok := p.tiers[i].Get().(*buffer); ok {
			return b
		}
		size = 1 << (minBufferShift + i)
	}
	b := &buffer{make([]byte, size), &lease{size: int64(size)}}
	// gRPC forgets the buffers of a stream that ends before it was read to
	// its end; the garbage collector finds them.
	runtime.AddCleanup(b, func(l *lease) {
		if l.out.Load() {
			p.release(l.size)
		}
	}, b.lease)
	return b
}

func tier(n int) int { return max(bits.Len(uint(max(n, 1)-1))-minBufferShift, 0) }

func (p *pool) release(size int64) {
	p.held.Add(-size)
	if p.waiting.Load() == 0 {
		return
	}
	p.mu.Lock()
	close(p.freed)
	p.freed = make(chan struct{})
	p.mu.Unlock()
}

// wait is called with size counted already; it gives it back until there is
// room for it.
func (p *pool) wait(size int64) {
	p.waits.Add(1)
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	p.held.Add(-size)
	timer := time.NewTimer(p.patience)
	defer timer.Stop()
	for {
		p.mu.Lock()
		freed := p.freed
		p.mu.Unlock()
		// After freed is known, so that nothing freed is overlooked.
		if p.held.Add(size) <= p.limit {
			return
		}
		p.held.Add(-size)
		select {
		case <-freed:
			timer.Reset(p.patience)
		case <-timer.C:
			p.overdrawn.Add(1)
			p.held.Add(size)
			return
		}
	}
}
