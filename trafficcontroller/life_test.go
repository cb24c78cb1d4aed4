package trafficcontroller

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
)

func closeCode(err error) stream.CloseCode {
	var closed *stream.CloseError
	if errors.As(err, &closed) {
		return closed.Code
	}
	return stream.CloseAbnormal
}

func query(t *testing.T, raw, name string) string {
	t.Helper()
	v, err := url.ParseQuery(raw)
	if err != nil {
		t.Fatal(err)
	}
	return v.Get(name)
}

func TestDrain(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, func(c *Config) { c.DrainGrace = time.Second }, a)
	var readers []*reader
	for range 3 {
		readers = append(readers, r.read("/apps/app/stream"), r.read("/firehose/x"))
	}
	for _, c := range readers {
		c.joined(1)
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	eventually(t, "not ready", func() bool { return r.get("/ready").code == http.StatusServiceUnavailable })
	_, err := r.dial("/apps/app/stream")
	var refused *stream.HandshakeError
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || refused.RetryAfter == 0 ||
		!strings.Contains(refused.Body, "stopping") {
		t.Errorf("a new stream: %v", err)
	}
	a.Emit("app", "late", 5) // the last to be closed still gets it
	for _, c := range readers {
		<-c.done
		if code := closeCode(c.err); code != stream.CloseGoingAway {
			t.Errorf("closed with %v: %v", code, c.err)
		}
	}
	if readers[0].count()+readers[2].count()+readers[4].count() == 0 {
		t.Error("nothing is served while draining")
	}
	<-stopped
	if !r.logs.with("ACCESS CONTROL IS OFF") {
		t.Error("no warning about access control")
	}
}

func TestLimitsSpeak(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, func(c *Config) { c.MaxConnections = 2 }, a)
	r.read("/apps/app/stream").joined(1)
	second := r.read("/firehose/x")
	_, err := r.dial("/firehose/y")
	var refused *stream.HandshakeError
	if !errors.As(err, &refused) || refused.Status != http.StatusServiceUnavailable || refused.RetryAfter == 0 ||
		!strings.Contains(refused.Body, "the limit is 2") {
		t.Errorf("over the limit: %v", err)
	}
	second.close()
	eventually(t, "room again", func() bool {
		c, err := r.dial("/firehose/y")
		if err == nil {
			_ = c.Close(stream.CloseNormal, "")
		}
		return err == nil
	})
}

func TestNotReadyWithoutADoppler(t *testing.T) {
	r := start(t, nil)
	eventually(t, "an answer", func() bool { return r.get("/health").code == http.StatusOK })
	if a := r.get("/ready"); a.code != http.StatusServiceUnavailable || !strings.Contains(a.body, "Doppler") {
		t.Errorf("ready: %+v", a)
	}
	if a := r.get("/firehose/x"); a.code != http.StatusServiceUnavailable && a.code != http.StatusUpgradeRequired {
		t.Errorf("firehose: %+v", a)
	}
	a := doppler(t, "a", 1)
	r.dopplers(a)
	eventually(t, "ready", func() bool { return r.get("/ready").code == http.StatusOK })
}

func TestViewsAndMetrics(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	a.Emit("app", "x", 10)
	b.Emit("app", "x", 20)
	b.Emit("other", "x", 1)
	var sources struct {
		Dopplers []struct{ Doppler string }
		Sources  []struct {
			ID        string `json:"source_id"`
			Envelopes uint64
		}
	}
	view := r.get("/v2/sources?limit=1")
	if err := json.Unmarshal([]byte(view.body), &sources); err != nil {
		t.Fatalf("%v: %s", err, view.body)
	}
	if len(sources.Dopplers) != 2 || len(sources.Sources) != 1 || sources.Sources[0].ID != "app" || sources.Sources[0].Envelopes != 30 {
		t.Errorf("sources: %+v", sources)
	}
	tail := r.read("/apps/app/stream?recent=100")
	eventually(t, "history", func() bool { return tail.count() == 30 })
	admin := "http://" + r.tc.AdminAddr()
	eventually(t, "metrics", func() bool {
		body := get(t, admin+"/metrics").body
		return strings.Contains(body, `trafficcontroller_egress_envelopes_total{endpoint="stream"} 30`) &&
			strings.Contains(body, "trafficcontroller_app_streams 1") && strings.Contains(body, "trafficcontroller_dopplers 2")
	})
	for _, path := range []string{"/health", "/ready", "/subscriptions", "/sources", "/debug/pprof/cmdline"} {
		if a := get(t, admin+path); a.code != http.StatusOK {
			t.Errorf("%s: %+v", path, a)
		}
	}
}

