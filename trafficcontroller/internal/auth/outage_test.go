package auth

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	app   = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	other = "b3015d69-09cd-476d-aace-ad2d824d5ab7"
)

// broken are ways to say yes, all but.
func broken(body string) map[string]http.HandlerFunc {
	long := strings.Repeat(" ", maxAnswerBytes)
	return map[string]http.HandlerFunc{
		"connection dropped": drop,
		"500":                says(500, body),
		"503":                says(503, body),
		"429":                says(429, body),
		"redirect to a yes": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/elsewhere" {
				says(200, body)(w, r)
				return
			}
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"no content": says(204, ""),
		"half an answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)+10))
			_, _ = io.WriteString(w, body)
		},
		"too long": says(200, body+long),
		"hangs": func(_ http.ResponseWriter, r *http.Request) {
			<-r.Context().Done()
		},
		"hangs in the middle": func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, body)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		},
		"garbage": func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = conn.Write([]byte("\x16\x03 " + r.Header.Get("Authorization") + "\r\n\r\n"))
				_ = conn.Close()
			}
		},
	}
}

func TestOutageOfUAANeverGivesAccess(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Timeout, cfg.CacheFor = 100*time.Millisecond, time.Minute
	ways := broken(scope("doppler.firehose"))
	for name, body := range map[string]string{
		"not JSON": "yes", "truncated JSON": `{"scope":["doppler.firehose"]`, "scope is text": `{"scope":"doppler.firehose"}`,
		"a list": `["doppler.firehose"]`, "empty": "", "null": "null", "two answers": scope("doppler.firehose") + "{}",
	} {
		ways[name] = says(200, body)
	}
	for name, uaa := range ways {
		t.Run(name, func(t *testing.T) {
			a := newAuth(t, cfg)
			o.set(uaa, says(404, ""))
			for _, d := range everything(t, a, "bearer tok") {
				if d.Allowed() || name != "null" && d.Reason != Outage {
					t.Errorf("%+v", d)
				}
			}
			if n, _ := a.cache.size(); n != 0 && name != "null" {
				t.Errorf("%d answers are kept", n)
			}
		})
	}
}

// everything asks what depends on UAA.
func everything(t *testing.T, a *Auth, authorization string) []Decision {
	t.Helper()
	r := request(authorization)
	meta, seen := a.LogCacheMeta(t.Context(), r)
	query, read := a.LogCacheQuery(t.Context(), r, []string{app})
	if seen.Has(app) || read != nil {
		t.Errorf("meta shows %v, the query reads %v", seen, read)
	}
	return []Decision{
		a.Firehose(t.Context(), r), a.Read(t.Context(), r, nil), a.Read(t.Context(), r, []string{app}),
		a.LogCache(t.Context(), r, app), meta, query,
	}
}

func TestOutageOfCloudControllerNeverGivesAccess(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Timeout, cfg.CacheFor = 100*time.Millisecond, time.Minute
	user := says(200, scope("cloud_controller.read"))
	for name, cc := range broken("{}") {
		t.Run(name, func(t *testing.T) {
			a := newAuth(t, cfg)
			o.set(user, cc)
			r := request("bearer tok")
			if d := a.App(t.Context(), r, app); d.Reason != Outage || d.Status != 500 || d.Body != "" || d.Header != nil {
				t.Errorf("app: %+v", d)
			}
			if d := a.Read(t.Context(), r, []string{app}); d.Reason != Outage || d.Status != 404 {
				t.Errorf("read: %+v", d)
			}
			if d := a.LogCache(t.Context(), r, app); d.Reason != Outage || d.Status != 404 || d.Body != "" {
				t.Errorf("Log Cache: %+v", d)
			}
			if d, seen := a.LogCacheMeta(t.Context(), r); d.Reason != Outage || seen.Has(app) {
				t.Errorf("meta: %+v %v", d, seen)
			}
			if d, read := a.LogCacheQuery(t.Context(), r, []string{app}); d.Reason != Outage || read != nil {
				t.Errorf("query: %+v %v", d, read)
			}
			if n, _ := a.cache.size(); n > 1 { // UAA's answer may be
				t.Errorf("%d answers are kept", n)
			}
		})
	}
}

