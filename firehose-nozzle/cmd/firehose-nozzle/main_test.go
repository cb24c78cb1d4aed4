package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
	"github.com/a1ea6966/loggregator/internal/daemon"
)

// asProgram makes the test binary the program itself.
const asProgram = "FIREHOSE_NOZZLE_UNDER_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	goleak.VerifyTestMain(m)
}

const patience = 30 * time.Second

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func newServer(t *testing.T) *nozzletest.Server {
	t.Helper()
	s := nozzletest.NewServer()
	t.Cleanup(s.Close)
	return s
}

func push(s *nozzletest.Server, from, to int) {
	var all []*loggregatorv2.Envelope
	for i := from; i < to; i++ {
		all = append(all, &loggregatorv2.Envelope{
			SourceId: "app", Timestamp: int64(i),
			Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: fmt.Appendf(nil, "line %d", i)}},
		})
	}
	s.Push(all...)
}

func waitAcked(t *testing.T, s *nozzletest.Server, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := s.WaitAcked(ctx, n); err != nil {
		t.Fatal(err)
	}
}

// program is a running nozzle.
type program struct {
	*exec.Cmd
	admin          string
	stdout, stderr bytes.Buffer // not to be read while it runs
	logged         chan struct{}
}

// start runs the nozzle and waits until it listens.
func start(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{Cmd: exec.CommandContext(t.Context(), os.Args[0], append(args, "--admin-addr", "127.0.0.1:0")...), logged: make(chan struct{})}
	p.Env = append(os.Environ(), asProgram+"=1")
	p.Stdout = &p.stdout
	log, err := p.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); <-p.logged; _ = p.Wait() })
	listening := make(chan string, 1)
	go func() {
		defer close(p.logged)
		for lines := bufio.NewScanner(io.TeeReader(log, &p.stderr)); lines.Scan(); {
			var line struct{ Msg, Admin string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "listening" {
				listening <- line.Admin
			}
		}
	}()
	select {
	case p.admin = <-listening:
	case <-p.logged:
		t.Fatalf("ended: %s", p.stderr.String())
	}
	return p
}

