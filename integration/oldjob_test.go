package integration

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// freePorts returns the first of n ports in a row that nobody listens on. Old
// jobs are told ports; they cannot ask for any.
func freePorts(ctx context.Context, t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		var held []net.Listener
		first, addr := 0, "127.0.0.1:0"
		for range n {
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
			if err != nil {
				break
			}
			held = append(held, l)
			port := l.Addr().(*net.TCPAddr).Port
			if first == 0 {
				first = port
			}
			addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port+1))
		}
		for _, l := range held {
			_ = l.Close()
		}
		if len(held) == n {
			return first
		}
	}
	t.Fatalf("there are no %d free ports in a row", n)
	return 0
}

// oldDoppler is the environment that Loggregator's job gives its Doppler
// (protocol/05, section 9).
func oldDoppler(certs string, port, pprof int) []string {
	return []string{
		"ROUTER_PORT=" + strconv.Itoa(port), "ROUTER_PPROF_PORT=" + strconv.Itoa(pprof),
		"ROUTER_CERT_FILE=" + certs + "/doppler.crt", "ROUTER_KEY_FILE=" + certs + "/doppler.key", "ROUTER_CA_FILE=" + certs + "/ca.crt",
		"ROUTER_CIPHER_SUITES=ECDHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES256-GCM-SHA384",
		"ROUTER_METRIC_BATCH_INTERVAL_MILLISECONDS=5000", "ROUTER_METRIC_SOURCE_ID=doppler",
		"INGRESS_BUFFER_SIZE=10000", "EGRESS_BUFFER_SIZE=1000", "AGENT_GRPC_ADDRESS=127.0.0.1:3458", "USE_RFC339=true",
		"ROUTER_UNHEARD_OF=1",
	}
}

// oldController is likewise that of the Traffic Controller.
func oldController(certs string, cf fakecf.Ready, port, pprof, doppler int, security string) []string {
	return []string{
		"TRAFFIC_CONTROLLER_OUTGOING_DROPSONDE_PORT=" + strconv.Itoa(port), "TRAFFIC_CONTROLLER_PPROF_PORT=" + strconv.Itoa(pprof),
		"TRAFFIC_CONTROLLER_OUTGOING_CERT_FILE=" + certs + "/outside.crt", "TRAFFIC_CONTROLLER_OUTGOING_KEY_FILE=" + certs + "/outside.key",
		"TRAFFIC_CONTROLLER_IP=10.0.0.7", "TRAFFIC_CONTROLLER_SYSTEM_DOMAIN=sys.example.com",
		"TRAFFIC_CONTROLLER_API_HOST=" + cf.CC, "CC_CERT_FILE=" + cf.CCCert, "CC_KEY_FILE=" + cf.CCKey, "CC_CA_FILE=" + cf.CCCA,
		"CC_SERVER_NAME=" + cf.CCServerName,
		"TRAFFIC_CONTROLLER_UAA_HOST=" + cf.UAA, "TRAFFIC_CONTROLLER_UAA_CA_CERT=" + cf.UAACA,
		"TRAFFIC_CONTROLLER_UAA_CLIENT=doppler", "TRAFFIC_CONTROLLER_UAA_CLIENT_SECRET=secret",
		"TRAFFIC_CONTROLLER_SKIP_CERT_VERIFY=false", "TRAFFIC_CONTROLLER_SECURITY_EVENT_LOG=" + security,
		"TRAFFIC_CONTROLLER_METRIC_EMITTER_INTERVAL=1m", "TRAFFIC_CONTROLLER_DISABLE_ACCESS_CONTROL=false",
		"ROUTER_ADDRS=127.0.0.1:" + strconv.Itoa(doppler), "ROUTER_CERT_FILE=" + certs + "/trafficcontroller.crt",
		"ROUTER_KEY_FILE=" + certs + "/trafficcontroller.key", "ROUTER_CA_FILE=" + certs + "/ca.crt",
		"AGENT_GRPC_ADDRESS=127.0.0.1:1", "LOG_CACHE_ADDR=127.0.0.1:1", "LOG_CACHE_SERVER_NAME=log_cache",
		"TRAFFIC_CONTROLLER_UNHEARD_OF=1", "USE_RFC339=true",
	}
}

