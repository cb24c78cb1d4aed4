package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

// realApp is the first of the apps that realclient's envelopes are of.
const realApp = "f47ac10b-58cc-4372-a567-0e02b2c3d479"

// numbered is how many envelopes a test of all fields sends.
func numberedEnvelopes() int {
	if full {
		return 1_000_000
	}
	return 2_000
}

// patience is how long a reader waits for the rest before it says what is
// missing: less than the test does.
func patience() string {
	if full || blackbox.Race {
		return "7m"
	}
	return "1m"
}

// realPlatform is a platform for real clients: TLS everywhere, UAA and Cloud Controller.
type realPlatform struct {
	*pipeline.Pipeline
	cf    *pipeline.CF
	certs string
}

// startReal starts a platform that knows alice, who may read realApp, and nia,
// who may read the Firehose. Their tokens are their names.
func startReal(t *testing.T, conf pipeline.Config) *realPlatform {
	t.Helper()
	ctx := deadline(t)
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	cf, err := pipeline.StartCF(blackbox.Programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cf.Kill)
	err = cf.Control(ctx, http.MethodPut, "/state", fakecf.State{
		Users: []fakecf.User{
			{Name: "alice", Scopes: []string{"cloud_controller.read"}, Apps: []string{realApp}},
			{Name: "nia", Scopes: []string{"doppler.firehose", "logs.admin", "cloud_controller.admin"}},
		},
		Tokens: []fakecf.Token{{Token: "alice", User: "alice"}, {Token: "nia", User: "nia"}},
		Apps:   []fakecf.Resource{{GUID: realApp, Name: "shop"}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	conf.Certs, conf.Access = certs, cf.Access()
	if full {
		conf.DopplerArgs = append(conf.DopplerArgs, "--ring-bytes", "1GiB")
	}
	return &realPlatform{start(t, conf), cf, certs}
}

// realClient is a running realclient and what it says.
type realClient struct {
	*process.Process
	mu   sync.Mutex
	text bytes.Buffer
}

// Write takes what it says.
func (c *realClient) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(p)
}

// run starts a realclient, with the flags to reach a Traffic Controller.
func (p *realPlatform) run(t *testing.T, args ...string) *realClient {
	t.Helper()
	return p.runWith(t, process.Command{Args: args})
}

func (p *realPlatform) runWith(t *testing.T, command process.Command) *realClient {
	t.Helper()
	c := &realClient{}
	command.Args, command.Stdout = append(command.Args, "-ca", p.certs+"/ca.crt"), c
	c.Process = launch(t, process.RealClient, command)
	return c
}

// inside starts a realclient that shows the agent's certificate to a Doppler.
func (p *realPlatform) inside(t *testing.T, command string, doppler int, args ...string) *realClient {
	t.Helper()
	name := mtls.NameTrafficController // of who reads
	if command == "send" || command == "emit" {
		name = mtls.NameMetron
	}
	files := mtls.SetFiles(p.certs, name)
	return p.run(t, append([]string{
		command, "-addr", p.Dopplers[doppler].Addrs[pipeline.GRPC], "-server-name", "doppler",
		"-cert", files.Cert, "-key", files.Key,
	}, args...)...)
}

// as shows the token of a user.
func as(user string) func(context.Context) (http.Header, error) {
	return func(context.Context) (http.Header, error) {
		return http.Header{"Authorization": {"bearer " + user}}, nil
	}
}

// line is one that realclient says.
type line struct {
	Connected bool
	Error     string
	Refreshed string
	Envelope  json.RawMessage
	Metric    json.RawMessage
	Meta      map[string]json.RawMessage
	Sent      int
	// of a check
	Want, Received, Whole, Gaps, Wrong, Others, Order int
	WantWhole                                         int `json:"want_whole"`
	First                                             string
}

func (c *realClient) lines(t *testing.T) (all []line) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for text := range bytes.Lines(c.text.Bytes()) {
		var l line
		if !bytes.HasSuffix(text, []byte("\n")) {
			break // half of it
		}
		if err := json.Unmarshal(text, &l); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		all = append(all, l)
	}
	return all
}

// says waits until it has said such a line.
func (c *realClient) says(ctx context.Context, t *testing.T, what string, such func(line) bool) (found line) {
	t.Helper()
	poll(ctx, t, what, func() bool {
		for _, l := range c.lines(t) {
			if such(l) {
				found = l
				return true
			}
		}
		select {
		case <-c.Done():
			t.Fatalf("it ended without %s: %s%s", what, c.Log(), c.text.String())
		default:
		}
		return false
	})
	return found
}

// result waits for its end and returns its last line.
func (c *realClient) result(ctx context.Context, t *testing.T) line {
	t.Helper()
	finish(ctx, t, c.Process)
	all := c.lines(t)
	if len(all) == 0 {
		t.Fatalf("it says nothing: %s", c.Log())
	}
	return all[len(all)-1]
}

// checked waits for the end of a check and holds it to have got everything,
// right and once.
func (c *realClient) checked(ctx context.Context, t *testing.T, name string) {
	t.Helper()
	r := c.result(ctx, t)
	if r.Want == 0 || r.Received != r.Want || r.Wrong+r.Others != 0 {
		t.Errorf("%s: %d of %d, %d wrong, %d of others: %s", name, r.Received, r.Want, r.Wrong, r.Others, r.First)
	}
}

// hasMembers waits until a subscription has n members at every Doppler.
func (p *realPlatform) hasMembers(ctx context.Context, t *testing.T, shard string, n int) {
	t.Helper()
	for _, d := range p.Dopplers {
		poll(ctx, t, shard+" to have its members", func() bool { return members(ctx, t, d, shard) == n })
	}
}

// hasTails waits until a Traffic Controller has n tails, all joined.
func (p *realPlatform) hasTails(ctx context.Context, t *testing.T, n int) {
	t.Helper()
	poll(ctx, t, "the tails to join", func() bool {
		joined := 0
		for _, s := range subscriptions(ctx, t, p.Controllers[0]) {
			if s.Kind == "tail" && s.State == "open" {
				joined++
			}
		}
		return joined == n
	})
}

// TestNoaaGetsEveryField has noaa read the Firehose, whole and filtered, and
// the stream of an app, and compare every field of everything.
func TestNoaaGetsEveryField(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1, ControllerArgs: []string{"--tail-queue-bytes", "256MiB", "--tails-queue-bytes", "1GiB"}})
	count := strconv.Itoa(numberedEnvelopes())
	readers := map[string]*realClient{}
	for mode, flags := range map[string][]string{
		"firehose": {"-id", "whole", "-token", "bearer nia"}, "logs": {"-id", "some", "-token", "bearer nia"},
		"metrics": {"-id", "some", "-token", "bearer nia"}, "stream": {"-id", realApp, "-token", "bearer alice"},
	} {
		args := []string{"noaa", "-addr", p.URL(0), "-mode", mode, "-run", "r", "-via", "batch", "-count", count, "-limit", patience()}
		readers[mode] = p.run(t, append(args, flags...)...)
	}
	p.hasMembers(ctx, t, "whole", 1)
	p.hasMembers(ctx, t, "some", 2)
	p.hasTails(ctx, t, 1)
	p.inside(t, "send", 0, "-run", "r", "-via", "batch", "-count", count, "-rate", "20000").result(ctx, t)
	for mode, c := range readers {
		c.checked(ctx, t, mode)
	}
}

