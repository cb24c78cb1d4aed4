package doppler_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler"
)

func TestMain(m *testing.M) {
	if spec, ok := os.LookupEnv(loadVariable); ok {
		if err := runLoad(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is a running Doppler on ports of its own.
type rig struct {
	*doppler.Doppler
	t      testing.TB
	cancel context.CancelFunc
	ended  chan struct{}
	err    error
	http   *http.Client
	conn   *grpc.ClientConn
}

func config() *doppler.Config {
	c := doppler.DefaultConfig()
	c.Name = "doppler-0"
	c.GRPCAddr, c.StreamAddr, c.AdminAddr = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.RingBytes, c.RecentBytes = 16<<20, 4<<20
	c.IngressBytes, c.IngressWindow = 16<<20, 64<<10
	c.DrainGrace = 5 * time.Second
	c.MetricInterval = 0
	return c
}

// unread is for a Doppler that nobody reads: its drain would wait for readers.
func unread(c *doppler.Config) { c.DrainGrace = 0 }

func start(t *testing.T, change func(*doppler.Config)) *rig {
	t.Helper()
	c := config()
	if change != nil {
		change(c)
	}
	return startConfig(t, c)
}

func startConfig(t testing.TB, c *doppler.Config) *rig {
	t.Helper()
	r := &rig{t: t, ended: make(chan struct{}), http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	var err error
	if r.Doppler, err = doppler.New(*c, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel = cancel
	go func() {
		r.err = r.Run(ctx)
		close(r.ended)
	}()
	t.Cleanup(r.stop)
	return r
}

// stop is what SIGTERM does.
func (r *rig) stop() {
	r.cancel()
	select {
	case <-r.ended:
	case <-time.After(20 * time.Second):
		r.t.Fatal("Run does not return")
	}
	if r.err != nil {
		r.t.Error(r.err)
	}
}

// producer returns a connection that all of the test shares.
func (r *rig) producer() *grpc.ClientConn {
	r.t.Helper()
	if r.conn != nil {
		return r.conn
	}
	conn, err := grpc.NewClient(r.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	r.conn = conn
	return conn
}

func logLine(source, text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		Timestamp: time.Now().UnixNano(), SourceId: source,
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}},
	}
}

// emit sends envelopes and returns when all of them are appended.
func (r *rig) emit(envs ...*loggregatorv2.Envelope) {
	r.t.Helper()
	client := loggregatorv2.NewIngressClient(r.producer())
	if _, err := client.Send(r.t.Context(), &loggregatorv2.EnvelopeBatch{Batch: envs}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) emitLines(source string, from, to int) {
	r.t.Helper()
	for from < to {
		var envs []*loggregatorv2.Envelope
		for ; from < to && len(envs) < 1000; from++ {
			envs = append(envs, logLine(source, fmt.Sprintf("line %d", from)))
		}
		r.emit(envs...)
	}
}

func (r *rig) get(addr, path string) (int, http.Header, string) {
	r.t.Helper()
	resp, err := r.http.Get("http://" + addr + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// eventually waits for something that happens by itself.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never happened: %s", what)
		}
	}
}

// reader is one WebSocket reader that acknowledges all it gets.
type reader struct {
	t     testing.TB
	conn  *stream.Conn
	hello *streampb.Hello
	lines []string
	gaps  []*streampb.Gap
	fin   *streampb.Fin
	next  uint64
	err   error
	mute  bool // says nothing, not even that it got something
}

func (r *rig) read(query string) *reader { return r.readTLS("ws", query, nil) }

func (r *rig) readTLS(scheme, query string, config *tls.Config) *reader {
	r.t.Helper()
	conn, err := stream.Dial(r.t.Context(), scheme+"://"+r.StreamAddr()+stream.PathFirehose+"?"+query, stream.DialOptions{TLS: config})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(conn.CloseNow)
	return &reader{t: r.t, conn: conn}
}

// until reads batches until met, or the end of the connection.
func (c *reader) until(met func() bool) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 20*time.Second)
	defer cancel()
	for !met() {
		buf, err := c.conn.Read(ctx)
		if err != nil {
			c.err = err
			if ctx.Err() != nil {
				c.t.Fatalf("waited in vain; %d lines, gaps %v", len(c.lines), c.gaps)
			}
			return
		}
		c.note(buf.Bytes())
		buf.Release()
	}
}

func (c *reader) lineCount(n int) { c.t.Helper(); c.until(func() bool { return len(c.lines) >= n }) }

func (c *reader) note(msg []byte) {
	c.t.Helper()
	meta, envs, err := stream.SplitBatch(msg)
	if err != nil {
		c.t.Fatal(err)
	}
	var b streampb.Batch
	if err := stream.UnmarshalMeta(meta, &b); err != nil {
		c.t.Fatal(err)
	}
	if b.GetHello() != nil {
		c.hello = b.GetHello()
	}
	c.gaps = append(c.gaps, b.GetGaps()...)
	for _, fin := range b.GetFins() {
		c.fin = fin
	}
	for env := range envelope.Walk(envs) {
		var e loggregatorv2.Envelope
		if err := proto.Unmarshal(env, &e); err != nil {
			c.t.Fatal(err)
		}
		c.lines = append(c.lines, string(e.GetLog().GetPayload()))
	}
	if p := b.GetPosition(); p != nil {
		c.next = max(c.next, p.GetNext())
	}
	if lease := b.GetLease(); lease != nil && !c.mute {
		c.acknowledge(&b, lease.GetId())
	}
}

func (c *reader) acknowledge(b *streampb.Batch, lease uint64) {
	c.t.Helper()
	sends := [][]byte{stream.AppendSent(nil, lease)}
	if ranges := stream.AckRanges(nil, b); len(ranges) > 0 {
		sends = append(sends, stream.AppendAck(nil, c.hello.GetServer(), c.hello.GetEpoch(), ranges...))
	}
	for _, s := range sends {
		if err := c.conn.Send(c.t.Context(), s); err != nil && c.fin == nil {
			c.t.Errorf("send: %v", err)
		}
	}
}

func (c *reader) wantLines(from, to int) {
	c.t.Helper()
	if len(c.lines) != to-from {
		c.t.Fatalf("got %d lines, want %d; gaps %v", len(c.lines), to-from, c.gaps)
	}
	for i, line := range c.lines {
		if line != fmt.Sprintf("line %d", from+i) {
			c.t.Fatalf("line %d is %q", from+i, line)
		}
	}
}

func TestFromProducerToReader(t *testing.T) {
	r := start(t, nil)
	c := r.read("shard_id=nozzle&ack=client")
	c.until(func() bool { return c.hello != nil })
	if c.hello.GetServer() != "doppler-0" || c.hello.GetEpoch() == 0 || c.hello.GetHeartbeatMillis() != 4000 {
		t.Errorf("hello %v", c.hello)
	}
	const lines = 5000
	r.emitLines("app", 0, lines)
	c.lineCount(lines)
	c.wantLines(0, lines)
	if len(c.gaps) != 0 {
		t.Errorf("gaps %v", c.gaps)
	}
	eventually(t, "all acked", func() bool {
		_, _, body := r.get(r.StreamAddr(), "/v2/subscriptions")
		return strings.Contains(body, `"acked":5000`) || strings.Contains(body, `"acked": 5000`)
	})
	for _, addr := range []string{r.StreamAddr(), r.AdminAddr()} {
		path := map[string]string{r.StreamAddr(): "/v2/sources", r.AdminAddr(): "/sources"}[addr]
		if status, _, body := r.get(addr, path); status != http.StatusOK || !strings.Contains(body, `"app"`) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

// TestRecentOutlivesTheRing: a quiet app's lines are there after the noise of
// others has run through the ring.
func TestRecentOutlivesTheRing(t *testing.T) {
	r := start(t, func(c *doppler.Config) {
		unread(c)
		c.RingBytes, c.MaxEnvelopeBytes, c.RecentLogs = 2<<20, 64<<10, 100
	})
	r.emitLines("quiet", 0, 50)
	noise := strings.Repeat("noise ", 100)
	for r.count(t, "doppler_ring_evicted_total") < 100 {
		var envs []*loggregatorv2.Envelope
		for range 1000 {
			envs = append(envs, logLine("loud", noise))
		}
		r.emit(envs...)
	}
	r.emitLines("quiet", 50, 60)
	status, _, body := r.get(r.StreamAddr(), stream.PathHistory+"quiet?limit=1000")
	if status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	c := &reader{t: t}
	c.note([]byte(body))
	c.wantLines(0, 60)
	_, _, body = r.get(r.StreamAddr(), stream.PathHistory+"quiet?limit=15")
	c = &reader{t: t}
	c.note([]byte(body))
	c.wantLines(45, 60)
	_, _, metrics := r.get(r.AdminAddr(), "/metrics")
	if !strings.Contains(metrics, "doppler_recent_sources 1\n") {
		t.Error("no recent sources in the metrics")
	}
}

func TestSelfMetrics(t *testing.T) {
	r := start(t, func(c *doppler.Config) { c.MetricInterval = 20 * time.Millisecond })
	conn, err := stream.Dial(t.Context(), "ws://"+r.StreamAddr()+stream.PathFirehose+"?source_id=doppler", stream.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	r.emit(logLine("app", "one"), logLine("app", "two"))
	found := make(map[string]float64)
	for found["ingress"] < 2 || len(found) < 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		buf, err := conn.Read(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%v, found %v", err, found)
		}
		_, envs, err := stream.SplitBatch(buf.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		for env := range envelope.Walk(envs) {
			var e loggregatorv2.Envelope
			if err := proto.Unmarshal(env, &e); err != nil {
				t.Fatal(err)
			}
			if e.GetSourceId() != "doppler" || e.GetTags()["origin"] != "loggregator.doppler" || e.GetInstanceId() != "doppler-0" {
				t.Errorf("%v", &e)
			}
			if c := e.GetCounter(); c != nil {
				found[strings.TrimSuffix(c.GetName()+" "+e.GetTags()["direction"], " ")] += float64(c.GetDelta())
			}
			for name, v := range e.GetGauge().GetMetrics() {
				found[name] = v.GetValue()
			}
		}
		buf.Release()
	}
	want := map[string]float64{"ingress": 2, "dropped ingress": 0, "dropped egress": 0, "subscriptions": 1}
	for name, value := range want {
		if found[name] != value {
			t.Errorf("%s is %v, want %v", name, found[name], value)
		}
	}
	if _, ok := found["egress"]; !ok {
		t.Error("no egress")
	}
}

func TestAdminListener(t *testing.T) {
	r := start(t, unread)
	r.emit(logLine("app", "one"))
	for path, want := range map[string]string{
		"/health": "ok", "/ready": "ready", "/metrics": "doppler_ingress_envelopes_total 1",
		"/subscriptions": `"subscriptions"`, "/sources": `"app"`, "/debug/pprof/": "goroutine",
	} {
		if status, _, body := r.get(r.AdminAddr(), path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.200s", path, status, body)
		}
	}
	for _, path := range []string{"/health", "/ready"} {
		if status, _, _ := r.get(r.StreamAddr(), path); status != http.StatusOK {
			t.Errorf("stream listener %s: %d", path, status)
		}
	}
}

func TestPortsInUse(t *testing.T) {
	r := start(t, unread)
	for flag, change := range map[string]func(*doppler.Config){
		"grpc-addr":   func(c *doppler.Config) { c.GRPCAddr = r.GRPCAddr() },
		"stream-addr": func(c *doppler.Config) { c.StreamAddr = r.StreamAddr() },
		"admin-addr":  func(c *doppler.Config) { c.AdminAddr = r.AdminAddr() },
	} {
		c := config()
		change(c)
		if _, err := doppler.New(*c, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%s: %v", flag, err)
		}
	}
}

func TestValidateTellsAllFaults(t *testing.T) {
	c := &doppler.Config{GRPCAddr: "nowhere", MaxSourceIDBytes: 1, RecentLogs: -1, Linger: -time.Second}
	c.TLS.Cert = "only.crt"
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, flag := range []string{
		"name", "grpc-addr", "stream-addr", "admin-addr", "ring-bytes", "recent-bytes", "recent-logs", "ingress-bytes",
		"max-message-bytes", "max-source-id-bytes", "linger", "window-bytes", "ack-timeout", "stuck-timeout", "heartbeat",
		"max-watches", "max-subscriptions", "socket-buffer-bytes", "tls-cert",
	} {
		if !strings.Contains(err.Error(), "--"+flag+" ") {
			t.Errorf("nothing about --%s in\n%v", flag, err)
		}
	}
	if _, newErr := doppler.New(*c, slog.New(slog.DiscardHandler)); newErr == nil || newErr.Error() != err.Error() {
		t.Errorf("New says %v", newErr)
	}
	if err := doppler.DefaultConfig().Validate(); err != nil {
		t.Errorf("the defaults have faults: %v", err)
	}
}
