package egress

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// noRecent is a recent store that keeps nothing.
type noRecent struct{}

func (noRecent) Read(string, envelope.ClassMask, uint64, uint64, int, [envelope.NumClasses]uint64, func(uint64, envelope.Class, []byte)) {
}

func (noRecent) EachSource(func(string) [envelope.NumClasses]uint64, func(string, int, int64, int64)) {
}

// doppler is a server over a ring, without ingress.
type doppler struct {
	t      *testing.T
	log    *ring.Ring
	server *Server
	http   *httptest.Server
	seq    int
	stop   func()
}

func start(t *testing.T, ringBytes int64, change func(*Config)) *doppler {
	t.Helper()
	d := &doppler{t: t}
	var err error
	d.log, err = ring.New(ring.Config{Bytes: ringBytes, BeforeEvict: func(c ring.Chunk) { d.server.BeforeEvict(c) }})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Doppler: "doppler-0", Epoch: 7, Linger: time.Minute, WindowBytes: 256 << 10, AckTimeout: 30 * time.Second,
		StuckTimeout: 10 * time.Second, Heartbeat: 5 * time.Second, MaxWatches: 100, MaxSubscriptions: 100,
		SocketBuffer: 256 << 10,
	}
	if change != nil {
		change(&cfg)
	}
	d.server = New(d.log, noRecent{}, cfg, slog.New(slog.DiscardHandler), func() (uint64, uint64) { return d.log.Head(), 0 })
	d.http = httptest.NewServer(d.server.Handler())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- d.server.Run(ctx) }()
	d.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		d.http.Close()
		d.log.Close()
	}
	return d
}

// emit appends n log lines of a source, numbered over all sources.
func (d *doppler) emit(source string, n int) {
	d.t.Helper()
	for range n {
		msg, recs := line(d.t, source, d.seq)
		d.seq++
		d.log.Append(msg, recs)
	}
}

// line is a log with a number, which is its time too.
func line(t testing.TB, source string, n int) (msg []byte, recs []envelope.Record) {
	t.Helper()
	e := &loggregatorv2.Envelope{
		SourceId: source, Timestamp: int64(n),
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: fmt.Appendf(nil, "line %d", n)}},
	}
	msg, err := proto.Marshal(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{e}})
	if err != nil {
		t.Fatal(err)
	}
	recs, dropped := envelope.ScanBatch(msg, envelope.Limits{}, nil)
	if len(recs) != 1 || dropped != (envelope.Dropped{}) {
		t.Fatalf("scan: %d records, dropped %+v", len(recs), dropped)
	}
	return msg, recs
}

// client is one WebSocket to the Doppler.
type client struct {
	t     *testing.T
	conn  *stream.Conn
	lines []string
	offs  []uint64
	gaps  []*streampb.Gap
	fins  []*streampb.Fin
	watch []*streampb.Watching
}

func (d *doppler) dial(path string) *client {
	d.t.Helper()
	conn, err := stream.Dial(d.t.Context(), d.http.URL+path, stream.DialOptions{})
	if err != nil {
		d.t.Fatal(err)
	}
	return &client{t: d.t, conn: conn}
}

// next reads one batch and notes what it holds.
func (c *client) next() (*streampb.Batch, error) {
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	buf, err := c.conn.Read(ctx)
	if err != nil {
		return nil, err
	}
	defer buf.Release()
	meta, records, err := stream.SplitBatch(buf.Bytes())
	if err != nil {
		c.t.Fatal(err)
	}
	b := &streampb.Batch{}
	if err := stream.UnmarshalMeta(meta, b); err != nil {
		c.t.Fatal(err)
	}
	c.note(b, records)
	return b, nil
}