// TestNoaaTails prints an app's lines, as cf logs of old did.
func TestNoaaTails(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	tail := p.run(t, "noaa", "-addr", p.URL(0), "-mode", "tail", "-id", realApp, "-token", "bearer alice", "-lines")
	p.hasTails(ctx, t, 1)
	finish(ctx, t, p.inside(t, "emit", 0, "-source", realApp).Process)
	for _, text := range []string{"to stdout", "to stderr"} {
		tail.says(ctx, t, "a log", func(l line) bool { return logOf(t, l) == text })
	}
	if code, err := tail.Stop(ctx); err != nil || code != 0 {
		t.Errorf("code %d, %v", code, err)
	}
}

// logOf is the text of a log, or empty.
func logOf(t *testing.T, l line) string {
	t.Helper()
	var e struct {
		LogMessage struct{ Message []byte }
	}
	if len(l.Envelope) > 0 {
		if err := json.Unmarshal(l.Envelope, &e); err != nil {
			t.Fatal(err)
		}
	}
	return string(e.LogMessage.Message)
}

// TestNoaaComesBack kills the Traffic Controller under a reader, which has to
// come back by itself and read on.
func TestNoaaComesBack(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	reader := p.run(t, "noaa", "-addr", p.URL(0), "-id", "back", "-token", "bearer nia", "-lines", "-retry", "20ms")
	p.hasMembers(ctx, t, "back", 1)
	p.Controllers[0].Kill()
	reader.says(ctx, t, "an error", func(l line) bool { return l.Error != "" })
	if err := p.Restart(ctx, p.Controllers[0]); err != nil {
		t.Fatal(err)
	}
	finish(ctx, t, p.inside(t, "emit", 0).Process)
	reader.says(ctx, t, "what came while it was away", func(l line) bool { return logOf(t, l) == "to stdout" })
	connects := 0
	for _, l := range reader.lines(t) {
		if l.Connected {
			connects++
		}
	}
	if connects != 2 {
		t.Errorf("it connected %d times", connects)
	}
}

