package egress

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// cameAgo makes what the ring holds so old.
func (d *doppler) cameAgo(age time.Duration) {
	d.server.ages.mu.Lock()
	defer d.server.ages.mu.Unlock()
	d.server.ages.line = slow.Timeline{}
	d.server.ages.line.Note(time.Now().Add(-age), 0, d.log.Head())
}

// A member that takes a batch now and then is never silent for a heartbeat, and
// hears all the same how far it is behind.
func TestATricklingMemberHearsOfItsLag(t *testing.T) {
	d := start(t, 64<<20, func(c *Config) { c.Heartbeat, c.WindowBytes = 50*time.Millisecond, 128<<10 })
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a")
	defer c.conn.CloseNow()
	d.emit("app", 20_000)
	d.cameAgo(time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var told *streampb.Heartbeat
	for batches := 0; batches < 5 || told.GetLagAgeMillis() == 0; {
		b, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if b.GetHeartbeat() != nil {
			told = b.GetHeartbeat()
		}
		if b.GetLease() != nil {
			<-tick.C
			batches++
			c.settle(b)
		}
	}
	if n := told.GetLag(); n == 0 || n > 20_000 {
		t.Errorf("lag %d", n)
	}
	if each := told.GetLagBytes() / told.GetLag(); each < 10 || each > 100 {
		t.Errorf("lag of %d envelopes has %d bytes", told.GetLag(), told.GetLagBytes())
	}
	if age := time.Duration(told.GetLagAgeMillis()) * time.Millisecond; age < time.Minute || age > 2*time.Minute {
		t.Errorf("age %v", age)
	}
	row := d.server.Subscriptions()[0]
	if row.LagAge < 60 || row.LagAge > 120 || row.LagBytes == 0 || row.State != "open" {
		t.Errorf("%+v", row)
	}
}

func TestAMemberThatHasEverythingHasNoLag(t *testing.T) {
	d := start(t, 16<<20, func(c *Config) { c.Heartbeat = 20 * time.Millisecond })
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a&source_id=mine")
	defer c.conn.CloseNow()
	d.emit("mine", 10)
	d.emit("other", 5000) // is nothing that it waits for
	d.cameAgo(time.Minute)
	c.want(10)
	for beats := 0; beats < 2; {
		b, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		if h := b.GetHeartbeat(); h != nil {
			if beats++; h.GetLag() != 0 || h.GetLagBytes() != 0 || h.GetLagAgeMillis() != 0 {
				t.Errorf("%v", h)
			}
		}
	}
}

func TestASlowCallIsCutByItsLag(t *testing.T) {
	d := start(t, 64<<20, func(c *Config) {
		c.SlowCall, c.Heartbeat = slow.Policy{Cut: true, Bytes: 64 << 10}, 50*time.Millisecond
	})
	defer d.stop()
	well := d.subscribe(d.old(), "well", nil)
	c := d.subscribe(d.old(), "slow", nil)
	const n, lump = 20_000, 200
	for sent := lump; sent <= n; sent += lump { // well is never behind
		d.emit(strings.Repeat("s", 200), lump)
		well.until(func() bool { return len(well.got) == sent })
	}
	// While it is slow, and after.
	var row Subscription
	eventually(t, func() bool {
		for _, r := range d.server.Subscriptions() {
			if r.ShardID == "slow" {
				row = r
			}
		}
		return row.State == "closed"
	})
	if row.CloseCode != int(codes.ResourceExhausted) || !strings.HasPrefix(row.CloseReason, "ResourceExhausted: slow consumer: ") ||
		row.ClosedAt == "" || row.Lag == 0 || row.LagBytes < 64<<10 {
		t.Errorf("%+v", row)
	}
	if err := c.toEnd(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), " behind, 0 dropped") {
		t.Errorf("ended with %v", err)
	}
	if st := d.server.Stats(); st.Cuts[ByBatchSubscribe] != [slow.NumCuts]uint64{slow.Lagging: 1} || st.Cuts[ByWebSocket] != [slow.NumCuts]uint64{} {
		t.Errorf("cuts %v", st.Cuts)
	}
	for _, r := range d.server.Subscriptions() {
		if r.ShardID == "well" && r.State != "open" {
			t.Errorf("%+v", r)
		}
	}
}

func TestAMemberThatHasGoneIsShownWithItsClose(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a")
	d.emit("app", 10)
	c.want(10)
	if err := c.conn.Close(4242, "enough"); err != nil {
		t.Fatal(err)
	}
	bad := d.dial("/v2/firehose?shard_id=b")
	defer bad.conn.CloseNow()
	bad.send(&streampb.Control{Message: &streampb.Control_Watch{Watch: &streampb.Watch{}}})
	closed := map[string]Subscription{}
	eventually(t, func() bool {
		for _, r := range d.server.Subscriptions() {
			if r.State == "closed" {
				closed[r.ShardID] = r
			}
		}
		return len(closed) == 2
	})
	if r := closed["a"]; r.CloseCode != 4242 || r.CloseReason != "enough" || r.Sent != 10 || r.ClosedAt == "" {
		t.Errorf("%+v", r)
	}
	if r := closed["b"]; r.CloseCode != int(stream.CloseBadMessage) || !strings.Contains(r.CloseReason, "Sent and Ack only") {
		t.Errorf("%+v", r)
	}
}

// What a row says adds up whatever is appended and evicted meanwhile.
func TestRowAddsUp(t *testing.T) {
	d := start(t, 1<<20, nil)
	defer d.stop()
	member := d.dial("/v2/firehose?shard_id=a")
	defer member.conn.CloseNow()
	msg, recs := line(t, "app", 0)
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-quit:
				return
			default:
				d.log.Append(msg, recs)
			}
		}
	}()
	eventually(t, func() bool { rows := d.server.Subscriptions(); return len(rows) == 1 && rows[0].Dropped > 0 })
	for range 10_000 {
		r := d.server.Subscriptions()[0]
		if sum := r.Acked + r.Dropped + r.InFlight + r.Lag; r.Accepted != sum {
			t.Errorf("accepted %d is not acked %d + dropped %d + in flight %d + lag %d", r.Accepted, r.Acked, r.Dropped, r.InFlight, r.Lag)
			break
		}
	}
	close(quit)
	<-done
}
