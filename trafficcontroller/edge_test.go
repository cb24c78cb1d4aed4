package trafficcontroller

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/tokens"
)

// closesOn sends a request again and again, reads nothing, and tells whether the
// server has closed the connection.
func closesOn(t *testing.T, addr, request string) bool {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Error(err)
		return false
	}
	defer nc.Close()
	_ = nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	_ = nc.SetWriteDeadline(time.Now().Add(2 * patience))
	many := strings.Repeat(request, 1000)
	for {
		if _, err := io.WriteString(nc, many); err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// small serves what a Traffic Controller serves over sockets that are full soon.
func small(t *testing.T, change func(*Config)) (addr string) {
	t.Helper()
	cfg := config()
	cfg.Dopplers = []string{"127.0.0.1:1"}
	change(cfg)
	tc, err := New(*cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tc.Close)
	l, err := daemon.Listen("127.0.0.1:0", 16<<10)
	if err != nil {
		t.Fatal(err)
	}
	server, _ := tc.server()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(tc.edge.Listener(l))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return l.Addr().String()
}

// TestPipeliningIsCut: a client without a token that reads no answer is cut on
// every path.
func TestPipeliningIsCut(t *testing.T) {
	addr := small(t, func(c *Config) {
		c.DisableAccessControl, c.Edge.AnswerTimeout = false, time.Second
		c.Access.StaticTokens = staticToken(t, "lgr_unknown")
	})
	var all sync.WaitGroup
	for _, path := range []string{
		"/health", "/", "//health", "/nowhere", "/set-cookie", "/firehose/x", "/firehose/", "/apps/x/stream", "/apps/x/recentlogs",
		"/apps/x/containermetrics", "/v2/read?log", "/v2/read", "/v2/sources", "/api/v1/info", "/api/v1/read/x", "/api/v1/nowhere",
	} {
		all.Go(func() {
			if !closesOn(t, addr, "GET "+path+" HTTP/1.1\r\nHost: tc\r\n\r\n") {
				t.Errorf("%s: the server waits for ever", path)
			}
		})
	}
	all.Wait()
}

// staticToken is a file with one token, which may read x.
func staticToken(t *testing.T, token string) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "tokens.yml")
	text := fmt.Sprintf("tokens:\n- {name: a, sha256: %s, sources: [x]}\n", tokens.Hash(token))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// TestStreamsOutliveTheAnswerTimeout: it is for answers, not for streams that are
// silent for longer.
func TestStreamsOutliveTheAnswerTimeout(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, func(c *Config) { c.Edge.AnswerTimeout = time.Second }, a)
	nc, err := net.Dial("tcp", r.tc.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	// An answer comes first over this connection.
	_, _ = io.WriteString(nc, "GET /health HTTP/1.1\r\nHost: tc\r\n\r\nGET /v2/read?log HTTP/1.1\r\nHost: tc\r\n\r\n")
	events := bufio.NewReader(nc)
	for line := ""; !strings.HasPrefix(line, "Content-Type: text/event-stream"); {
		if line, err = events.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the stream of events is a member", func() bool { return strings.Contains(r.get("/v2/subscriptions").body, `"class":"read"`) })
	fire, tail, old := r.read("/firehose/nozzle"), r.read("/apps/app/stream"), r.readOld("/apps/app/stream")
	fire.joined(1)
	tail.joined(1)
	time.Sleep(1500 * time.Millisecond)
	a.Emit("app", "x", 10)
	want := ids("app", "x", 0, 10)
	fire.want(want...)
	tail.want(want...)
	wantIn(t, func() []string {
		old.mu.Lock()
		defer old.mu.Unlock()
		return old.ids
	}, want)
	for got := 0; got < 10; {
		line, err := events.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		got += strings.Count(line, `"instance_id"`)
	}
}

// TestRefusalsAreInTheSecurityLog: what is refused before access is decided about
// has its line, and is counted.
func TestRefusalsAreInTheSecurityLog(t *testing.T) {
	file := filepath.Join(t.TempDir(), "security.log")
	r := start(t, func(c *Config) { c.SecurityLog = file })
	for _, c := range []struct{ name, text, answer, line string }{
		{"served", "GET /health HTTP/1.1\r\nHost: tc\r\nConnection: close\r\n\r\n", " 200 ", "|GET /health|"},
		{"large body", "POST /body HTTP/1.1\r\nHost: tc\r\nContent-Length: 100000\r\n\r\n", " 413 ", "|POST /body|"},
		{"long URL", "GET /url?" + strings.Repeat("a", 80<<10) + " HTTP/1.1\r\nHost: tc\r\n\r\n", "path and query have 81925 bytes, the limit is 65536", "|GET /url?"},
		{"large header", "GET /header HTTP/1.1\r\nHost: tc\r\nX: " + strings.Repeat("a", 80<<10) + "\r\n\r\n", "the limit is 65536 (--max-header-bytes)", "|GET /header|"},
		{"foreign page", "GET /set-cookie HTTP/1.1\r\nHost: tc\r\nOrigin: https://evil.example\r\nConnection: close\r\n\r\n", " 403 ", "|GET /set-cookie|"},
		{"HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "this service speaks HTTP/1.1 only", "|PRI "},
	} {
		answer := exchange(t, r.tc.Addr(), c.text)
		lines, err := os.ReadFile(file)
		if err != nil || !strings.Contains(answer, c.answer) || !strings.Contains(string(lines), c.line) {
			t.Errorf("%s: %.100q, %v, the log has %.2000s", c.name, answer, err, lines)
		}
	}
	metrics := get(t, "http://"+r.tc.AdminAddr()+"/metrics").body
	for _, code := range []string{"413", "414", "431"} {
		if !strings.Contains(metrics, fmt.Sprintf(`trafficcontroller_http_refused_total{code=%q,path="other"} 1`, code)) {
			t.Errorf("%s is not counted", code)
		}
	}
}

// exchange sends text and returns what is answered until the connection ends.
func exchange(t *testing.T, addr, text string) string {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(nc) // a reset may end it
	return string(answer)
}
