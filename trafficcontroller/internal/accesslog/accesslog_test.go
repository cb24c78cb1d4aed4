package accesslog

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func moment() time.Time { return time.Unix(1700000000, 123456789) }

func opened(t *testing.T) (*Log, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "events.log")
	l, err := Open(path, "10.0.1.2", "8081", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l.now = moment
	t.Cleanup(func() { _ = l.Close() })
	return l, path
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func nothing(http.ResponseWriter, *http.Request) {}

// TestLines writes the observed lines of protocol/vectors.
func TestLines(t *testing.T) {
	data, err := os.ReadFile("testdata/access_log.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Case, Request string
			Headers       map[string]string
			RemoteAddr    string `json:"remote_addr"`
			Line          string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) != 13 {
		t.Errorf("%d cases", len(file.Cases))
	}
	for _, c := range file.Cases {
		l, path := opened(t)
		method, target, _ := strings.Cut(c.Request, " ")
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{Method: method, URL: u, Header: http.Header{}, RemoteAddr: c.RemoteAddr}
		for name, value := range c.Headers {
			r.Header.Set(name, value)
		}
		l.Wrap(http.HandlerFunc(nothing)).ServeHTTP(httptest.NewRecorder(), r)
		if got := read(t, path); got != c.Line+"\n" {
			t.Errorf("%s:\n%s want\n%s", c.Case, got, c.Line)
		}
	}
}

func TestNobodyWritesALineOfTheirOwn(t *testing.T) {
	for _, value := range []string{"/a\nCEF:0|x", "/a\r", "/a\x00\x1b[0m", "/a\u2028b\u0085c", "/a\xffb"} {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: value}, Header: http.Header{}}
		got := sample().line(r)
		if strings.IndexFunc(got, isControl) >= 0 || strings.Count(got, "\n") != 0 {
			t.Errorf("%q gives %q", value, got)
		}
	}
	long := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: strings.Repeat("/", 1<<20)}, Header: http.Header{}}
	if n := len(sample().line(long)); n > 4*maxValueBytes {
		t.Errorf("a line of %d bytes", n)
	}
}

// TestTokenStaysOut asks for a cookie by query, which holds a token.
func TestTokenStaysOut(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/set-cookie?CookieName=authorization&CookieValue=bearer+tok", nil)
	if got := sample().line(r); strings.Contains(got, "tok ") || !strings.Contains(got, "request=/set-cookie?(hidden) ") {
		t.Error(got)
	}
}

// TestReopen moves the file away, as log rotation does, while requests come.
func TestReopen(t *testing.T) {
	l, path := opened(t)
	h := l.Wrap(http.HandlerFunc(nothing))
	const each = 200
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range each {
				h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/x", nil))
			}
		})
	}
	lines := 0
	for i := range 5 {
		moved := fmt.Sprint(path, ".", i)
		if err := os.Rename(path, moved); err != nil {
			t.Fatal(err)
		}
		if err := l.Reopen(); err != nil {
			t.Fatal(err)
		}
		if i == 4 {
			writers.Wait()
		}
	}
	for i := range 5 {
		lines += strings.Count(read(t, fmt.Sprint(path, ".", i)), "dpt=8081\n")
	}
	lines += strings.Count(read(t, path), "dpt=8081\n")
	if written, failed := l.Stats(); lines != 4*each || written != 4*each || failed != 0 {
		t.Errorf("%d lines, %d written, %d failed", lines, written, failed)
	}
}

func TestReopenKeepsTheOldFileOnError(t *testing.T) {
	l, path := opened(t)
	l.path = filepath.Join(filepath.Dir(path), "nowhere", "x")
	if err := l.Reopen(); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("error %v", err)
	}
	l.write("still")
	if got := read(t, path); got != "still\n" {
		t.Errorf("%q", got)
	}
	if _, err := Open(l.path, "h", "1", nil); err == nil {
		t.Error("opened")
	}
}

func TestAppends(t *testing.T) {
	l, path := opened(t)
	l.write("one")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, "h", "1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	again.write("two")
	if got := read(t, path); got != "one\ntwo\n" {
		t.Errorf("%q", got)
	}
}

// disk takes so many bytes more.
type disk struct {
	bytes.Buffer
	free int
}

func (d *disk) Write(p []byte) (int, error) {
	if len(p) <= d.free {
		d.free -= len(p)
		return d.Buffer.Write(p)
	}
	n, _ := d.Buffer.Write(p[:d.free])
	d.free = 0
	return n, syscall.ENOSPC
}

func (d *disk) Close() error { return nil }