// end sends a signal and returns the exit code.
func (p *program) end(t *testing.T, s os.Signal) int {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
	<-p.logged
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

func (p *program) get(t *testing.T, path string) (int, string) {
	t.Helper()
	answer, err := http.Get("http://" + p.admin + path)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// record is what the tests read of a line.
type record struct {
	Log         struct{ Payload string }
	Offset      int
	Redelivered bool
}

// records reads a file of JSON lines, all of which have to be whole.
func records(t *testing.T, text []byte) []record {
	t.Helper()
	var all []record
	for line := range bytes.Lines(text) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil || line[len(line)-1] != '\n' {
			t.Fatalf("%v: %q", err, line)
		}
		all = append(all, r)
	}
	return all
}

func TestStdout(t *testing.T) {
	s := newServer(t)
	push(s, 0, 1000)
	p := start(t, "--addr", s.Addr(), "--subscription", "x", "--type", "log")
	waitAcked(t, s, 1000)
	if code := p.end(t, syscall.SIGTERM); code != daemon.ExitOK {
		t.Fatalf("exit %d: %s", code, p.stderr.String())
	}
	all := records(t, p.stdout.Bytes())
	for i, r := range all {
		if r.Offset != i || r.Log.Payload != fmt.Sprintf("line %d", i) || r.Redelivered {
			t.Fatalf("line %d is %+v", i, r)
		}
	}
	if len(all) != 1000 {
		t.Fatalf("%d lines", len(all))
	}
}

func TestAdmin(t *testing.T) {
	s := newServer(t)
	push(s, 0, 10)
	p := start(t, "--addr", s.Addr(), "--subscription", "x", "--format", "text", "--dead-after", "1s")
	waitAcked(t, s, 10)
	for path, want := range map[string]string{"/health": "ok", "/healthz": "ok", "/ready": "ready", "/metrics": "firehose_nozzle_acked_envelopes_total 10"} {
		if code, body := p.get(t, path); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	s.Refuse(10000, http.StatusServiceUnavailable, "not now")
	s.Cut()
	for _, path := range []string{"/health", "/healthz", "/ready"} {
		eventually(t, path+" goes bad", func() bool {
			code, body := p.get(t, path)
			return code == http.StatusServiceUnavailable && strings.Contains(body, "nothing heard of the Firehose")
		})
	}
	if code := p.end(t, os.Interrupt); code != daemon.ExitOK {
		t.Fatalf("exit %d: %s", code, p.stderr.String())
	}
	if got := p.stdout.String(); strings.Count(got, "kind=log") != 10 {
		t.Fatalf("got %s", got)
	}
}

// A nozzle that is killed while it writes leaves whole lines; with the one
// after it the file is complete, and what is twice in it is marked.
func TestKilledAndRestarted(t *testing.T) {
	s := newServer(t)
	s.SetBatchSize(50)
	file := filepath.Join(t.TempDir(), "out.json")
	args := []string{"--addr", s.Addr(), "--subscription", "x", "--sink", "file", "--file", file, "--cursor-file", file + ".cursor"}
	const total = 20000
	push(s, 0, total)
	for _, enough := range []int{total / 10, total / 3, total / 2} {
		p := start(t, args...)
		waitAcked(t, s, enough)
		p.end(t, os.Kill)
		// As if the kill had come in the middle of a write.
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString(`{"time":"20`); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
	}
	p := start(t, args...)
	waitAcked(t, s, total)
	if code := p.end(t, syscall.SIGTERM); code != daemon.ExitOK {
		t.Fatalf("exit %d: %s", code, p.stderr.String())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	seen := make([]bool, total)
	for _, r := range records(t, text) {
		if seen[r.Offset] && !r.Redelivered {
			t.Fatalf("%d is there twice and not marked", r.Offset)
		}
		seen[r.Offset] = true
	}
	for i, ok := range seen {
		if !ok {
			t.Fatalf("%d is missing", i)
		}
	}
}

func TestHangupReopensTheFile(t *testing.T) {
	s := newServer(t)
	file := filepath.Join(t.TempDir(), "out.json")
	p := start(t, "--addr", s.Addr(), "--subscription", "x", "--sink", "file", "--file", file, "--fsync", "never")
	push(s, 0, 5)
	waitAcked(t, s, 5)
	if err := os.Rename(file, file+".1"); err != nil {
		t.Fatal(err)
	}
	if err := p.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "new file", func() bool { _, err := os.Stat(file); return err == nil })
	push(s, 5, 10)
	waitAcked(t, s, 10)
	if code := p.end(t, syscall.SIGTERM); code != daemon.ExitOK {
		t.Fatalf("exit %d: %s", code, p.stderr.String())
	}
	for name, first := range map[string]int{file + ".1": 0, file: 5} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if all := records(t, text); len(all) != 5 || all[0].Offset != first {
			t.Fatalf("%s: %v", name, all)
		}
	}
}

func TestStartThatFails(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	other := filepath.Join(dir, "other.cursor")
	if err := os.WriteFile(other, []byte(`{"stream":"subscription=y","cursor":"x"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		code int
		want []string
		args []string
	}{
		"all faults at once": {daemon.ExitUsage, []string{
			"--subscription", "--addr", "--type", "--sink", "--format", "--fsync", "--admin-addr", "--drain-grace", "--dead-after", "--max-retries", "--max-outage", "--keep", "--tls-ca",
		}, []string{
			"--addr", "ftp://x", "--type", "logs", "--sink", "kafka", "--format", "xml", "--fsync", "perhaps", "--admin-addr", "nowhere",
			"--drain-grace=-1s", "--dead-after=0s", "--max-retries=-1", "--max-outage=-1s", "--keep=-1", "--tls-ca", "/no/such/file",
		}},
		"TLS without TLS":      {daemon.ExitUsage, []string{"must be wss or https"}, []string{"--subscription", "x", "--tls-skip-verify"}},
		"file without sink":    {daemon.ExitUsage, []string{"--file"}, []string{"--subscription", "x", "--file", "x"}},
		"sink without file":    {daemon.ExitUsage, []string{"--file"}, []string{"--subscription", "x", "--sink", "file"}},
		"rotation of stdout":   {daemon.ExitUsage, []string{"does not rotate"}, []string{"--subscription", "x", "--rotate-bytes", "1MiB"}},
		"keep what":            {daemon.ExitUsage, []string{"nothing rotates"}, []string{"--subscription", "x", "--sink", "file", "--file", "x", "--keep", "3"}},
		"rotation too often":   {daemon.ExitUsage, []string{"--rotate-bytes", "--rotate-age"}, []string{"--subscription", "x", "--sink", "file", "--file", "x", "--rotate-bytes", "1", "--rotate-age", "1ms"}},
		"file in no directory": {daemon.ExitFailed, []string{"no such file"}, []string{"--subscription", "x", "--sink", "file", "--file", dir + "/none/x"}},
		"another's cursor":     {daemon.ExitFailed, []string{"is of subscription=y"}, []string{"--subscription", "x", "--cursor-file", other}},
		"port in use":          {daemon.ExitFailed, []string{"listen on"}, []string{"--subscription", "x", "--admin-addr", strings.TrimPrefix(s.Addr(), "ws://")}},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], append([]string{"--admin-addr", "127.0.0.1:0"}, test.args...)...)
			cmd.Env = append(os.Environ(), asProgram+"=1")
			out, _ := cmd.CombinedOutput()
			if got := cmd.ProcessState.ExitCode(); got != test.code {
				t.Errorf("exit %d: %s", got, out)
			}
			for _, want := range test.want {
				if !strings.Contains(string(out), want) {
					t.Errorf("no %q in %s", want, out)
				}
			}
		})
	}
}

func TestRefusedForGood(t *testing.T) {
	s := newServer(t)
	s.Refuse(1, http.StatusForbidden, "the Firehose is not for you")
	p := start(t, "--addr", s.Addr(), "--subscription", "x")
	<-p.logged
	_ = p.Wait()
	if got := p.ProcessState.ExitCode(); got != daemon.ExitFailed || !strings.Contains(p.stderr.String(), "not for you") {
		t.Fatalf("exit %d: %s", got, p.stderr.String())
	}
}

// Who runs a nozzle may want it to end, to be started elsewhere, when the
// Firehose cannot be reached.
func TestRetriesUsedUp(t *testing.T) {
	for name, limit := range map[string][]string{"tries": {"--max-retries", "2"}, "time": {"--max-outage", "300ms"}} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.Refuse(1000, http.StatusServiceUnavailable, "not now")
			p := start(t, append([]string{"--addr", s.Addr(), "--subscription", "x"}, limit...)...)
			<-p.logged
			_ = p.Wait()
			if got := p.ProcessState.ExitCode(); got != daemon.ExitFailed || !strings.Contains(p.stderr.String(), "in a row") {
				t.Fatalf("exit %d: %s", got, p.stderr.String())
			}
		})
	}
}

func TestTLS(t *testing.T) {
	s := nozzletest.NewTLSServer()
	t.Cleanup(s.Close)
	push(s, 0, 10)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, s.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, "--addr", s.Addr(), "--subscription", "x", "--tls-ca", ca)
	waitAcked(t, s, 10)
	p.end(t, syscall.SIGTERM)
	push(s, 10, 20)
	p = start(t, "--addr", s.Addr(), "--subscription", "x", "--tls-skip-verify")
	waitAcked(t, s, 20)
	p.end(t, syscall.SIGTERM)
	if !strings.Contains(p.stderr.String(), "INSECURE") {
		t.Fatalf("nobody is warned: %s", p.stderr.String())
	}
}

// The token is read before every connection: whatever renews it need not tell.
func TestTokenFile(t *testing.T) {
	s := newServer(t)
	file := filepath.Join(t.TempDir(), "token")
	put := func(token string) {
		if err := os.WriteFile(file, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("one\n")
	p := start(t, "--addr", s.Addr(), "--subscription", "x", "--token-file", file)
	push(s, 0, 10)
	waitAcked(t, s, 10)
	put("bearer two")
	s.Cut()
	push(s, 10, 20)
	waitAcked(t, s, 20)
	p.end(t, syscall.SIGTERM)
	var shown []string
	for _, r := range s.Requests() {
		shown = append(shown, r.Header.Get("Authorization"))
	}
	if !slices.Equal(slices.Compact(shown), []string{"bearer one", "bearer two"}) {
		t.Errorf("shown %q", shown)
	}
	if strings.Contains(p.stderr.String(), "two") {
		t.Errorf("the token is in the log: %s", p.stderr.String())
	}
}