// TestNoaaRefreshesItsToken begins with a token that has expired.
func TestNoaaRefreshesItsToken(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "bearer nia") }))
	defer tokens.Close()
	reader := p.run(t, "noaa", "-addr", p.URL(0), "-id", "fresh", "-token", "bearer stale", "-refresh", tokens.URL, "-lines")
	reader.says(ctx, t, "the new token", func(l line) bool { return l.Refreshed == "bearer nia" })
	p.hasMembers(ctx, t, "fresh", 1)
	finish(ctx, t, p.inside(t, "emit", 0).Process)
	reader.says(ctx, t, "a log", func(l line) bool { return logOf(t, l) == "to stdout" })

	denied := p.run(t, "noaa", "-addr", p.URL(0), "-id", "fresh", "-token", "bearer alice", "-lines")
	denied.says(ctx, t, "that alice may not read it", func(l line) bool {
		return strings.Contains(l.Error, "You are not authorized. invalid authorization")
	})
}

// TestIngressClient emits one of each kind with go-loggregator, the event by
// the unary Send, and reads them with our own SDK.
func TestIngressClient(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	outside, err := p.ReaderTLS()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := nozzle.Open(ctx, nozzle.Config{
		Addr: p.URL(0), Subscription: "kinds", TLS: outside, AutoAck: true,
		Header: as("nia"),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	p.hasMembers(ctx, t, "kinds", 1)
	finish(ctx, t, p.inside(t, "emit", 0, "-source", "s").Process)
	want := emitted()
	for len(want) > 0 {
		b, err := stream.Recv(ctx)
		if err != nil {
			t.Fatalf("%v; still missing: %v", err, want)
		}
		list, err := b.Decode()
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list {
			if w := want[e.GetInstanceId()]; w == nil || e.GetTimestamp() == 0 {
				t.Errorf("unexpected: %s", prototext.Format(e))
			} else if w.Timestamp = e.Timestamp; !proto.Equal(w, e) {
				t.Errorf("%s, want %s", prototext.Format(e), prototext.Format(w))
			}
			delete(want, e.GetInstanceId())
		}
		b.Release()
	}
}

// emitted is what realclient emits, by its instance id.
func emitted() map[string]*loggregatorv2.Envelope {
	log := func(kind loggregatorv2.Log_Type, text string) *loggregatorv2.Envelope {
		return &loggregatorv2.Envelope{
			Tags:    map[string]string{"source_type": "APP/PROC/WEB"},
			Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text), Type: kind}},
		}
	}
	all := map[string]*loggregatorv2.Envelope{
		"0": log(loggregatorv2.Log_OUT, "to stdout"), "1": log(loggregatorv2.Log_ERR, "to stderr"),
		"2": {Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "delta", Delta: 5}}},
		"3": {Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "total", Total: 50}}},
		"4": {Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{"temperature": {Unit: "C", Value: 36.6}}}}},
		"5": {Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: 1_000_000_005, Stop: 2_000_000_006}}},
		"6": {Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "title", Body: "body"}}},
	}
	for instance, e := range all {
		e.SourceId, e.InstanceId = "s", instance
		if e.Tags == nil {
			e.Tags = map[string]string{}
		}
		e.Tags["by"] = "realclient"
	}
	return all
}