// TestFullDisk fails no request, counts, speaks once, and starts a new line
// when there is room again.
func TestFullDisk(t *testing.T) {
	var logged bytes.Buffer
	d := &disk{free: 7}
	l := &Log{Escape: HTML, From: source, file: d, now: moment, log: slog.New(slog.NewTextHandler(&logged, nil))}
	served := 0
	h := l.Wrap(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ }))
	l.write("fits")
	for range 10 {
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
	}
	d.free = 100
	l.write("again")
	if written, failed := l.Stats(); served != 10 || written != 2 || failed != 10 {
		t.Errorf("%d served, %d written, %d failed", served, written, failed)
	}
	if got := d.String(); got != "fits\nCE\nagain\n" {
		t.Errorf("%q", got)
	}
	if n := strings.Count(logged.String(), "no space"); n != 1 {
		t.Errorf("told %d times", n)
	}
}

func TestClosed(t *testing.T) {
	l, _ := opened(t)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l.write("late")
	if _, failed := l.Stats(); failed != 1 || l.Reopen() == nil || l.Close() != nil {
		t.Errorf("%d failed", failed)
	}
}

// TestUpgradesStillWork hijacks and flushes through the wrapper.
func TestUpgradesStillWork(t *testing.T) {
	l, path := opened(t)
	server := httptest.NewServer(l.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/flush" {
			_ = http.NewResponseController(w).Flush()
			_, _ = io.WriteString(w, "flushed")
			return
		}
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhijacked")
			_ = conn.Close()
		}
	})))
	defer server.Close()
	client := &http.Transport{DisableKeepAlives: true}
	for path, want := range map[string]string{"/hijack": "hijacked", "/flush": "flushed"} {
		r, _ := http.NewRequest(http.MethodGet, server.URL+path, nil)
		resp, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != want {
			t.Errorf("%s: %q", path, body)
		}
	}
	if got := read(t, path); strings.Count(got, "\n") != 2 || !strings.Contains(got, "src=127.0.0.1 ") {
		t.Errorf("%q", got)
	}
}

// sample is a log without a file.
func sample() *Log { return &Log{Escape: HTML, From: source, now: moment, host: "h", port: "1"} }

// With escaping as CEF has it nobody writes a field of their own, either.
func TestEscape(t *testing.T) {
	l := sample()
	l.Escape = CEF
	r := httptest.NewRequest(http.MethodGet, "http://h/a%7Cb%5Cc%0Acs2=x%20src=1", nil)
	r.URL.RawQuery = "x=1|2&access_token=tok&%74oken=tok&TOKEN=tok&page=3"
	r.Header.Set("X-Vcap-Request-Id", "a=b\nc|\\")
	want := `CEF:0|cloud_foundry|loggregator_trafficcontroller|1.0` +
		`|GET /a\|b\\c cs2=x src=1?x=1\|2&access_token=(hidden)&token=(hidden)&TOKEN=(hidden)&page=3` +
		`|GET /a\|b\\c cs2=x src=1?x=1\|2&access_token=(hidden)&token=(hidden)&TOKEN=(hidden)&page=3|0|` +
		`rt=1700000000123 cs1Label=userAuthenticationMechanism cs1=oauth-access-token cs2Label=vcapRequestId cs2=a\=b c|\\` +
		` request=/a|b\\c cs2\=x src\=1?x\=1|2&access_token\=(hidden)&token\=(hidden)&TOKEN\=(hidden)&page\=3 requestMethod=GET` +
		` src=192.0.2.1 spt=1234 dst=h dpt=1`
	if got := l.line(r); got != want {
		t.Errorf("%s\nwant\n%s", got, want)
	}
}

func TestFrom(t *testing.T) {
	l := sample()
	l.From = func(*http.Request) (host, port string) { return "198.51.100.7", "" }
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("X-Forwarded-For", "203.0.113.9")
	if got := l.line(r); !strings.Contains(got, " src=198.51.100.7 spt= ") {
		t.Error(got)
	}
}

// Tokens stay out however they are put into a query.
func TestQueriesWithoutSecrets(t *testing.T) {
	for query, want := range map[string]string{
		"":                                     "",
		"filter-type=logs&&x":                  "filter-type=logs&&x",
		"x=1;access_token=TOK":                 "x=1;access_token=(hidden)",
		"access_token%3DTOK":                   "access_token=(hidden)",
		"id_token=TOK&refresh_token=TOK":       "id_token=(hidden)&refresh_token=(hidden)",
		"Authorization=bearer%20TOK":           "Authorization=(hidden)",
		"token=TOK%zz":                         "token=(hidden)",
		"source_id=token&code=TOK&encoded=yes": "source_id=token&code=(hidden)&encoded=yes",
	} {
		if got := WithoutSecrets(query); got != want {
			t.Errorf("%q gives %q, not %q", query, got, want)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/firehose/a%3Faccess_token=TOK", nil)
	if got := sample().line(r); strings.Contains(got, "TOK ") || strings.Contains(got, "TOK|") {
		t.Error(got)
	}
}