func TestSubscriptionsOfAllDopplers(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	r.read("/firehose/mine").joined(2)
	r.read("/apps/app/stream").joined(2)
	a.Emit("app", "x", 10)
	var view struct{ Subscriptions []subscription }
	if err := json.Unmarshal([]byte(r.get("/v2/subscriptions").body), &view); err != nil {
		t.Fatal(err)
	}
	rows := map[string]subscription{}
	for _, s := range view.Subscriptions {
		rows[s.Kind+" "+s.State] = s
	}
	if len(view.Subscriptions) != 3 || len(rows) != 3 {
		t.Fatalf("rows %+v", view.Subscriptions)
	}
	// The test's Doppler does not say whose member it is: that is another row.
	if s := rows["firehose lingers"]; s.ShardID != "mine" || s.Lag != 2 || s.Accepted != 10 || s.Dopplers != 2 {
		t.Errorf("as the Dopplers tell: %+v", s)
	}
	if s := rows["firehose open"]; s.ShardID != "mine" || s.Member != "tc" || s.Remote == "" || s.Dopplers != 2 {
		t.Errorf("as we know: %+v", s)
	}
	if s := rows["tail open"]; s.SourceID != "app" || s.Member != "tc" {
		t.Errorf("tail: %+v", s)
	}
}

func TestConfigTellsAllFaults(t *testing.T) {
	cfg := config()
	cfg.Addr, cfg.DisableAccessControl, cfg.MaxRecent, cfg.TLSCert = "nowhere", false, 0, "cert.pem"
	cfg.Dopplers = []string{"doppler:8083", "dns:///doppler", "file:"}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("no fault")
	}
	for _, word := range []string{"--addr", "--disable-access-control", "--max-recent", "--tls-cert", `"dns:///doppler"`, `"file:"`} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("nothing about %s in %v", word, err)
		}
	}
	if strings.Contains(err.Error(), "doppler:8083") {
		t.Errorf("a good target is called bad: %v", err)
	}
	if _, err := New(*cfg, nil); err == nil {
		t.Error("New takes it")
	}
}

// agent takes self-metrics.
type agent struct {
	loggregatorv2.UnimplementedIngressServer
	got chan *loggregatorv2.Envelope
}

func (a *agent) Send(_ context.Context, b *loggregatorv2.EnvelopeBatch) (*loggregatorv2.SendResponse, error) {
	return &loggregatorv2.SendResponse{}, a.take(b)
}

func (a *agent) BatchSender(s grpc.ClientStreamingServer[loggregatorv2.EnvelopeBatch, loggregatorv2.BatchSenderResponse]) error {
	for {
		b, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&loggregatorv2.BatchSenderResponse{})
		}
		if err != nil {
			return err
		}
		if err := a.take(b); err != nil {
			return err
		}
	}
}

func (a *agent) take(b *loggregatorv2.EnvelopeBatch) error {
	for _, e := range b.GetBatch() {
		select {
		case a.got <- e:
		default:
			return errors.New("the test does not read")
		}
	}
	return nil
}

// serveAgent returns an agent and its address.
func serveAgent(t *testing.T) (got *agent, addr string) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	got = &agent{got: make(chan *loggregatorv2.Envelope, 1000)}
	server := grpc.NewServer()
	loggregatorv2.RegisterIngressServer(server, got)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Stop(); <-served })
	return got, l.Addr().String()
}

func TestSelfMetrics(t *testing.T) {
	got, addr := serveAgent(t)
	a := doppler(t, "a", 1)
	r := start(t, func(c *Config) { c.AgentAddr, c.MetricInterval = addr, time.Second }, a)
	tail := r.read("/apps/app/stream")
	tail.joined(1)
	a.Emit("app", "x", 42)
	tail.want(ids("app", "x", 0, 42)...)
	egress := uint64(0)
	seen := map[string]bool{}
	for egress < 42 || !seen["doppler_proxy.app_streams"] || !seen["ingress"] {
		select {
		case e := <-got.got:
			if e.SourceId != "traffic_controller" || e.Tags["origin"] != "loggregator.trafficcontroller" || e.Tags["metric_version"] != "2.0" {
				t.Fatalf("envelope %v", e)
			}
			seen[e.GetCounter().GetName()] = true
			for name := range e.GetGauge().GetMetrics() {
				seen[name] = true
			}
			if e.GetCounter().GetName() == "egress" && e.Tags["endpoint"] == "stream" {
				egress += e.GetCounter().GetDelta()
			}
		case <-time.After(patience):
			t.Fatalf("egress %d, seen %v", egress, seen)
		}
	}
}