// realSources are the sources of realclient's envelopes.
const realSources = realApp + ",b3015d69-09cd-476d-aace-ad2d824d5ab7,0b9f5ea6-7c4e-4a7e-9a3f-6f0f6e0a1c55,gorouter"

// TestLogCacheClientGetsEveryField has go-log-cache walk through all sources,
// and ask what is held of them.
func TestLogCacheClientGetsEveryField(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 2, Controllers: 1})
	ways := []string{"batch", "push"}
	count := strconv.Itoa(numberedEnvelopes() / len(ways))
	for i, way := range ways { // a Doppler each
		p.inside(t, "send", i, "-run", "r", "-via", way, "-count", count).result(ctx, t)
	}
	reader := func(token, sources string, more ...string) *realClient {
		args := []string{"logcache", "-addr", "https://" + p.Controllers[0].Addrs[pipeline.Public], "-token", "bearer " + token, "-preferred=false", "-source", sources}
		return p.run(t, append(args, append(more, "-run", "r", "-via", strings.Join(ways, ","), "-count", count, "-limit", patience())...)...)
	}
	all := reader("nia", realSources)
	if all.checked(ctx, t, "everything"); full {
		return // a walk through so much takes minutes
	}
	own, logs := reader("alice", realApp), reader("nia", realSources, "-type", "log,event")
	own.checked(ctx, t, "an app, by who may read it")
	logs.checked(ctx, t, "logs and events")
	if meta := metaOf(t, all); len(meta) != 4 {
		t.Errorf("nia sees %v", meta)
	}
	if meta := metaOf(t, own); len(meta) != 1 || meta[realApp] == nil {
		t.Errorf("alice sees %v", meta)
	}
	foreign := reader("alice", "gorouter")
	if code, err := foreign.Wait(ctx); err != nil || code != 1 || !strings.Contains(foreign.Log(), "unexpected status code 404") {
		t.Errorf("alice reads gorouter: code %d, %v: %s", code, err, foreign.Log())
	}
}

// metaOf is what a client of Log Cache says of Meta.
func metaOf(t *testing.T, c *realClient) map[string]json.RawMessage {
	t.Helper()
	for _, l := range c.lines(t) {
		if l.Meta != nil {
			return l.Meta
		}
	}
	t.Fatal("it says nothing of meta")
	return nil
}

