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
		got := line(r, moment(), "h", "1")
		if strings.IndexFunc(got, isControl) >= 0 || strings.Count(got, "\n") != 0 {
			t.Errorf("%q gives %q", value, got)
		}
	}
	long := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: strings.Repeat("/", 1<<20)}, Header: http.Header{}}
	if n := len(line(long, moment(), "h", "1")); n > 4*maxValueBytes {
		t.Errorf("a line of %d bytes", n)
	}
}

// TestTokenStaysOut asks for a cookie by query, which holds a token.
func TestTokenStaysOut(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, "/set-cookie?CookieName=authorization&CookieValue=bearer+tok", nil)
	if got := line(r, moment(), "h", "1"); strings.Contains(got, "tok ") || !strings.Contains(got, "request=/set-cookie?(hidden) ") {
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
	l := &Log{file: d, now: moment, log: slog.New(slog.NewTextHandler(&logged, nil))}
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