func (c *client) note(b *streampb.Batch, records []byte) {
	n := 0
	for env := range envelope.Walk(records) {
		e := &loggregatorv2.Envelope{}
		if err := proto.Unmarshal(env, e); err != nil {
			c.t.Fatal(err)
		}
		c.lines = append(c.lines, e.GetSourceId()+": "+string(e.GetLog().GetPayload()))
		n++
	}
	p := b.GetPosition()
	if int(p.GetCount()) != n {
		c.t.Fatalf("position says %d envelopes, the batch holds %d", p.GetCount(), n)
	}
	off := p.GetFirst()
	for i := range n {
		if i > 0 {
			off++
			if d := p.GetDeltas(); len(d) > 0 {
				off += uint64(d[i-1]) - 1
			}
		}
		c.offs = append(c.offs, off)
	}
	c.gaps = append(c.gaps, b.GetGaps()...)
	c.fins = append(c.fins, b.GetFins()...)
	c.watch = append(c.watch, b.GetWatching()...)
}

// want reads until n lines are there, acking what comes.
func (c *client) want(n int) {
	c.t.Helper()
	for len(c.lines) < n {
		b, err := c.next()
		if err != nil {
			c.t.Fatalf("after %d of %d lines: %v", len(c.lines), n, err)
		}
		c.settle(b)
	}
	if len(c.lines) != n {
		c.t.Fatalf("%d lines, want %d", len(c.lines), n)
	}
}

// settle says sent and acked.
func (c *client) settle(b *streampb.Batch) {
	c.t.Helper()
	if b.GetLease() == nil {
		return
	}
	c.send(&streampb.Control{Message: &streampb.Control_Sent{Sent: &streampb.Sent{Lease: b.GetLease().GetId()}}})
	p := b.GetPosition()
	ack := &streampb.Ack{Doppler: p.GetDoppler(), Epoch: p.GetEpoch()}
	if p.GetCount() > 0 {
		last := c.offs[len(c.offs)-1]
		ack.Ranges = append(ack.Ranges, &streampb.Range{First: p.GetFirst(), Last: last})
	}
	for _, g := range b.GetGaps() {
		if g.GetTo() > g.GetFrom() {
			ack.Ranges = append(ack.Ranges, &streampb.Range{First: g.GetFrom(), Last: g.GetTo() - 1})
		}
	}
	c.send(&streampb.Control{Message: &streampb.Control_Ack{Ack: ack}})
}

func (c *client) send(m *streampb.Control) {
	c.t.Helper()
	msg, err := proto.Marshal(m)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.conn.Send(c.t.Context(), msg); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) addWatch(request uint64, id uint32, source string) {
	c.send(&streampb.Control{Message: &streampb.Control_Watch{Watch: &streampb.Watch{
		Request: request, Add: []*streampb.Watch_Add{{SourceId: source, Watch: id}},
	}}})
}

func TestFirehoseGetsEverythingInOrder(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a")
	defer c.conn.CloseNow()
	d.emit("app-1", 500)
	d.emit("app-2", 500)
	c.want(1000)
	for i, off := range c.offs {
		if off != uint64(i) || !strings.HasSuffix(c.lines[i], fmt.Sprintf("line %d", i)) {
			t.Fatalf("envelope %d: offset %d, %q", i, off, c.lines[i])
		}
	}
}

func TestFirehoseFilters(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a&source_id=app-2&type=log")
	defer c.conn.CloseNow()
	other := d.dial("/v2/firehose?shard_id=a&type=counter")
	defer other.conn.CloseNow()
	byClass := d.dial("/v2/firehose?shard_id=b&class=event&class=log")
	defer byClass.conn.CloseNow()
	for range 10 {
		d.emit("app-1", 3)
		d.emit("app-2", 2)
	}
	c.want(20)
	byClass.want(50)
	for _, l := range c.lines {
		if !strings.HasPrefix(l, "app-2: ") {
			t.Fatalf("foreign line %q", l)
		}
	}
}

