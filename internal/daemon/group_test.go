package daemon

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestGroupStopsInReverse(t *testing.T) {
	type key struct{}
	var g Group
	started := make(chan string, 3)
	var stopped []string // only one actor stops at a time
	for _, name := range []string{"admin", "egress", "ingress"} {
		g.Add(name, func(ctx context.Context) error {
			started <- ctx.Value(key{}).(string)
			<-ctx.Done()
			stopped = append(stopped, name)
			return ctx.Err()
		})
	}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "here"))
	result := make(chan error)
	go func() { result <- g.Run(ctx) }()
	for range 3 {
		if got := <-started; got != "here" {
			t.Error(got)
		}
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if want := []string{"ingress", "egress", "admin"}; !slices.Equal(stopped, want) {
		t.Errorf("stopped in order %q, want %q", stopped, want)
	}
}

func TestGroupEndsWithItsFirst(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		name string
		err  error
	}{{"error", broken}, {"no error", nil}} {
		t.Run(test.name, func(t *testing.T) {
			var g Group
			g.Add("waits", func(ctx context.Context) error { <-ctx.Done(); return nil })
			g.Add("ends", func(context.Context) error { return test.err })
			err := g.Run(t.Context())
			if !errors.Is(err, test.err) || (test.err != nil && !strings.HasPrefix(err.Error(), "ends: ")) {
				t.Fatal(err)
			}
		})
	}
}

func TestServeHTTP(t *testing.T) {
	l, err := Listen("127.0.0.1:0", 64<<10)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(l.Addr().String(), 0); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Fatalf("bound twice, or not told: %v", err)
	}
	entered, leave := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-leave
		_, _ = io.WriteString(w, "served")
	})
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error)
	go func() {
		result <- ServeHTTP(NewHTTPServer(handler, slog.New(slog.DiscardHandler)), l, time.Minute)(ctx)
	}()
	body := make(chan string)
	go func() {
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		response, err := client.Get("http://" + l.Addr().String())
		if err != nil {
			body <- err.Error()
			return
		}
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		body <- string(text)
	}()
	<-entered
	cancel()
	// The request in progress is still answered after the listener is gone.
	for {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			break
		}
		_ = conn.Close()
	}
	close(leave)
	if text := <-body; text != "served" {
		t.Errorf("got %q", text)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
}

func TestAdmin(t *testing.T) {
	notReady := errors.New("still draining")
	answer := func(text string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) })
	}
	admin := Admin{Metrics: NewRegistry(), Ready: func() error { return notReady }, Subscriptions: answer("subs")}
	for _, test := range []struct {
		path, body string
		status     int
	}{
		{"/metrics", "go_goroutines", 200},
		{"/health", "ok", 200},
		{"/ready", "not ready: still draining", 503},
		{"/subscriptions", "subs", 200},
		{"/sources", "nothing at /sources; there is /metrics", 404},
		{"/debug/pprof/", "goroutine", 200},
		{"/debug/pprof/cmdline", "daemon.test", 200},
		{"/debug/pprof/heap?debug=1", "heap profile", 200},
		{"/", "nothing at /;", 404},
	} {
		w := httptest.NewRecorder()
		admin.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, test.path, nil))
		if w.Code != test.status || !strings.Contains(w.Body.String(), test.body) {
			t.Errorf("%s: %d %.200s", test.path, w.Code, w.Body)
		}
	}
	admin.Ready = func() error { return nil }
	w := httptest.NewRecorder()
	admin.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/ready", nil))
	if w.Code != http.StatusOK {
		t.Errorf("ready: %d", w.Code)
	}
}
