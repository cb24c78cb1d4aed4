package stream

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
)

// tracked is the tracker of a test, normally nil.
var tracked atomic.Pointer[tracker]

type tracker struct {
	mu     sync.Mutex
	live   map[*Buffer][]uintptr // callers of NewBuffer
	faults []error
}

// TrackBuffers is for tests: until stop is called, each Buffer is watched, and
// none is used again after its last release but is overwritten instead, so
// that whoever still reads it sees it. stop reports buffers released more
// often than retained, and those never released. One tracking at a time; it
// slows everything down.
func TrackBuffers() (stop func() error) {
	t := &tracker{live: map[*Buffer][]uintptr{}}
	tracked.Store(t)
	return func() error {
		tracked.CompareAndSwap(t, nil)
		t.mu.Lock()
		defer t.mu.Unlock()
		for b, pcs := range t.live {
			t.faults = append(t.faults, fmt.Errorf("buffer of %d bytes never released%s", b.size, where(pcs)))
		}
		return errors.Join(t.faults...)
	}
}

func (t *tracker) made(b *Buffer) {
	pcs := make([]uintptr, 16)
	pcs = pcs[:runtime.Callers(3, pcs)]
	t.mu.Lock()
	t.live[b] = pcs
	t.mu.Unlock()
}

// gone reports whether b was made under this tracker and is now retired.
func (t *tracker) gone(b *Buffer) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.live[b]; !ok {
		return false
	}
	delete(t.live, b)
	for i := range b.mem {
		b.mem[i] = 0xdd
	}
	return true
}

// misused notes a reference count gone wrong.
func misused(b *Buffer, how string) {
	t := tracked.Load()
	if t == nil {
		return
	}
	pcs := make([]uintptr, 16)
	pcs = pcs[:runtime.Callers(3, pcs)]
	t.mu.Lock()
	t.faults = append(t.faults, fmt.Errorf("buffer of %d bytes %s%s", b.size, how, where(pcs)))
	t.mu.Unlock()
}

func where(pcs []uintptr) string {
	s := ""
	frames := runtime.CallersFrames(pcs)
	for {
		f, more := frames.Next()
		s += fmt.Sprintf("\n\t%s:%d", f.File, f.Line)
		if !more {
			return s
		}
	}
}
