package relay

import (
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// A Doppler that comes back at another address, as a restarted pod does, is
// the same to the client.
func TestDopplerMoves(t *testing.T) {
	for name, test := range map[string]struct {
		epoch    uint64
		finished bool
	}{
		"same life":          {7, false},
		"new life":           {8, false},
		"new life after fin": {8, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, func(c *Config) { c.LostAfter, c.Heartbeat = time.Hour, time.Minute })
			d := newFakeDoppler(t, "d0")
			s.Added(d.addr)
			c := s.dial()
			next(t, c)
			m := d.member(t)
			next(t, c)
			m.say(&streampb.Batch{Position: d.position(5, 1), Lease: lease(1)}, "a")
			next(t, c)
			before, err := stream.ParseSession(m.query.Get("session"))
			if err != nil {
				t.Fatal(err)
			}
			if test.finished {
				m.say(&streampb.Batch{Fins: []*streampb.Fin{{Doppler: "d0", Epoch: 7, End: 6}}})
				next(t, c)
			}
			s.Removed(d.addr)
			moved := newFakeDoppler(t, "d0")
			moved.epoch = test.epoch
			s.Added(moved.addr)
			m = moved.member(t)
			if after, err := stream.ParseSession(m.query.Get("session")); err != nil || after.ID != before.ID || after.Turn <= before.Turn {
				t.Errorf("it would be taken for an earlier connection: %v after %v, %v", after, before, err)
			}
			cursor, err := stream.DecodeCursor(m.query.Get("cursor"))
			if err != nil || len(cursor.GetEntries()) != 1 {
				t.Fatalf("cursor %v %v", cursor, err)
			}
			if e := cursor.Entries[0]; e.Doppler != "d0" || e.Epoch != 7 || e.Offset != 5 || e.Seen != 6 || e.Finished != test.finished {
				t.Errorf("entry %v", e)
			}
			if b, _ := next(t, c); b.GetPosition().GetEpoch() != test.epoch || len(b.GetGaps()) != 0 {
				t.Errorf("told %v", b)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			for c := range s.clients {
				c.mu.Lock()
				if len(c.lost) != 0 {
					t.Errorf("%v is still waited for", c.lost)
				}
				c.mu.Unlock()
			}
		})
	}
}

// Small batches share a Sent; half a window does not wait for company.
func TestSentIsPutTogether(t *testing.T) {
	s := newStage(t, nil)
	d := newFakeDoppler(t, "d0")
	s.Added(d.addr)
	c := s.dial()
	next(t, c)
	m := d.member(t)
	next(t, c)
	const batches = 200
	for i := range uint64(batches) {
		m.say(&streampb.Batch{Position: d.position(i, 1), Lease: lease(i + 1)}, "a")
	}
	for range batches {
		next(t, c)
	}
	said := 0
	for last := uint64(0); last < batches; said++ {
		id := m.heard().GetSent().GetLease()
		if id <= last {
			t.Fatalf("sent %d after %d", id, last)
		}
		last = id
	}
	if said > batches/2 {
		t.Errorf("%d messages for %d batches", said, batches)
	}
}
