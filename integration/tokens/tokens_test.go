package tokens

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.Nozzle, process.Lgr, process.FakeCF))
}

const app = "6f1b0b1e-5c1d-4a53-9d37-2f9b6f1f8a01"

// platform is a pipeline of one app, which anna may read, and nora everything.
type platform struct {
	*pipeline.Pipeline
	cf *pipeline.CF
}

func people() fakecf.State {
	return fakecf.State{
		Apps: []fakecf.Resource{{GUID: app, Name: "app"}},
		Users: []fakecf.User{
			{Name: "anna", Scopes: []string{"cloud_controller.read"}, Apps: []string{app}},
			{Name: "nora", Scopes: []string{"doppler.firehose", "cloud_controller.admin"}},
		},
	}
}

func start(ctx context.Context, t *testing.T) *platform {
	t.Helper()
	cf, err := pipeline.StartCF(blackbox.Programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cf.Kill)
	p := &platform{cf: cf}
	p.know(ctx, t, people())
	p.Pipeline = blackbox.Start(t, pipeline.Config{Dopplers: 2, Controllers: 1, Access: cf.Access()})
	return p
}

// know tells UAA and Cloud Controller what to know.
func (p *platform) know(ctx context.Context, t *testing.T, s fakecf.State) {
	t.Helper()
	if err := p.cf.Control(ctx, http.MethodPut, "/state", s, nil); err != nil {
		t.Fatal(err)
	}
}