func TestNobodyThere(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	o.uaaServer.Close()
	o.inside.Close()
	o.external.Close()
	if d := a.App(t.Context(), request("bearer tok"), app); d.Reason != Outage || d.Status != 500 {
		t.Errorf("app: %+v", d)
	}
	for _, d := range everything(t, a, "bearer tok") {
		if d.Reason != Outage {
			t.Errorf("%+v", d)
		}
	}
}

// TestSilence asks who takes connections and never says a word, not even TLS.
func TestSilence(t *testing.T) {
	_, cfg := newOutside(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	silent := "https://" + listener.Addr().String()
	cfg.UAAAddr, cfg.CCAddr, cfg.CCExternalAddr, cfg.Timeout = silent, silent, silent, 50*time.Millisecond
	a := newAuth(t, cfg)
	if d := a.App(t.Context(), request("bearer tok"), app); d.Reason != Outage || d.Status != 500 {
		t.Errorf("app: %+v", d)
	}
	for _, d := range everything(t, a, "bearer tok") {
		if d.Reason != Outage {
			t.Errorf("%+v", d)
		}
	}
}

// TestKeptConnectionThatEnded is no outage: UAA may close one at any time.
func TestKeptConnectionThatEnded(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	var asked atomic.Int32
	yes := says(200, scope("doppler.firehose"))
	o.set(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 2 {
			drop(w, r)
		}
		yes(w, r)
	}, drop)
	for i := range 2 {
		if d := a.Firehose(t.Context(), request("bearer tok")); !d.Allowed() {
			t.Errorf("time %d: %+v", i, d)
		}
	}
	if asked.Load() != 3 || len(o.asked()) != 3 {
		t.Errorf("asked %q", o.asked())
	}
}

// TestStrangersAreNotAsked gives servers whose certificates are not the ones
// configured: no secret and no token may be sent.
func TestStrangersAreNotAsked(t *testing.T) {
	o, good := newOutside(t)
	for name, change := range map[string]func(*Config){
		"other authorities":                         func(c *Config) { c.UAACA, c.CCTLS.CA = c.CCTLS.CA, c.UAACA },
		"this host's authorities, and another name": func(c *Config) { c.UAACA, c.CCServerName = "", "cloud-controller" },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := good
			change(&cfg)
			a := newAuth(t, cfg)
			o.set(says(200, scope("doppler.firehose")), says(200, ""))
			firehose, stream := a.Firehose(t.Context(), request("bearer tok")), a.App(t.Context(), request("bearer tok"), app)
			if firehose.Reason != Outage || stream.Reason != Outage || len(o.asked()) != 0 {
				t.Errorf("%+v %+v, asked %q", firehose, stream, o.asked())
			}
			cfg.SkipVerify = true
			a = newAuth(t, cfg)
			if d := a.Firehose(t.Context(), request("bearer tok")); !d.Allowed() {
				t.Errorf("with verification off: %+v", d)
			}
			if d := a.App(t.Context(), request("bearer tok"), app); !d.Allowed() {
				t.Errorf("with verification off: %+v", d)
			}
		})
	}
}

