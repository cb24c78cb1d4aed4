package secrets

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.Nozzle, process.Lgr, process.FakeCF))
}

const (
	app     = "6f1b0b1e-5c1d-4a53-9d37-2f9b6f1f8a01"
	payload = "payload-that-nobody-may-print"
)

// printed is all that was printed, by who printed it.
type printed struct {
	mu  sync.Mutex
	all map[string]*bytes.Buffer
}

// of is where a program prints to.
func (p *printed) of(name string) io.Writer { return &page{p, name} }

type page struct {
	in   *printed
	name string
}

func (w *page) Write(text []byte) (int, error) {
	w.in.mu.Lock()
	defer w.in.mu.Unlock()
	if w.in.all[w.name] == nil {
		w.in.all[w.name] = &bytes.Buffer{}
	}
	return w.in.all[w.name].Write(text)
}

// TestNothingPrintsSecrets uses everything with tokens good and bad, in every place
// where somebody might put one, breaks things, and then reads all that was printed.
func TestNothingPrintsSecrets(t *testing.T) {
	ctx := blackbox.Deadline(t)
	out := &printed{all: map[string]*bytes.Buffer{}}
	cf := platform(ctx, t)
	security := filepath.Join(t.TempDir(), "security.log")
	certs, trust := secured(t)
	p := blackbox.Start(t, pipeline.Config{
		Dopplers: 1, Controllers: 1, Access: cf.Access(), Certs: certs, Log: out.of("services"), DopplerArgs: []string{"--log-level", "debug"},
		ControllerArgs: []string{"--log-level", "debug", "--security-log", security, "--access-timeout", "500ms", "--access-recheck", "1s"},
	})
	good := map[string]string{"anna": issue(ctx, t, cf, "anna", fakecf.JWT), "nora": issue(ctx, t, cf, "nora", fakecf.Opaque)}
	secrets := map[string]string{"payload": payload, "bad token": "bad-token-8d1f0c", "bad JWT": "eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiJ4In0.c2lnbmF0dXJlLXRoYXQtaXMtYmFk"}
	for who, token := range good {
		secrets["token of "+who] = token
	}
	programs(ctx, t, p, out, good, certs)
	base := "https://" + p.Controllers[0].Addrs[pipeline.Public]
	for _, broken := range [][]fakecf.Answer{
		nil,
		{{How: fakecf.Garbage}},
		{{How: fakecf.Truncate}},
		{{Status: http.StatusInternalServerError, How: fakecf.Plain}},
		{{How: fakecf.Hang}},
	} {
		know(ctx, t, cf, broken)
		for name, token := range secrets {
			if name != "payload" {
				everywhere(ctx, out, base, token, trust)
			}
		}
	}
	for path, addr := range map[string]string{
		"/metrics": p.Controllers[0].Addrs[pipeline.Admin], "/subscriptions": p.Controllers[0].Addrs[pipeline.Admin],
		"/sources": p.Dopplers[0].Addrs[pipeline.Admin],
	} {
		_, _ = io.WriteString(out.of("view "+path), blackbox.Get(ctx, t, "http://"+addr+path, http.StatusOK))
	}
	for _, s := range slices.Concat(p.Dopplers, p.Controllers) {
		_, _ = io.WriteString(out.of(s.Name), s.Log())
	}
	text, err := os.ReadFile(security)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = out.of("security log").Write(text)
	secrets["UAA's secret"] = "Basic ZG9wcGxlcjpzZWNyZXQ=" // doppler:secret
	secrets["private key"] = "PRIVATE KEY-----"
	out.search(t, secrets)
}