func (p *platform) state(ctx context.Context, t *testing.T) (s fakecf.State) {
	t.Helper()
	if err := p.cf.Control(ctx, http.MethodGet, "/state", nil, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// issue gives a user a token.
func (p *platform) issue(ctx context.Context, t *testing.T, user, kind string, life time.Duration) string {
	t.Helper()
	var said struct{ Token string }
	ask := map[string]any{"user": user, "kind": kind, "seconds": int(life.Seconds())}
	if err := p.cf.Control(ctx, http.MethodPost, "/tokens", ask, &said); err != nil {
		t.Fatal(err)
	}
	return said.Token
}

// keep keeps a file that holds a token of a user, always a good one, until stop.
func (p *platform) keep(ctx context.Context, t *testing.T, user, kind, file string, life time.Duration) (stop func()) {
	t.Helper()
	put := func() {
		// In one step: who reads must not find half of it.
		if err := os.WriteFile(file+".new", []byte(p.issue(ctx, t, user, kind, life)+"\n"), 0o600); err != nil {
			t.Error(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Error(err)
		}
	}
	put()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(life / 8)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				put()
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func (p *platform) url() string { return "http://" + p.Controllers[0].Addrs[pipeline.Public] }

// logs starts lgr logs; what it shows goes to out.
func (p *platform) logs(t *testing.T, out io.Writer, args ...string) *process.Process {
	t.Helper()
	return blackbox.Launch(t, process.Lgr, process.Command{
		Args: append([]string{"logs", app, "--addr", p.url(), "--json"}, args...), Stdout: out,
	})
}

// say has the app log lines, all along, until stop, which returns how many.
func (p *platform) say(ctx context.Context, t *testing.T) (stop func() int) {
	t.Helper()
	reader, writer := io.Pipe()
	emit := blackbox.Launch(t, process.Lgr, process.Command{
		Args: []string{"emit", "--source", app, "--addr", p.Dopplers[0].Addrs[pipeline.GRPC]}, Stdin: reader,
	})
	said := make(chan int)
	end := make(chan struct{})
	go func() {
		n := 0
		for ; ; n++ {
			select {
			case <-end:
				_ = writer.Close()
				said <- n
				return
			case <-time.After(5 * time.Millisecond):
				_, _ = fmt.Fprintf(writer, "line %d\n", n) // emit's code tells
			}
		}
	}()
	return func() int {
		close(end)
		n := <-said
		blackbox.Finish(ctx, t, emit)
		return n
	}
}

// file is an output that can be read while it grows.
func file(t *testing.T, name string) (path string, out *os.File) {
	t.Helper()
	path = filepath.Join(t.TempDir(), name)
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return path, out
}

// count is the number of lines of a file.
func count(t *testing.T, path string) int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

// whole checks that a file has every line once, in order.
func whole(t *testing.T, path string, n int) {
	t.Helper()
	blackbox.SamePayloads(t, path, n, func(i int) string { return fmt.Sprintf("line %d", i) })
}

// Tokens end many times while a tail and a nozzle read on: nothing is lost, and no
// connection.
func TestShortTokens(t *testing.T) {
	life, lasts := 6*time.Second, 25*time.Second
	if blackbox.Full {
		life, lasts = time.Minute, 10*time.Minute
	}
	ctx := t.Context()
	p := start(ctx, t)
	dir := t.TempDir()
	annas, noras := filepath.Join(dir, "anna"), filepath.Join(dir, "nora")
	defer p.keep(ctx, t, "anna", fakecf.JWT, annas, life)()
	defer p.keep(ctx, t, "nora", fakecf.Opaque, noras, life)()
	tailed, out := file(t, "tail.json")
	tail := p.logs(t, out, "--token-command", "cat "+annas)
	sunk := filepath.Join(dir, "sink.json")
	nozzle := blackbox.Launch(t, process.Nozzle, process.Command{Args: []string{
		"--addr", p.URL(0), "--subscription", "tokens", "--admin-addr", "127.0.0.1:0", "--sink", "file", "--file", sunk, "--format", "json",
		"--token-file", noras,
	}})
	blackbox.Poll(ctx, t, "both to read", func() bool {
		return blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_held_tokens") == 2
	})
	stop := p.say(ctx, t)
	select {
	case <-time.After(lasts):
	case <-ctx.Done():
	}
	said := stop()
	for _, path := range []string{tailed, sunk} {
		blackbox.Poll(ctx, t, "all lines in "+path, func() bool { return count(t, path) >= said })
		whole(t, path, said)
	}
	renewed := blackbox.Metric(ctx, t, p.Controllers[0], `trafficcontroller_access_renewals_total{result="accepted"}`)
	refused := blackbox.Metric(ctx, t, p.Controllers[0], `trafficcontroller_access_renewals_total{result="refused"}`)
	ended := blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_ended_total")
	t.Logf("%d lines in %s with tokens of %s: %.0f renewals, %.0f refused, %.0f streams ended", said, lasts, life, renewed, refused, ended)
	if least := 2 * (lasts/life - 1); renewed < float64(least) || refused != 0 || ended != 0 {
		t.Errorf("at least %d renewals were due, and nothing else", least)
	}
	for _, program := range []*process.Process{tail, nozzle} {
		if _, err := program.Stop(ctx); err != nil {
			t.Error(err)
		}
		if log := program.Log(); strings.Contains(log, "lost") || strings.Contains(log, "not connected") {
			t.Errorf("%s: %s", program.Name(), log)
		}
	}
}

// Who may not read any more is off within --access-recheck and the time of a
// question, and lgr logs says why.
func TestLeaveEnds(t *testing.T) {
	ctx := t.Context()
	for name, test := range map[string]struct {
		change func(*fakecf.State)
		kind   string
		words  string
	}{
		"JWT revoked":          {func(s *fakecf.State) { s.Tokens = nil }, fakecf.JWT, "revoked"},
		"opaque token revoked": {func(s *fakecf.State) { s.Tokens = nil }, fakecf.Opaque, "revoked"},
		"app withdrawn":        {func(s *fakecf.State) { s.Users[0].Apps = nil }, fakecf.JWT, "withdrawn"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := start(ctx, t)
			token := p.issue(ctx, t, "anna", test.kind, time.Hour)
			tail := p.logs(t, nil, "--token", token)
			blackbox.Poll(ctx, t, "the tail to be open", func() bool {
				return blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_held_tokens") == 1
			})
			s := p.state(ctx, t)
			test.change(&s)
			began := time.Now()
			p.know(ctx, t, s)
			code, err := tail.Wait(ctx)
			log := tail.Log()
			t.Logf("off after %s: code %d: %s", time.Since(began).Round(100*time.Millisecond), code, log)
			if err != nil || code == 0 || !strings.Contains(log, test.words) {
				t.Errorf("code %d, %v, without %q: %s", code, err, test.words, log)
			}
		})
	}
}

// Clients of every kind are closed, those that could not be told why, too.
func TestRevokedForAll(t *testing.T) {
	ctx := t.Context()
	p := start(ctx, t)
	token := "bearer " + p.issue(ctx, t, "nora", fakecf.JWT, time.Hour)
	base := "ws" + strings.TrimPrefix(p.url(), "http")
	over := make(chan string, 3)
	for kind, path := range map[string]string{"old Firehose": "/firehose/old", "old tail": "/apps/" + app + "/stream"} {
		conn, err := stream.Dial(ctx, base+path, stream.DialOptions{Header: http.Header{"Authorization": {token}}})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			defer conn.CloseNow()
			for {
				b, err := conn.Read(ctx)
				if err != nil {
					over <- kind + ": " + err.Error()
					return
				}
				b.Release()
			}
		}()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url()+"/v2/read?log", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	go func() {
		defer resp.Body.Close()
		_, err := io.Copy(io.Discard, resp.Body)
		over <- fmt.Sprint("/v2/read: ", err)
	}()
	blackbox.Poll(ctx, t, "all to be open", func() bool {
		return blackbox.Metric(ctx, t, p.Controllers[0], "trafficcontroller_access_held_tokens") == 1
	})
	s := p.state(ctx, t)
	s.Tokens = nil
	p.know(ctx, t, s)
	for range 3 {
		select {
		case how := <-over:
			t.Log(how)
			if strings.HasPrefix(how, "old") && !strings.Contains(how, "4006") {
				t.Errorf("%s: without code 4006", how)
			}
		case <-ctx.Done():
			t.Fatal("a stream goes on")
		}
	}
	if n := blackbox.Metric(ctx, t, p.Controllers[0], `trafficcontroller_access_ended_total{reason="revoked"}`); n != 3 {
		t.Errorf("%.0f streams ended", n)
	}
}
