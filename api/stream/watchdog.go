package stream

import (
	"sync"
	"sync/atomic"
	"time"
)

// watchdog ends a connection that is silent for too long. Hearing something
// costs two atomic operations, not a timer.
type watchdog struct {
	after time.Duration
	conn  *Conn
	last  atomic.Int64 // unix nanoseconds
	bit   atomic.Bool

	mu    sync.Mutex
	timer *time.Timer // guarded by mu
}

func newWatchdog(after time.Duration, conn *Conn) *watchdog {
	w := &watchdog{after: after, conn: conn}
	if after > 0 {
		w.last.Store(time.Now().UnixNano())
		w.mu.Lock()
		w.timer = time.AfterFunc(after, w.check)
		w.mu.Unlock()
	}
	return w
}

func (w *watchdog) heard() {
	if w.after > 0 {
		w.last.Store(time.Now().UnixNano())
	}
}

func (w *watchdog) check() {
	left := w.after - time.Since(time.Unix(0, w.last.Load()))
	if left > 0 {
		w.mu.Lock()
		w.timer.Reset(left)
		w.mu.Unlock()
		return
	}
	w.bit.Store(true)
	w.conn.CloseNow()
}

// fired tells whether it was the watchdog that ended the connection.
func (w *watchdog) fired() bool { return w.bit.Load() }

func (w *watchdog) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