// oldJobs starts both services as the old jobs do, and returns the port of
// Doppler's gRPC and that of the Traffic Controller.
func oldJobs(ctx context.Context, t *testing.T, certs, security string) (doppler, controller *process.Process, grpc, public int) {
	t.Helper()
	cf, err := fakecf.Start(ctx, fakecf.Options{Dir: t.TempDir(), State: fakecf.State{
		Users: []fakecf.User{
			{Name: "admin", Scopes: []string{"doppler.firehose"}},
			{Name: "dev", Scopes: []string{"cloud_controller.read"}, Apps: []string{"11111111-2222-3333-4444-555555555555"}},
		},
		Tokens: []fakecf.Token{{Token: "admin-token", User: "admin"}, {Token: "dev-token", User: "dev"}},
		Apps:   []fakecf.Resource{{GUID: "11111111-2222-3333-4444-555555555555", Name: "shop"}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cf.Close(); err != nil {
			t.Error(err)
		}
	})
	grpc = freePorts(ctx, t, 5) // and the stream listener on the next
	public = grpc + 2
	doppler = launch(t, process.Doppler, process.Command{Env: oldDoppler(certs, grpc, grpc+3)})
	if _, err := doppler.Listening(ctx); err != nil {
		t.Fatal(err)
	}
	controller = launch(t, process.TrafficController, process.Command{Env: oldController(certs, cf.Ready, public, grpc+4, grpc, security)})
	if _, err := controller.Listening(ctx); err != nil {
		t.Fatal(err)
	}
	return doppler, controller, grpc, public
}

// TestOldJobs starts both services from nothing but the environment of the jobs
// they take the place of, with access control, and has an admin's nozzle and a
// developer's tail read what a producer sends.
func TestOldJobs(t *testing.T) {
	ctx := deadline(t)
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	security := filepath.Join(t.TempDir(), "security.log")
	doppler, controller, grpc, public := oldJobs(ctx, t, certs, security)
	url := "wss://localhost:" + strconv.Itoa(public)
	ready := "http://127.0.0.1:" + strconv.Itoa(grpc+4) + "/ready"
	poll(ctx, t, "the Traffic Controller to be ready", func() bool { return answers(ctx, ready) })

	lgr := func(out io.Writer, args ...string) *process.Process {
		args = append(args, "--addr", url, "--tls-ca", certs+"/ca.crt")
		return launch(t, process.Lgr, process.Command{Args: args, Stdout: out})
	}
	refused := lgr(io.Discard, "logs", "11111111-2222-3333-4444-555555555556", "--token", "dev-token", "--recent=1")
	if code, err := refused.Wait(ctx); err != nil || code == 0 {
		t.Errorf("a tail of somebody else's app ended with %d, %v:\n%s", code, err, refused.Log())
	}
	emit := launch(t, process.Lgr, process.Command{
		Args: []string{
			"emit", "--source", "11111111-2222-3333-4444-555555555555", "--addr", "127.0.0.1:" + strconv.Itoa(grpc),
			"--tls-ca", certs + "/ca.crt", "--tls-cert", certs + "/metron.crt", "--tls-key", certs + "/metron.key",
		},
		Stdin: strings.NewReader("hello from the old job\n"),
	})
	finish(ctx, t, emit)
	var said bytes.Buffer
	finish(ctx, t, lgr(&said, "logs", "11111111-2222-3333-4444-555555555555", "--token", "dev-token", "--recent=10"))
	if !strings.Contains(said.String(), "hello from the old job") {
		t.Errorf("the tail shows %q", said.String())
	}
	for _, p := range []*process.Process{doppler, controller} {
		if n := strings.Count(p.Log(), "not all of the environment is used"); n != 1 {
			t.Errorf("%s reports %d times what of the environment it does not use:\n%s", p.Name(), n, p.Log())
		}
		if !strings.Contains(p.Log(), "_UNHEARD_OF") {
			t.Errorf("%s does not name the unknown variable:\n%s", p.Name(), p.Log())
		}
		if strings.Contains(p.Log(), "secret") || strings.Contains(p.Log(), "-token") {
			t.Errorf("%s logs a secret:\n%s", p.Name(), p.Log())
		}
	}
	log, err := os.ReadFile(security)
	if err != nil || !bytes.Contains(log, []byte("CEF:0|cloud_foundry|loggregator_trafficcontroller|")) {
		t.Errorf("the security log is %q, %v", log, err)
	}
}

// TestOldJobsFirehose has a client of the old framing on what the old job's
// environment started.
func TestOldJobsFirehose(t *testing.T) {
	ctx := deadline(t)
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	_, _, grpc, public := oldJobs(ctx, t, certs, filepath.Join(t.TempDir(), "security.log"))
	producer, err := pipeline.IngressTLS(certs)
	if err != nil {
		t.Fatal(err)
	}
	outside, err := pipeline.ReaderTLS(certs)
	if err != nil {
		t.Fatal(err)
	}
	outside.ServerName = "localhost"
	conf := load.ReaderConfig{URL: "wss://localhost:" + strconv.Itoa(public), TLS: outside, Subscription: "old"}
	if _, err := load.OpenCounter(ctx, conf); err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("without a token the answer is %v", err)
	}
	conf.Header = http.Header{"Authorization": {"bearer admin-token"}}
	poll(ctx, t, "a Doppler to be found", func() bool {
		return answers(ctx, "http://127.0.0.1:"+strconv.Itoa(grpc+4)+"/ready")
	})
	c, err := load.OpenCounter(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	plan := load.Plan{Shape: load.Reference, Sources: 10, Batch: 100}
	run := load.Run{Plan: plan, Addr: "127.0.0.1:" + strconv.Itoa(grpc), TLS: producer, Count: 10_000}
	if _, err := load.NewSender(0).Run(ctx, run); err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "all to come out", func() bool { return c.Account().Received >= 10_000 })
	_ = c.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// answers: a probe gets 200.
func answers(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// TestOldAndNewNamesMustAgree: a variable of the old job and one of ours that
// say different things are a fault, told before any port is opened.
func TestOldAndNewNamesMustAgree(t *testing.T) {
	for name, env := range map[string][]string{
		process.Doppler:           {"ROUTER_PORT=1", "DOPPLER_GRPC_ADDR=:2"},
		process.TrafficController: {"TRAFFIC_CONTROLLER_UAA_HOST=https://a:1", "TRAFFICCONTROLLER_UAA_ADDR=https://b:1"},
	} {
		p := launch(t, name, process.Command{Env: env})
		code, err := p.Wait(deadline(t))
		if err != nil || code != 2 {
			t.Errorf("%s: code %d, %v, want 2", name, code, err)
		}
		for _, pair := range env {
			if variable, _, _ := strings.Cut(pair, "="); !strings.Contains(p.Log(), variable) {
				t.Errorf("%s does not name %s:\n%s", name, variable, p.Log())
			}
		}
	}
}