// TestSecretsStayOutOfTheLog has servers repeat what they were sent where it
// ends up in an error.
func TestSecretsStayOutOfTheLog(t *testing.T) {
	o, cfg := newOutside(t)
	const token = "tokentokentoken"
	cfg.UAASecret = "clientsecret"
	var logged bytes.Buffer
	a, err := New(cfg, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	echo := func(w http.ResponseWriter, r *http.Request) {
		_, secret, _ := r.BasicAuth()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			fmt.Fprintf(conn, "%s %s %s\r\n\r\n", r.FormValue("token"), secret, r.Header.Get("Authorization"))
			_ = conn.Close()
		}
	}
	o.set(echo, echo)
	a.App(t.Context(), request("bearer "+token), app)
	a.Firehose(t.Context(), request("bearer "+token))
	if _, err := a.checkToken(t.Context(), token); err == nil || strings.Contains(err.Error(), token) || strings.Contains(err.Error(), cfg.UAASecret) {
		t.Errorf("error %v", err)
	}
	if s := logged.String(); !strings.Contains(s, "[secret]") || strings.Contains(s, token) || strings.Contains(s, cfg.UAASecret) {
		t.Errorf("logged %s", s)
	}
}

func TestLogSaysItOnce(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.UAASecret = "9876543210" // in no word of the log
	var logged bytes.Buffer
	a, err := New(cfg, slog.New(slog.NewTextHandler(&logged, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	o.set(says(401, "{}"), says(500, ""))
	for range 20 {
		a.Firehose(t.Context(), request("bearer 0123456789"))
	}
	if n := strings.Count(logged.String(), "client id and secret"); n != 1 {
		t.Errorf("%d lines: %s", n, &logged)
	}
	for _, c := range a.Stats().Calls {
		if c.Call == CallCheckToken && (c.Count != 20 || c.Failed != 20 || c.Last <= 0) {
			t.Errorf("%+v", c)
		}
	}
	for _, d := range a.Stats().Decisions {
		if d.Surface == SurfaceFirehose && d.Reason == Outage && d.Count != 20 {
			t.Errorf("%+v", d)
		}
	}
}

func TestClosedRefuses(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	arrived := make(chan struct{})
	o.set(func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
	}, drop)
	under := make(chan Decision)
	go func() { under <- a.Firehose(context.WithoutCancel(t.Context()), request("bearer tok")) }()
	<-arrived
	a.Close()
	if d := <-under; d.Allowed() {
		t.Errorf("%+v", d)
	}
	if d := a.Firehose(t.Context(), request("bearer other")); d.Reason != Outage {
		t.Errorf("%+v", d)
	}
}

// ending is a transport whose answer is whole just after the time is up.
type ending struct{ timeUp func() }

func (e ending) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(e), Request: r}, nil
}

func (e ending) Read([]byte) (int, error) {
	e.timeUp()
	return 0, io.EOF
}

func TestAnswerAfterTheTimeIsNone(t *testing.T) {
	ctx, timeUp := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://cc", nil)
	s := &service{client: &http.Client{Transport: ending{timeUp}}}
	err := exchange(s, r, func(resp *http.Response) error {
		_, err := readAll(resp)
		return err
	})
	if err == nil {
		t.Error("was taken for an answer")
	}
}

func TestListsAreBounded(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	body := page("", app)
	for limit, want := range map[int]string{len(body): "", len(body) - 1: "longer than", 10: "longer than 10 bytes"} {
		w := httptest.NewRecorder()
		_, _ = w.WriteString(body)
		if _, err := readPage(w.Result(), int64(limit), func(resource) {}); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
	o.set(says(200, scope("cloud_controller.read")), says(401, page("", app)))
	if d, seen := a.LogCacheMeta(t.Context(), request("bearer tok")); d.Reason != InvalidToken || seen.Has(app) {
		t.Errorf("a 401: %+v", d)
	}
}

func TestStatsNameEverything(t *testing.T) {
	a := questions(t, 0)
	s, names := a.Stats(), map[string]bool{}
	for _, d := range s.Decisions {
		names[d.Surface.String()+" "+d.Reason.String()] = true
	}
	for _, c := range s.Calls {
		names[c.Call.String()] = true
	}
	if len(names) != int(surfaces)*(int(reasons)-1)+int(calls) {
		t.Errorf("%d names: %v", len(names), names)
	}
}