// TestNoaaReadsContainerMetrics reads them as cf app once did.
func TestNoaaReadsContainerMetrics(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	now := time.Now().UnixNano()
	conn := p.dialDoppler(t)
	sender, err := loggregatorv2.NewIngressClient(conn).BatchSender(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for i, value := range []float64{1, 2, 7} { // the last is newer, of instance 1
		metrics := map[string]*loggregatorv2.GaugeValue{}
		for j, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
			metrics[name] = &loggregatorv2.GaugeValue{Unit: "u", Value: value + float64(j)}
		}
		err := sender.Send(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{{
			Timestamp: now + int64(i), SourceId: realApp, InstanceId: strconv.Itoa(min(i, 1)),
			Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
	}
	poll(ctx, t, "all to be accepted", func() bool { return metric(ctx, t, p.Dopplers[0], "doppler_ingress_envelopes_total") == 3 })
	c := p.run(t, "reads", "-addr", p.URL(0), "-id", realApp, "-token", "bearer alice")
	finish(ctx, t, c.Process)
	var got []string
	for _, l := range c.lines(t) {
		got = append(got, string(l.Metric))
	}
	of := func(instance int, value float64) string {
		return fmt.Sprintf(`{"applicationId":%q,"instanceIndex":%d,"cpuPercentage":%v,"memoryBytes":%v,"diskBytes":%v,"memoryBytesQuota":%v,"diskBytesQuota":%v}`,
			realApp, instance, value, value+1, value+2, value+3, value+4)
	}
	if want := []string{of(0, 1), of(1, 7)}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// dialDoppler connects as an agent.
func (p *realPlatform) dialDoppler(t *testing.T) *grpc.ClientConn {
	t.Helper()
	config, err := p.IngressTLS()
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("passthrough:///"+p.Dopplers[0].Addrs[pipeline.GRPC], grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestGatewayClientGetsEveryField has go-loggregator read /v2/read.
func TestGatewayClientGetsEveryField(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	count := strconv.Itoa(numberedEnvelopes())
	reader := func(shard, token string, more ...string) *realClient {
		args := []string{"gateway", "-addr", "https://" + p.Controllers[0].Addrs[pipeline.Public], "-shard", shard, "-token", "bearer " + token}
		return p.run(t, append(args, append(more, "-run", "r", "-via", "batch", "-count", count, "-limit", patience())...)...)
	}
	readers := map[string]*realClient{
		"all": reader("all", "nia"), "some": reader("some", "nia", "-type", "counter,gauge,event"), "own": reader("own", "alice", "-source", realApp),
	}
	for shard := range readers {
		p.hasMembers(ctx, t, shard, 1)
	}
	p.inside(t, "send", 0, "-run", "r", "-via", "batch", "-count", count, "-rate", "20000").result(ctx, t)
	for name, c := range readers {
		c.checked(ctx, t, name)
	}
}

// TestConnectorGetsEveryField has go-loggregator read a Doppler's Egress.
func TestConnectorGetsEveryField(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	count := strconv.Itoa(numberedEnvelopes())
	readers := map[string]*realClient{}
	for shard, more := range map[string][]string{"all": nil, "some": {"-type", "counter,gauge,event"}, "own": {"-source", realApp}} {
		args := []string{"-shard", shard, "-preferred=false", "-run", "r", "-via", "batch", "-count", count, "-limit", patience()}
		readers[shard] = p.inside(t, "connector", 0, append(args, more...)...)
	}
	for shard := range readers {
		p.hasCalls(ctx, t, shard)
	}
	p.inside(t, "send", 0, "-run", "r", "-via", "batch", "-count", count, "-rate", "20000").result(ctx, t)
	for name, c := range readers {
		c.checked(ctx, t, name)
	}
}

// hasCalls waits until a shard has a member, whoever it is.
func (p *realPlatform) hasCalls(ctx context.Context, t *testing.T, shard string) {
	t.Helper()
	poll(ctx, t, shard+" to have a member", func() bool {
		return slices.ContainsFunc(subscriptions(ctx, t, p.Dopplers[0]), func(s blackbox.Subscription) bool { return s.Shard == shard && s.State == "open" })
	})
}

// TestConnectorComesBack kills the Doppler under a reader, which has to come
// back by itself.
func TestConnectorComesBack(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{Dopplers: 1})
	reader := p.inside(t, "connector", 0, "-shard", "back", "-lines")
	p.hasCalls(ctx, t, "back")
	p.Dopplers[0].Kill()
	if err := p.Restart(ctx, p.Dopplers[0]); err != nil {
		t.Fatal(err)
	}
	p.hasCalls(ctx, t, "back")
	finish(ctx, t, p.inside(t, "emit", 0).Process)
	reader.says(ctx, t, "an event", func(l line) bool { return strings.Contains(string(l.Envelope), `"Event"`) })
	if code, err := reader.Stop(ctx); err != nil || code != 0 {
		t.Errorf("code %d, %v: %s", code, err, reader.Log())
	}
}
