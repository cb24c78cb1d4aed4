package egress

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// drain begins to drain; what is returned is closed at its end.
func (d *doppler) drain(grace time.Duration) <-chan struct{} {
	ended := make(chan struct{})
	ctx, cancel := context.WithTimeout(d.t.Context(), grace)
	go func() {
		defer cancel()
		d.server.Drain(ctx)
		close(ended)
	}()
	return ended
}

func endsWithin(t *testing.T, ended <-chan struct{}, most time.Duration) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(most):
		t.Fatalf("the drain goes on after %v", most)
	}
}

// toFin reads until the Doppler has said that it is done.
func (c *client) toFin() {
	c.t.Helper()
	for len(c.fins) == 0 {
		b, err := c.next()
		if err != nil {
			c.t.Fatal(err)
		}
		c.settle(b)
	}
}

func (c *client) sendWatch(w *streampb.Watch) {
	c.t.Helper()
	c.send(&streampb.Control{Message: &streampb.Control_Watch{Watch: w}})
}

func TestDrainWaitsForReadersOfAYoungEpoch(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	d.emit("app", 5)
	ended := d.drain(20 * time.Second)
	time.Sleep(100 * time.Millisecond)
	link := d.dial("/v2/tails")
	defer link.conn.CloseNow()
	link.sendWatch(&streampb.Watch{
		Start: &streampb.LinkStart{Origin: true}, Add: []*streampb.Watch_Add{{SourceId: "app", Watch: 1}},
	})
	time.Sleep(settle / 2)
	cursor := stream.EncodeCursor(&streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{
		{Doppler: "doppler-0", Epoch: 3, Offset: 17, Finished: true},
	}})
	member := d.dial("/v2/firehose?shard_id=a&cursor=" + cursor)
	defer member.conn.CloseNow()
	member.want(5) // or the link is not told fin
	for _, c := range []*client{link, member} {
		c.toFin()
		if len(c.lines) != 5 || len(c.gaps) != 0 || c.fins[0].GetEnd() != 5 {
			t.Errorf("%d lines, gaps %v, fins %v", len(c.lines), c.gaps, c.fins)
		}
	}
	endsWithin(t, ended, 5*time.Second)
}

func TestDrainWithNobodyToWaitForEndsAtOnce(t *testing.T) {
	for _, test := range []struct {
		name   string
		linger time.Duration
		lines  int
	}{
		{"nothing was appended", time.Minute, 0},
		{"an old epoch", time.Nanosecond, 5},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := start(t, 16<<20, func(c *Config) { c.Linger = test.linger })
			defer d.stop()
			d.emit("app", test.lines)
			endsWithin(t, d.drain(time.Minute), settle/2)
		})
	}
}

func TestDrainOfAYoungEpochThatNobodyReads(t *testing.T) {
	for _, test := range []struct {
		name          string
		linger, grace time.Duration
	}{
		{"to the end of its grace", time.Minute, 200 * time.Millisecond},
		{"until it is old", 200 * time.Millisecond, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := start(t, 16<<20, func(c *Config) { c.Linger = test.linger })
			defer d.stop()
			d.emit("app", 5)
			ended := d.drain(test.grace)
			select {
			case <-ended:
				t.Error("did not wait")
			case <-time.After(50 * time.Millisecond):
			}
			endsWithin(t, ended, 5*time.Second)
		})
	}
}

// A tail that came back reads what it has missed before it follows its link. The
// reads of many go one after the other.
func TestDrainWaitsForThoseWhoCatchUp(t *testing.T) {
	d := start(t, 16<<20, func(c *Config) { c.Linger = time.Nanosecond })
	defer d.stop()
	d.emit("app", 5)
	done := d.server.resumes.read()
	ended := d.drain(time.Minute)
	for range 2 {
		select {
		case <-ended:
			t.Fatal("did not wait")
		case <-time.After(resumePause / 2):
		}
		next := d.server.resumes.read()
		done()
		done = next
	}
	d.history("app?from=2")
	done()
	endsWithin(t, ended, 5*time.Second)
}

// What others read of the past holds nothing up: some ask again and again.
func TestDrainDoesNotWaitForReadsOfThePast(t *testing.T) {
	d := start(t, 16<<20, func(c *Config) { c.Linger = time.Nanosecond })
	defer d.stop()
	d.emit("app", 5)
	d.history("app?limit=2")
	if d.server.resumes.goOn(time.Now()) {
		t.Error("a read of the newest is taken for one of a reader that came back")
	}
	d.history("app?from=2")
	if !d.server.resumes.goOn(time.Now()) {
		t.Error("a read of a reader that came back is not noticed")
	}
}

// A resume takes several messages; those watched by the last get all that the
// ring holds, too.
func TestResumeInParts(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	const sources, had = 3, 2
	for range 5 {
		for i := range sources {
			d.emit(fmt.Sprint("app-", i), 1)
		}
	}
	c := d.dial("/v2/tails")
	defer c.conn.CloseNow()
	counts := make([]uint64, envelope.NumClasses)
	counts[envelope.Log] = had
	for i := range uint32(sources) {
		w := &streampb.Watch{Request: uint64(i), More: i < sources-1}
		if i == 0 {
			w.Start = &streampb.LinkStart{Epoch: 7, Offset: sources * had}
		}
		w.Add = []*streampb.Watch_Add{{SourceId: fmt.Sprint("app-", i), Watch: i, ClassCounts: counts}}
		c.sendWatch(w)
		for len(c.watch) <= int(i) {
			if _, err := c.next(); err != nil {
				t.Fatal(err)
			}
		}
		d.emit("app-0", 1) // wakes the link
	}
	const want = 3*sources + sources
	for len(c.lines) < want && len(c.gaps) == 0 {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.lines) != want || len(c.gaps) != 0 || c.offs[0] != sources*had || c.watch[sources-1].GetJoin() != sources*had {
		t.Errorf("lines %v, gaps %v, answers %v", c.lines, c.gaps, c.watch)
	}
}
