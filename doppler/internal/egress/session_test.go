package egress

import (
	"errors"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
)

// drop reads until the connection ends and returns why.
func (c *client) drop() error {
	for {
		if _, err := c.next(); err != nil {
			return err
		}
	}
}

func wantCode(t *testing.T, err error, code stream.CloseCode) {
	t.Helper()
	var closed *stream.CloseError
	if !errors.As(err, &closed) || closed.Code != code {
		t.Errorf("ended with %v, want %v", err, code)
	}
}

// A reader that comes back over another connection has at once what it was
// handed over the one that is lost, although that looks as if it were open. One
// that does not ack is told at once.
func TestReaderThatComesBackIsHandedAllAgain(t *testing.T) {
	for name, query := range map[string]string{
		"acks": "&ack=client", "does not": "", "deterministic name": "&deterministic_name=n",
	} {
		t.Run(name, func(t *testing.T) {
			d := start(t, 16<<20, nil)
			defer d.stop()
			path := "/v2/firehose?shard_id=a" + query + "&session=me:"
			a := d.dial(path + "1")
			d.emit("app", 100)
			for len(a.lines) < 100 {
				if _, err := a.next(); err != nil {
					t.Fatal(err)
				}
			}
			b := d.dial(path + "2")
			defer b.conn.CloseNow()
			if _, err := b.next(); err != nil { // it has joined
				t.Fatal(err)
			}
			d.emit("app", 20)
			for told := 0; told+len(b.lines) < 120; {
				batch, err := b.next()
				if err != nil {
					t.Fatalf("%v; got %d lines and %v", err, len(b.lines), b.gaps)
				}
				b.settle(batch)
				for _, g := range batch.GetGaps() {
					told += int(g.GetCount())
				}
			}
			if name == "acks" && len(b.gaps) > 0 {
				t.Errorf("told %v", b.gaps)
			}
			wantCode(t, a.drop(), stream.CloseSuperseded)
			if n := len(a.lines); n != 100 {
				t.Errorf("the lost connection got %d lines", n)
			}
			if st := d.server.Stats(); st.Subscriptions != 1 {
				t.Errorf("%d subscriptions", st.Subscriptions)
			}
		})
	}
}

// A relay that dials again for a reader which has gone elsewhere is told so.
func TestEarlierTurnDoesNotJoin(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	late := d.dial("/v2/firehose?shard_id=a&session=me:2")
	defer late.conn.CloseNow()
	if _, err := late.next(); err != nil {
		t.Fatal(err)
	}
	wantCode(t, d.dial("/v2/firehose?shard_id=a&session=me:1").drop(), stream.CloseSuperseded)
	d.emit("app", 10)
	late.want(10)
	eventually(t, func() bool { return d.server.Stats().Subscriptions == 1 })
}

// A session is known within its group only; and not any more when it has left.
func TestSessionsOfOthers(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	first := d.dial("/v2/firehose?shard_id=a&session=me:5")
	if _, err := first.next(); err != nil {
		t.Fatal(err)
	}
	others := []*client{
		d.dial("/v2/firehose?shard_id=b&session=me:1"), d.dial("/v2/firehose?shard_id=a&type=log&session=me:1"),
		d.dial("/v2/firehose?shard_id=a&session=you:1"), d.dial("/v2/firehose?shard_id=a"), d.dial("/v2/tails?session=me:1"),
	}
	for _, c := range append(others, first) {
		defer c.conn.CloseNow()
	}
	for i, c := range others {
		if _, err := c.next(); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if st := d.server.Stats(); st.Subscriptions != 6 {
		t.Errorf("%d subscriptions", st.Subscriptions)
	}
	first.conn.CloseNow()
	eventually(t, func() bool { return d.server.Stats().Subscriptions == 5 })
	again := d.dial("/v2/firehose?shard_id=a&session=me:4")
	defer again.conn.CloseNow()
	if _, err := again.next(); err != nil {
		t.Fatal(err)
	}
	d.server.mu.Lock()
	defer d.server.mu.Unlock()
	if len(d.server.seats) != 4 {
		t.Errorf("%d seats", len(d.server.seats))
	}
}

func TestTailLinkThatComesBack(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	a := d.dial("/v2/tails?session=me:0")
	a.addWatch(1, 1, "app")
	if _, err := a.next(); err != nil {
		t.Fatal(err)
	}
	b := d.dial("/v2/tails?session=me:0")
	defer b.conn.CloseNow()
	wantCode(t, a.drop(), stream.CloseSuperseded)
	b.addWatch(1, 1, "app")
	for len(b.watch) == 0 {
		if _, err := b.next(); err != nil {
			t.Fatal(err)
		}
	}
	d.emit("app", 5)
	b.want(5)
}