func TestMembersShareAGroup(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	const total = 3000
	a := d.dial("/v2/firehose?shard_id=a")
	defer a.conn.CloseNow()
	b := d.dial("/v2/firehose?shard_id=a")
	defer b.conn.CloseNow()
	got := make(chan int, 2)
	for _, c := range []*client{a, b} {
		go func() {
			for {
				batch, err := c.next()
				if err != nil {
					got <- len(c.lines)
					return
				}
				c.settle(batch)
			}
		}()
	}
	d.emit("app", total)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	d.server.Drain(ctx)
	if n := <-got + <-got; n != total {
		t.Fatalf("%d lines in all, want %d", n, total)
	}
	seen := map[uint64]bool{}
	for _, off := range append(a.offs, b.offs...) {
		if seen[off] {
			t.Fatalf("offset %d twice", off)
		}
		seen[off] = true
	}
	if len(a.fins) != 1 || len(b.fins) != 1 || a.fins[0].GetEnd() != total {
		t.Fatalf("fins %v %v", a.fins, b.fins)
	}
}

func TestUnackedGoesToTheNextMember(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	a := d.dial("/v2/firehose?shard_id=a&ack=client")
	d.emit("app", 100)
	for len(a.lines) < 100 {
		if _, err := a.next(); err != nil {
			t.Fatal(err)
		}
	}
	a.conn.CloseNow()
	b := d.dial("/v2/firehose?shard_id=a&ack=client")
	defer b.conn.CloseNow()
	again := 0
	for len(b.lines) < 100 {
		batch, err := b.next()
		if err != nil {
			t.Fatal(err)
		}
		if batch.GetLease().GetRedelivered() {
			again += int(batch.GetPosition().GetCount())
		}
		b.settle(batch)
	}
	if again != 100 {
		t.Fatalf("%d of 100 marked redelivered", again)
	}
}

func TestLaggingReaderIsToldExactly(t *testing.T) {
	d := start(t, 1<<20, func(c *Config) { c.WindowBytes = 64 << 10; c.SocketBuffer = 16 << 10 })
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a")
	defer c.conn.CloseNow()
	const total = 60_000
	d.emit("app", total)
	counted := uint64(0)
	for uint64(len(c.lines))+counted < total {
		b, err := c.next()
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range b.GetGaps() {
			if g.GetPrecision() != streampb.Gap_EXACT {
				t.Fatalf("gap %v", g)
			}
			if g.GetReason() != streampb.Gap_UNCONFIRMED { // those came, but too late an ack
				counted += g.GetCount()
			}
		}
		c.settle(b)
	}
	if counted == 0 || uint64(len(c.lines))+counted != total {
		t.Fatalf("%d lines and %d missed, want %d in all", len(c.lines), counted, total)
	}
}

