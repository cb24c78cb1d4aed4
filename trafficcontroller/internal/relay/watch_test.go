package relay

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// behind says how far the member's client is behind.
func (m fakeMember) behind(envelopes int, age time.Duration) {
	m.say(&streampb.Batch{Heartbeat: &streampb.Heartbeat{
		Lag: uint64(envelopes), LagBytes: uint64(100 * envelopes), LagAgeMillis: uint64(age.Milliseconds()),
	}})
}

// fill says more than the client's sockets take.
func (m fakeMember) fill(d *fakeDoppler) {
	many := make([]*loggregatorv2.Envelope, 2000)
	for i := range many {
		many[i] = logLine(strings.Repeat("x", 100))
	}
	for i := range 50 {
		m.sayEnvelopes(&streampb.Batch{Position: d.position(uint64(i*len(many)), len(many)), Lease: lease(uint64(i + 1))}, many...)
	}
}

// A client that takes a little all the time is never stuck, but it is slow.
func TestATricklingClientIsCutForItsLag(t *testing.T) {
	for name, c := range map[string]struct {
		options Options
		code    stream.CloseCode
	}{
		"batches": {Options{}, stream.CloseStuck},
		"old":     {Options{Framing: OldFraming(patience)}, stream.CloseNormal},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, func(c *Config) { c.Heartbeat = 100 * time.Millisecond })
			s.opts = c.options
			s.opts.Slow = slow.Policy{Cut: true, Age: time.Second}
			d := newFakeDoppler(t, "d0")
			s.Added(d.addr)
			conn := s.dial()
			m := d.member(t)
			m.fill(d)
			tick := time.NewTicker(50 * time.Millisecond)
			defer tick.Stop()
			for began := time.Now(); ; {
				<-tick.C
				select {
				case err := <-s.closed:
					var closed *stream.CloseError
					if !errors.As(err, &closed) || closed.Code != c.code || !strings.HasPrefix(closed.Reason, "slow consumer: ") ||
						!strings.Contains(closed.Reason, " behind, 0 dropped") {
						t.Errorf("closed with %v", err)
					}
					if row := <-s.rows; row.Cut != slow.Lagging || row.Lag.Envelopes < 12_345 || row.Lag.Age < time.Second {
						t.Errorf("row %+v", row)
					}
					return
				default:
				}
				if time.Since(began) > patience {
					t.Fatal("it is not cut")
				}
				m.behind(12_345, time.Since(began))
				ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
				if buf, err := conn.Read(ctx); err == nil {
					buf.Release()
				}
				cancel()
			}
		})
	}
}

func TestWhoIsNotCutForItsLag(t *testing.T) {
	policy := slow.Policy{Cut: true, Age: time.Second}
	for name, c := range map[string]struct {
		policy slow.Policy
		takes  bool                         // everything, at once
		age    func(look int) time.Duration // that the Doppler tells
		slow   bool                         // is it shown so
	}{
		"drop":             {slow.Policy{Age: time.Second}, false, func(n int) time.Duration { return time.Duration(10+n) * time.Second }, true},
		"takes all it can": {policy, true, func(n int) time.Duration { return time.Duration(10+n) * time.Second }, false},
		"catches up":       {policy, false, func(n int) time.Duration { return time.Duration(100-n) * time.Second }, false},
		"a burst":          {policy, false, func(n int) time.Duration { return time.Duration(n%3) * time.Second * 5 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, func(c *Config) { c.Heartbeat = time.Hour })
			s.opts.Slow = c.policy
			d := newFakeDoppler(t, "d0")
			s.Added(d.addr)
			conn := s.dial()
			m := d.member(t)
			if c.takes {
				go func() {
					for {
						buf, err := conn.Read(t.Context())
						if err != nil {
							return
						}
						buf.Release()
					}
				}()
			} else {
				m.fill(d)
			}
			now := time.Now().Add(time.Minute)
			for look := range 12 {
				before := s.heard()
				m.behind(1000, c.age(look))
				eventually(t, func() bool { return s.heard() > before })
				s.clock.Store(now.UnixNano()) // what waits here is as if it had just come
				s.restamp(now)
				s.look(now)
				now = now.Add(5 * time.Second)
			}
			rows := s.Rows()
			if len(rows) != 1 || rows[0].Slow != c.slow || rows[0].Cut != slow.NotCut {
				t.Errorf("rows %+v", rows)
			}
			conn.CloseNow()
		})
	}
}

// heard is how many heartbeats were.
func (s *stage) heard() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		n += c.heard.Load()
	}
	return n
}

// restamp makes what waits as old as now.
func (s *stage) restamp(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		c.mu.Lock()
		c.taken.since = now.UnixNano()
		for i := range c.queue {
			c.queue[i].at = now.UnixNano()
		}
		c.mu.Unlock()
	}
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never comes about")
		}
	}
}

// Who takes nothing of the little there is has no lag in any ring.
func TestWhatWaitsHereHasAnAgeToo(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Heartbeat = 100 * time.Millisecond })
	s.opts.Slow = slow.Policy{Cut: true, Age: time.Second}
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	s.dial()
	d.member(t).fill(d)
	select {
	case err := <-s.closed:
		if !strings.Contains(err.Error(), "slow consumer: ") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("it is not cut")
	}
}
