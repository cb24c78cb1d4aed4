package trafficcontroller

import (
	"context"
	"fmt"
	"io"
	"mime/multipart"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

// oldReader is a client of the old framing. What it gets it turns back into
// v2 envelopes, which are easier to look at.
type oldReader struct {
	t    *testing.T
	conn *stream.Conn
	done chan struct{}

	mu   sync.Mutex
	ids  []string
	told []string // LGR lines and TruncatingBuffer counters
	err  error
}

func (r *rig) readOld(path string) *oldReader {
	r.t.Helper()
	conn, err := stream.Dial(r.t.Context(), "http://"+r.tc.Addr()+path, stream.DialOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	c := &oldReader{t: r.t, conn: conn, done: make(chan struct{})}
	go c.run()
	r.t.Cleanup(func() {
		conn.CloseNow()
		<-c.done
	})
	return c
}

func (c *oldReader) run() {
	defer close(c.done)
	var codec dropsonde.Encoder
	for {
		b, err := c.conn.Read(context.Background())
		if err == nil {
			err = c.take(&codec, b.Bytes())
			b.Release()
		}
		if err != nil {
			c.mu.Lock()
			c.err = err
			c.mu.Unlock()
			return
		}
	}
}

func (c *oldReader) take(codec *dropsonde.Encoder, v1 []byte) error {
	v2, err := codec.AppendV2(nil, v1)
	if err != nil {
		return err
	}
	var e loggregatorv2.Envelope
	if err := proto.Unmarshal(v2, &e); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case e.Tags["source_type"] == "LGR":
		c.told = append(c.told, e.SourceId+": "+string(e.GetLog().GetPayload()))
	case e.GetCounter().GetName() == "TruncatingBuffer.DroppedMessages":
		c.told = append(c.told, fmt.Sprint("dropped ", e.GetCounter().Delta, " of ", e.GetCounter().Total, " from ", e.Tags["origin"]))
	default:
		c.ids = append(c.ids, e.SourceId+"/"+e.InstanceId)
	}
	return nil
}

func (c *oldReader) have() (ids, told []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(ids, c.ids...), append(told, c.told...)
}

func (c *oldReader) want(ids ...string) {
	c.t.Helper()
	wantIn(c.t, func() []string { got, _ := c.have(); return got }, ids)
}

func TestOldFirehose(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	all, logs, metrics := r.readOld("/firehose/all?"), r.readOld("/firehose/logs?filter-type=logs"), r.readOld("/firehose/metrics?filter-type=metrics")
	eventually(t, "members", func() bool { return len(a.Dials()) == 3 && len(b.Dials()) == 3 })
	a.Emit("app", "a", 500)
	b.Emit("app", "b", 500)
	b.With(func(d *dopplertest.Doppler) { d.Append("app", "requests", "c", 1) })
	lines := append(ids("app", "a", 0, 500), ids("app", "b", 0, 500)...)
	all.want(append(lines, "app/c")...)
	logs.want(lines...)
	metrics.want("app/c")
	eventually(t, "everything is acked", func() bool { return a.Unacked("all")+b.Unacked("all") == 0 })
	if row := r.get("/v2/subscriptions"); !strings.Contains(row.body, `"shard_id":"all"`) {
		t.Errorf("views: %s", row.body)
	}
}

func TestOldTail(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	a.Emit("app", "old", 10)
	one, two := r.readOld("/apps/app/stream"), r.readOld("/apps/app/stream?filter-type=metrics")
	batch := r.read("/apps/app/stream")
	batch.joined(2)
	for name, d := range map[string]*dopplertest.Server{"a": a, "b": b} {
		d.Emit("app", name+"-", 200)
		d.Emit("other", "x", 200)
		// Counters of an app never reach its tails (sharp edge 8).
		d.With(func(d *dopplertest.Doppler) { d.Append("app", "requests", "c", 1) })
	}
	want := append(ids("app", "a-", 0, 200), ids("app", "b-", 0, 200)...)
	one.want(want...)
	two.want(want...)
	batch.want(append(want, "app/c", "app/c")...)
	// What it says is not listened to.
	if err := one.conn.Send(t.Context(), []byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	a.Emit("app", "later", 1)
	one.want(append(want, "app/later0")...)
	// What a life of a Doppler ended with nobody knows: a line of the app says so.
	addr := b.Addr()
	b.Stop(false)
	again, err := dopplertest.Serve(&dopplertest.Doppler{Name: "b", Epoch: 2}, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Stop(false) })
	again.Emit("app", "again", 3)
	one.want(append(append(want, "app/later0"), ids("app", "again", 0, 3)...)...)
	if _, told := one.have(); len(told) != 1 || told[0] != "app: An unknown number of messages dropped: Doppler b was lost" {
		t.Errorf("told %q", told)
	}
}

// A client that takes nothing is cut with the code that old clients know, and
// told why; one that takes little is told what it has missed.
func TestSlowOldTailIsCut(t *testing.T) {
	told, addr := serveAgent(t)
	a := doppler(t, "a", 1)
	r := start(t, func(c *Config) {
		c.SlowTimeout, c.TailQueueBytes, c.SocketBufferBytes = time.Second, 64<<10, 4<<10
		c.AgentAddr, c.MetricInterval = addr, time.Hour
	}, a)
	conn, err := stream.Dial(t.Context(), "http://"+r.tc.Addr()+"/apps/app/stream?filter-type=logs", stream.DialOptions{SocketBuffer: 4 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	r.read("/apps/app/stream").joined(1)
	a.Emit("app", strings.Repeat("x", 1000), 20_000)
	eventually(t, "cut", func() bool {
		return r.logs.with(`"msg":"stream closed"`, `"kind":"tail"`, `"code":1000`, "slow consumer: took nothing for 1s")
	})
	select {
	case e := <-told.got:
		if e.GetEvent().GetTitle() != "Traffic Controller has disconnected slow consumer" || e.SourceId != "traffic_controller" ||
			!strings.Contains(e.GetEvent().GetBody(), "\nPath: /apps/app/stream?filter-type=logs\n") {
			t.Errorf("told %v", e)
		}
	case <-time.After(patience):
		t.Error("no event")
	}
}

// What a slow reader gets and what it is told it misses is all there was.
func TestSlowOldTailCounts(t *testing.T) {
	const total = 10_000
	a := doppler(t, "a", 1)
	r := start(t, func(c *Config) { c.SlowTimeout, c.TailQueueBytes, c.SocketBufferBytes = time.Minute, 128<<10, 64<<10 }, a)
	conn, err := stream.Dial(t.Context(), "http://"+r.tc.Addr()+"/apps/app/stream", stream.DialOptions{SocketBuffer: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	quick := r.read("/apps/app/stream")
	quick.joined(1)
	for n := 100; n <= total; n += 100 {
		a.Emit("app", strings.Repeat("x", 1000), 100)
		eventually(t, "the other one reads", func() bool { return quick.count() == n })
	}
	c := &oldReader{t: t, conn: conn, done: make(chan struct{})}
	go c.run()
	defer func() {
		conn.CloseNow()
		<-c.done
	}()
	count := func() (n int) {
		got, told := c.have()
		n = len(got)
		for _, line := range told {
			missed := 0
			if _, err := fmt.Sscanf(line, "app: %d message", &missed); err != nil {
				t.Fatalf("told %q", line)
			}
			n += missed
		}
		return n
	}
	eventually(t, "all is accounted for", func() bool { return count() == total })
	if got, _ := c.have(); len(got) == total {
		t.Error("nothing was dropped: the test shows nothing")
	}
}

// The newest lines of all Dopplers, as noaa reads them.
func TestRecentLogs(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	for i := range 10 {
		[]*dopplertest.Server{a, b}[i%2].Emit("app", string(rune('a'+i)), 1)
	}
	resp := r.get("/apps/app/recentlogs?limit=4")
	_, boundary, _ := strings.Cut(resp.header.Get("Content-Type"), "boundary=")
	var codec dropsonde.Encoder
	old := &oldReader{t: t}
	for m := multipart.NewReader(strings.NewReader(resp.body), boundary); ; {
		part, err := m.NextPart()
		if err != nil {
			break
		}
		v1, err := io.ReadAll(part)
		if err == nil {
			err = old.take(&codec, v1)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := old.have(); !slices.Equal(got, []string{"app/j0", "app/i0", "app/h0", "app/g0"}) {
		t.Errorf("%v", got)
	}
}
