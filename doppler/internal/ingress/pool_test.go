package ingress

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"google.golang.org/grpc/mem"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

func decode(t *testing.T, env []byte) *loggregatorv2.Envelope {
	t.Helper()
	var d loggregatorv2.Envelope
	if err := proto.Unmarshal(env, &d); err != nil {
		t.Fatal(err)
	}
	return &d
}

func TestPoolSizes(t *testing.T) {
	p := newPool(1<<20, time.Second)
	for _, test := range []struct{ n, size int }{
		{0, 2 << 10}, {1, 2 << 10}, {2 << 10, 2 << 10}, {2<<10 + 1, 4 << 10}, {16 << 10, 16 << 10}, {16<<10 + 1, 32 << 10},
		{64 << 10, 64 << 10}, {64<<10 + 1, 64<<10 + 1}, {100_000, 100_000},
	} {
		b := p.Get(test.n)
		if len(*b) != test.n || cap(*b) != test.size || p.held.Load() != int64(test.size) {
			t.Errorf("%d: len %d, cap %d, held %d, want %d", test.n, len(*b), cap(*b), p.held.Load(), test.size)
		}
		// gRPC may bring back a prefix.
		*b = (*b)[:test.n/2]
		p.Put(b)
		if p.held.Load() != 0 {
			t.Errorf("%d: %d held after Put", test.n, p.held.Load())
		}
	}
}

func TestPoolBlocksOverItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(32<<10, 100*time.Millisecond)
		first, second := p.Get(16<<10), p.Get(16<<10)
		got := make(chan *[]byte, 2)
		for range 2 {
			go func() { got <- p.Get(16 << 10) }()
		}
		synctest.Wait()
		if len(got) != 0 || p.held.Load() != 32<<10 || p.waits.Load() != 2 {
			t.Fatalf("%d got one, %d held, %d waited", len(got), p.held.Load(), p.waits.Load())
		}
		// Room is made in time, again and again: nobody goes over the limit.
		time.Sleep(90 * time.Millisecond)
		p.Put(first)
		synctest.Wait()
		if len(got) != 1 || p.held.Load() != 32<<10 {
			t.Fatalf("%d got one, %d held", len(got), p.held.Load())
		}
		time.Sleep(90 * time.Millisecond)
		p.Put(second)
		synctest.Wait()
		if len(got) != 2 || p.overdrawn.Load() != 0 {
			t.Fatalf("%d got one, %d overdrawn", len(got), p.overdrawn.Load())
		}
		p.Put(<-got)
		p.Put(<-got)
		if p.held.Load() != 0 || p.waiting.Load() != 0 {
			t.Fatalf("%d held, %d waiting", p.held.Load(), p.waiting.Load())
		}
	})
}

func TestPoolOverdrawsWhenNothingComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPool(16<<10, 100*time.Millisecond)
		first := p.Get(16 << 10)
		started := time.Now()
		second := p.Get(16 << 10)
		if waited := time.Since(started); waited != 100*time.Millisecond || p.overdrawn.Load() != 1 {
			t.Fatalf("after %v, %d overdrawn", waited, p.overdrawn.Load())
		}
		p.Put(first)
		p.Put(second)
		if p.held.Load() != 0 {
			t.Fatalf("%d held", p.held.Load())
		}
	})
}

// TestPoolFindsLostBuffers: gRPC forgets the buffers of a stream that ends
// early.
func TestPoolFindsLostBuffers(t *testing.T) {
	p := newPool(1<<20, time.Second)
	for range 10 {
		_ = p.Get(16 << 10)
	}
	kept := p.Get(4 << 10)
	eventually(t, "lost buffers found", func() bool { runtime.GC(); return p.held.Load() == 4<<10 })
	p.Put(kept)
	eventually(t, "kept buffer counted once", func() bool { runtime.GC(); return p.held.Load() == 0 })
}

// TestCutStreamGivesItsBuffersBack is the same through gRPC.
func TestCutStreamGivesItsBuffersBack(t *testing.T) {
	to := &memory{gate: make(chan struct{})}
	r := start(t, nil, to)
	s := r.open("BatchSender")
	r.sendAll(s, batch(env(t, "s", 1))) // stops at the gate
	for range 3 {
		r.sendAll(s, make([]byte, 16<<10))
	}
	eventually(t, "messages wait", func() bool { return r.pool.held.Load() >= 48<<10 })
	_ = r.client.Close()
	close(to.gate)
	eventually(t, "all buffers back", func() bool { runtime.GC(); return r.Stats().BufferBytes == 0 })
}

func TestTakingAllocatesNothing(t *testing.T) {
	server, err := New(testConfig(), &countAppender{})
	if err != nil {
		t.Fatal(err)
	}
	str := &stream{server: server}
	record := batch(env(t, "source", 1))
	one := message{mem.BufferSlice{mem.SliceBuffer(record[2:])}}
	whole := message{mem.BufferSlice{mem.SliceBuffer(append(record, record...))}}
	parts := message{mem.BufferSlice{mem.SliceBuffer(record[:5]), mem.SliceBuffer(record[5:])}}
	str.takeBatch(&parts) // makes the workspace's buffer
	for name, take := range map[string]func(){
		"single": func() { str.takeOne(&one) },
		"batch":  func() { str.takeBatch(&whole) },
		"frames": func() { str.takeBatch(&parts) },
	} {
		if n := testing.AllocsPerRun(100, take); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	server.grpc.Stop()
}

// TestWorkspaceShrinks: one large message does not cost memory for ever.
func TestWorkspaceShrinks(t *testing.T) {
	var w workspace
	half := mem.SliceBuffer(make([]byte, 1<<20))
	if got := w.join(mem.BufferSlice{half, half}); len(got) != 2<<20 {
		t.Fatal(len(got))
	}
	small := mem.SliceBuffer("small")
	if got := w.join(mem.BufferSlice{small, small}); string(got) != "smallsmall" || cap(w.joined) > maxKept {
		t.Errorf("%q, %d bytes kept", got, cap(w.joined))
	}
}
