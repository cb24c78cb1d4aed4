package fanout

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// trickle takes what is written to it after a while.
type trickle struct {
	each time.Duration

	mu     sync.Mutex
	closed *stream.CloseError
}

func (c *trickle) WriteFrames(_ [][]byte, release func(bool), _ time.Duration) error {
	release(c.each > 0)
	time.Sleep(c.each)
	return nil
}

func (c *trickle) Close(code stream.CloseCode, reason string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = &stream.CloseError{Code: code, Reason: reason}
	return nil
}

// A tail that takes a little every two seconds is never stuck, but it is slow.
func TestATricklingTail(t *testing.T) {
	drop, cut := slow.Policy{Age: 10 * time.Second}, slow.Policy{Cut: true, Age: 10 * time.Second}
	for name, c := range map[string]struct {
		each   time.Duration
		old    bool
		policy slow.Policy
		room   int64            // of its queue
		code   stream.CloseCode // 0: stays open
		slow   bool
		loses  bool
	}{
		"takes all":                  {0, false, cut, 1 << 20, 0, false, false},
		"takes all, old":             {0, true, cut, 1 << 20, 0, false, false},
		"dropped":                    {2 * time.Second, false, drop, 16 << 10, 0, true, true},
		"cut for its age":            {2 * time.Second, false, cut, 1 << 20, stream.CloseStuck, true, false},
		"cut for its age, old":       {2 * time.Second, true, cut, 1 << 20, stream.CloseNormal, true, false},
		"cut for what it loses":      {2 * time.Second, false, slow.Policy{Cut: true}, 16 << 10, stream.CloseStuck, true, true},
		"cut for what it loses, old": {2 * time.Second, true, slow.Policy{Cut: true}, 16 << 10, stream.CloseNormal, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, func(h *Config, p *PumpConfig) {
					h.TailBytes, h.Slow, h.SlowOld, p.OldTimeout = c.room, c.policy, c.policy, 5*time.Second
				})
				r.connect()
				conn := &trickle{each: c.each}
				tail := r.hub.Open(conn, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil), Old: c.old})
				defer tail.Close()
				r.pass()
				for range 300 {
					r.emit("app", 100)
					r.pass()
					time.Sleep(200 * time.Millisecond)
				}
				row := tail.Row()
				conn.mu.Lock()
				defer conn.mu.Unlock()
				if row.Slow != c.slow || (row.Lag.Dropped > 0) != c.loses {
					t.Errorf("row %+v", row)
				}
				if c.code == 0 {
					if conn.closed != nil || row.Cut != slow.NotCut {
						t.Errorf("closed with %v", conn.closed)
					}
					return
				}
				if conn.closed == nil || conn.closed.Code != c.code || conn.closed.Reason != slow.Reason(row.Lag) ||
					!strings.HasPrefix(conn.closed.Reason, "slow consumer: ") || row.Cut != slow.Lagging || row.Lag.Envelopes == 0 || row.Lag.Age == 0 {
					t.Errorf("closed with %v; row %+v", conn.closed, row)
				}
			})
		})
	}
}