func TestTailLinkGetsItsSourcesAndNothingElse(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	d.emit("app-1", 10)
	c := d.dial("/v2/tails")
	defer c.conn.CloseNow()
	c.addWatch(1, 5, "app-1")
	for len(c.watch) == 0 {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	if w := c.watch[0]; w.GetJoin() != 10 || w.GetWatch() != 5 || w.GetClassCounts()[envelope.Log] != 10 {
		t.Fatalf("watching %v", w)
	}
	for range 20 {
		d.emit("app-2", 7)
		d.emit("app-1", 1)
	}
	for len(c.lines) < 20 {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	for _, l := range c.lines {
		if !strings.HasPrefix(l, "app-1: ") {
			t.Fatalf("foreign line %q", l)
		}
	}
}

func (d *doppler) history(query string) *client {
	d.t.Helper()
	resp, err := http.Get(d.http.URL + stream.PathHistory + query)
	if err != nil {
		d.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		d.t.Fatalf("%s: %d %s %v", query, resp.StatusCode, body, err)
	}
	meta, records, err := stream.SplitBatch(body)
	if err != nil {
		d.t.Fatal(err)
	}
	b := &streampb.Batch{}
	if err := stream.UnmarshalMeta(meta, b); err != nil {
		d.t.Fatal(err)
	}
	c := &client{t: d.t}
	c.note(b, records)
	return c
}

func TestHistory(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	for range 50 {
		d.emit("app/1", 1)
		d.emit("app-2", 3)
	}
	for _, tc := range []struct {
		query string
		first uint64
		n     int
		gap   uint64
	}{
		{"app%2F1", 0, 50, 0},
		{"app%2F1?limit=5", 180, 5, 0},
		{"app%2F1?limit=5&to=100", 80, 5, 0},
		{"app%2F1?from=100&matched=25", 100, 25, 0},
		{"app%2F1?from=100&to=120&matched=25", 100, 5, 0},
		{"app%2F1?type=counter", 0, 0, 0},
		{"app%2F1?since=190", 192, 2, 0},
		{"unknown", 0, 0, 0},
	} {
		c := d.history(tc.query)
		if len(c.offs) != tc.n || tc.n > 0 && c.offs[0] != tc.first || len(c.gaps) != 0 {
			t.Errorf("%s: offsets %v gaps %v, want %d from %d", tc.query, c.offs, c.gaps, tc.n, tc.first)
		}
	}
}

func TestHistorySaysWhatIsNotHeld(t *testing.T) {
	d := start(t, 1<<20, nil)
	defer d.stop()
	const total = 40_000
	d.emit("app", total)
	got, missed, from := 0, uint64(0), uint64(0)
	for from < total {
		c := d.history(fmt.Sprintf("app?from=%d&matched=%d", from, from))
		for _, g := range c.gaps {
			missed += g.GetCount()
		}
		got += len(c.offs)
		if len(c.offs) == 0 {
			t.Fatal("an empty page before the end")
		}
		from = c.offs[len(c.offs)-1] + 1
	}
	if missed == 0 || uint64(got)+missed != total {
		t.Fatalf("%d lines and %d missed, want %d in all", got, missed, total)
	}
}

func TestBadRequests(t *testing.T) {
	d := start(t, 1<<20, nil)
	defer d.stop()
	for _, tc := range []struct {
		path   string
		status int
		says   string
	}{
		{"/v2/firehose?type=trace", 400, "trace"},
		{"/v2/firehose?class=logs", 400, "logs"},
		{"/v2/firehose?start=middle", 400, "start"},
		{"/v2/firehose?source_id=a" + strings.Repeat("&selector=type%3Dlog", 10_000), 400, "10000 parameters"},
		{"/v2/firehose?type=log&source_id=%zz", 400, "invalid URL escape"},
		{"/v2/history?source_id=a" + strings.Repeat("&source_id=b", 10_000), 400, "10000 parameters"},
		{"/v2/tails?user=%zz", 400, "invalid URL escape"},
		{"/v2/firehose?ack=never", 400, "ack"},
		{"/v2/firehose?session=me", 400, "session"},
		{"/v2/tails?session=m%20e:1", 400, "session"},
		{"/v2/firehose?cursor=nonsense", 400, "cursor"},
		{"/v2/firehose?shard_id=" + strings.Repeat("x", 2000), 400, "1024"},
		{"/v2/firehose?type=log&selector=type%3Dlog", 400, "type and selector do not go together"},
		{"/v2/firehose?selector=type%3Dtrace", 400, "trace"},
		{"/v2/firehose?selector=colour%3Dred", 400, "colour"},
		{"/v2/firehose?selector=exact%3Dtrue", 400, "exact"},
		{"/v2/firehose?selector=" + url.QueryEscape(strings.Repeat("&name=n", 9_999)[1:]) + "&selector=name%3Dn%26name%3Dm", 400, "more than 10000"},
		{"/v2/firehose", 426, "WebSocket"},
		{"/v2/tails", 426, "WebSocket"},
		{"/v2/history/app?limit=many", 400, "limit"},
		{"/v2/history/app?limit=1000000000", 400, "100000"},
		{"/v2/sources?limit=0", 400, "limit"},
		{"/v3/anything", 404, "not found"},
	} {
		resp, err := http.Get(d.http.URL + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.status || !strings.Contains(string(body), tc.says) {
			t.Errorf("%.60s: %d %q, want %d and %q", tc.path, resp.StatusCode, body, tc.status, tc.says)
		}
	}
}

func TestBadControlIsClosedWithItsOwnCode(t *testing.T) {
	d := start(t, 1<<20, nil)
	defer d.stop()
	c := d.dial("/v2/tails")
	defer c.conn.CloseNow()
	if err := c.conn.Send(t.Context(), []byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		_, err = c.next()
	}
	if !strings.Contains(err.Error(), "4003") {
		t.Fatalf("closed with %v", err)
	}
}

func TestWatchOverTheLimitIsRefusedInWords(t *testing.T) {
	d := start(t, 1<<20, func(c *Config) { c.MaxWatches = 2 })
	defer d.stop()
	c := d.dial("/v2/tails")
	defer c.conn.CloseNow()
	for i := range uint32(3) {
		c.addWatch(uint64(i), i, fmt.Sprintf("app-%d", i))
	}
	for len(c.watch) < 3 {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	if c.watch[1].GetError() != "" || !strings.Contains(c.watch[2].GetError(), "limit is 2") {
		t.Fatalf("answers %v", c.watch)
	}
}

func TestCursorOfAnotherEpochIsTold(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	d.emit("app", 5)
	cursor := stream.EncodeCursor(&streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{
		{Doppler: "doppler-0", Epoch: 3, Offset: 17, Matched: 17},
	}})
	c := d.dial("/v2/firehose?shard_id=a&cursor=" + cursor)
	defer c.conn.CloseNow()
	c.want(5)
	if len(c.gaps) != 1 || c.gaps[0].GetPrecision() != streampb.Gap_UNKNOWN || c.gaps[0].GetReason() != streampb.Gap_DOPPLER_LOST {
		t.Fatalf("gaps %v", c.gaps)
	}
}

func TestViews(t *testing.T) {
	d := start(t, 16<<20, nil)
	defer d.stop()
	c := d.dial("/v2/firehose?shard_id=a&remote=10.0.0.9:1")
	defer c.conn.CloseNow()
	d.emit("app-1", 10)
	d.emit("app-2", 20)
	c.want(30)
	var subs struct{ Subscriptions []Subscription }
	getJSON(t, d.http.URL+stream.PathSubscriptions, &subs)
	if len(subs.Subscriptions) != 1 || subs.Subscriptions[0].ShardID != "a" || subs.Subscriptions[0].Remote != "10.0.0.9:1" {
		t.Fatalf("subscriptions %+v", subs)
	}
	var sources struct {
		Head    uint64
		Sources []sourceRow
	}
	getJSON(t, d.http.URL+stream.PathSources, &sources)
	if sources.Head != 30 || len(sources.Sources) != 2 || sources.Sources[0].ID != "app-2" || sources.Sources[0].Envelopes != 20 {
		t.Fatalf("sources %+v", sources)
	}
}

func getJSON(t *testing.T, url string, into any) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		t.Fatal(err)
	}
}

// Selectors add up: what several of them select comes once. Their order does not
// matter to who shares.
func TestSelectors(t *testing.T) {
	d := start(t, 4<<20, nil)
	defer d.stop()
	one := d.dial("/v2/firehose?shard_id=s&selector=source_id%3Da&selector=type%3Dlog%26source_id%3Da%26source_id%3Db&selector=type%3Dgauge")
	two := d.dial("/v2/firehose?shard_id=s&selector=type%3Dgauge&selector=source_id%3Db%26type%3Dlog&selector=source_id%3Da")
	for _, c := range []*client{one, two} {
		defer c.conn.CloseNow()
		if _, err := c.next(); err != nil { // hello
			t.Fatal(err)
		}
	}
	if rows := d.server.Subscriptions(); len(rows) != 2 || rows[0].Filter != rows[1].Filter {
		t.Fatalf("they do not share: %+v", rows)
	}
	for range 100 {
		d.emit("a", 1)
		d.emit("b", 1)
		d.emit("c", 1)
	}
	got := make(chan string, 1000)
	for _, c := range []*client{one, two} {
		go func() {
			for {
				n := len(c.lines)
				if _, err := c.next(); err != nil {
					return
				}
				for _, l := range c.lines[n:] {
					got <- l
				}
			}
		}()
	}
	seen := map[string]bool{}
	for range 200 {
		l := <-got
		if strings.HasPrefix(l, "c: ") || seen[l] {
			t.Errorf("got %q", l)
		}
		seen[l] = true
	}
}