// secured makes certificates for all, and what a client has to trust.
func secured(t *testing.T) (dir string, trust *tls.Config) {
	t.Helper()
	dir = t.TempDir()
	if _, err := mtls.GenerateSet(dir, false); err != nil {
		t.Fatal(err)
	}
	trust, err := mtls.Trusting(filepath.Join(dir, "ca.crt"), "127.0.0.1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return dir, trust
}

// platform is a UAA and a Cloud Controller that know everybody.
func platform(ctx context.Context, t *testing.T) *pipeline.CF {
	t.Helper()
	cf, err := pipeline.StartCF(blackbox.Programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cf.Kill)
	know(ctx, t, cf, nil)
	return cf
}

// know tells the platform who is who, and how it is to answer wrongly.
func know(ctx context.Context, t *testing.T, cf *pipeline.CF, wrong []fakecf.Answer) {
	t.Helper()
	var now fakecf.State
	if err := cf.Control(ctx, http.MethodGet, "/state", nil, &now); err != nil {
		t.Fatal(err)
	}
	now.Apps, now.Answers = []fakecf.Resource{{GUID: app, Name: "app"}}, wrong
	now.Users = []fakecf.User{
		{Name: "anna", Scopes: []string{"cloud_controller.read"}, Apps: []string{app}},
		{Name: "nora", Scopes: []string{"doppler.firehose", "cloud_controller.admin"}},
		{Name: "robot", Scopes: []string{"doppler.firehose"}, Client: true},
	}
	if err := cf.Control(ctx, http.MethodPut, "/state", now, nil); err != nil {
		t.Fatal(err)
	}
}

func issue(ctx context.Context, t *testing.T, cf *pipeline.CF, user, kind string) string {
	t.Helper()
	var said struct{ Token string }
	if err := cf.Control(ctx, http.MethodPost, "/tokens", map[string]any{"user": user, "kind": kind, "seconds": 3600}, &said); err != nil {
		t.Fatal(err)
	}
	return said.Token
}

// programs has a nozzle and lgr read what lgr emits. What they print of it is what
// they are for; their logs are not.
func programs(ctx context.Context, t *testing.T, p *pipeline.Pipeline, out *printed, tokens map[string]string, certs string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, []byte(tokens["nora"]), 0o600); err != nil {
		t.Fatal(err)
	}
	sink := filepath.Join(dir, "sink.json")
	ca, metron := filepath.Join(certs, "ca.crt"), mtls.SetFiles(certs, mtls.NameMetron)
	nozzle := blackbox.Launch(t, process.Nozzle, process.Command{Stderr: out.of("nozzle"), Args: []string{
		"--addr", p.URL(0), "--subscription", "s", "--admin-addr", "127.0.0.1:0", "--sink", "file", "--file", sink, "--format", "json",
		"--token-file", file, "--log-level", "debug", "--tls-ca", ca,
	}})
	base := "https://" + p.Controllers[0].Addrs[pipeline.Public]
	tail := blackbox.Launch(t, process.Lgr, process.Command{
		Args: []string{"logs", app, "--addr", base, "--tls-ca", ca}, Env: []string{"LGR_TOKEN=" + tokens["anna"]}, Stderr: out.of("lgr logs"),
	})
	refused := blackbox.Launch(t, process.Lgr, process.Command{
		Args: []string{"logs", app, "--addr", base, "--token", "bad-token-8d1f0c", "--tls-ca", ca}, Stderr: out.of("lgr logs, refused"),
	})
	if code, err := refused.Wait(ctx); err != nil || code == 0 {
		t.Errorf("lgr logs with a bad token: code %d, %v", code, err)
	}
	blackbox.Poll(ctx, t, "readers", func() bool {
		return blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_held_tokens") == 2
	})
	blackbox.Finish(ctx, t, blackbox.Launch(t, process.Lgr, process.Command{
		Args: []string{
			"emit", "--source", app, "--addr", p.Dopplers[0].Addrs[pipeline.GRPC],
			"--tls-ca", ca, "--tls-cert", metron.Cert, "--tls-key", metron.Key,
		}, Stdin: strings.NewReader(payload + "\n"), Stderr: out.of("lgr emit"),
	}))
	blackbox.Poll(ctx, t, "the line in the sink", func() bool {
		text, err := os.ReadFile(sink)
		return err == nil && bytes.Contains(text, []byte(payload))
	})
	for _, program := range []*process.Process{nozzle, tail} {
		if _, err := program.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
}

// everywhere sends a token to every path, in every place.
func everywhere(ctx context.Context, out *printed, base, token string, trust *tls.Config) {
	var all sync.WaitGroup
	browser := &http.Client{Transport: &http.Transport{TLSClientConfig: trust}}
	defer browser.CloseIdleConnections()
	for _, path := range []string{
		"/firehose/s", "/apps/" + app + "/stream", "/apps/" + app + "/recentlogs", "/apps/" + app + "/containermetrics", "/v2/read?log",
		"/v2/subscriptions", "/v2/sources", "/api/v1/read/" + app, "/api/v1/meta", "/api/v1/query?query=up", "/set-cookie", "/nowhere", "/",
	} {
		for _, place := range []func(*http.Request){
			func(r *http.Request) { r.Header.Set("Authorization", "bearer "+token) },
			func(r *http.Request) { r.Header.Set("Authorization", token) },
			func(r *http.Request) { r.Header.Set("Cookie", "authorization="+url.QueryEscape("bearer "+token)) },
			func(r *http.Request) {
				q := r.URL.Query()
				q.Set("access_token", token)
				q.Set("CookieName", "authorization")
				q.Set("CookieValue", token)
				r.URL.RawQuery = q.Encode()
			},
			func(r *http.Request) { r.URL.User = url.UserPassword("user", token) },
		} {
			all.Go(func() { once(ctx, out, base+path, place, browser, trust) })
		}
	}
	all.Wait()
}

// once sends one request, and keeps the words of a refusal. Half of the paths are
// WebSockets: they are asked for so.
func once(ctx context.Context, out *printed, target string, place func(*http.Request), browser *http.Client, trust *tls.Config) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return
	}
	place(r)
	conn, err := stream.Dial(ctx, r.URL.String(), stream.DialOptions{Header: r.Header, Subprotocol: stream.Subprotocol, TLS: trust})
	if err == nil {
		_ = conn.Close(stream.CloseNormal, "")
	}
	resp, err := browser.Do(r)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
		_, _ = fmt.Fprintf(out.of("refusals"), "%s %v %s\n", resp.Status, resp.Header, text)
	}
}

// search looks for secrets in all that was printed.
func (p *printed) search(t *testing.T, secrets map[string]string) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, secret := range secrets {
		for _, form := range []string{secret, url.QueryEscape(secret)} {
			for who, text := range p.all {
				if at := bytes.Index(text.Bytes(), []byte(form)); at >= 0 {
					line := text.Bytes()[max(0, at-200):min(text.Len(), at+len(form)+100)]
					t.Errorf("%s prints the %s: ...%s...", who, name, line)
				}
			}
		}
	}
	for _, who := range []string{"services", "nozzle", "lgr logs, refused", "security log", "refusals", "view /metrics"} {
		if p.all[who] == nil || p.all[who].Len() == 0 {
			t.Errorf("%s printed nothing: the test sees nothing", who)
		}
	}
}
