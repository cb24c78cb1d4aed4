package api

import (
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// user is somebody's leave.
type user string

func (u user) Name() string { return string(u) }

type everybody struct{}

func (everybody) Firehose(http.ResponseWriter, *http.Request) (Leave, bool) {
	return user("user-1"), true
}

func (everybody) App(http.ResponseWriter, *http.Request, string) (Leave, bool) {
	return user("user-1"), true
}

// served is an API whose streams are noted and closed.
type served struct {
	*API
	http      *httptest.Server
	firehoses []FirehoseQuery
	tails     []TailQuery
	ready     error
	over      string // limit that is reached
}

func serve(t *testing.T, limit int) *served {
	t.Helper()
	s := &served{}
	view := func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) }
	s.API = New(Config{
		Name: "tc", Version: "test", MaxConnections: limit, MaxRecent: 1000, SocketBuffer: 64 << 10,
		Ready: func() error { return s.ready },
		Firehose: func(c *stream.Conn, q FirehoseQuery, done func()) error {
			s.firehoses = append(s.firehoses, q)
			defer done()
			return c.Close(stream.CloseNormal, "")
		},
		Tail: func(c *stream.Conn, q TailQuery, done func()) error {
			s.tails = append(s.tails, q)
			defer done()
			return c.Close(stream.CloseNormal, "")
		},
		From: func(r *http.Request) Origin { return Origin{Remote: r.RemoteAddr, Scheme: "http"} },
		Take: func(*http.Request, string) (func(), string) {
			if s.over != "" {
				return nil, s.over
			}
			return func() {}, ""
		},
		Access: everybody{}, SetCookie: http.HandlerFunc(view),
		Subscriptions: view, Sources: view, Read: http.HandlerFunc(view), RecentLogs: view, ContainerMetrics: view, LogCache: http.HandlerFunc(view),
	}, slog.New(slog.DiscardHandler))
	s.http = httptest.NewServer(s.API)
	t.Cleanup(s.http.Close)
	return s
}

func (s *served) get(t *testing.T, path string, header http.Header) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.http.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, resp.Header, string(body)
}

func upgrade(subprotocol string) http.Header {
	h := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {"dGhlIHNhbXBsZSBub25jZQ=="},
	}
	if subprotocol != "" {
		h.Set("Sec-Websocket-Protocol", subprotocol)
	}
	return h
}

func TestAnswers(t *testing.T) {
	s := serve(t, 10)
	long := strings.Repeat("x", 300)
	for _, tc := range []struct {
		path   string
		header http.Header
		status int
		says   string
	}{
		{"/", nil, 200, "/firehose/{subscription}"},
		{"/health", nil, 200, "ok"},
		{"/ready", nil, 200, "ready"},
		{"/v2/subscriptions", nil, 200, "{}"},
		{"/v2/sources", nil, 200, "{}"},
		{"/v2/read", nil, 200, "{}"},
		{"/api/v1/read/a%2Fb", nil, 200, "{}"},
		{"/apps/a/recentlogs", nil, 200, "{}"},
		{"/apps/a/containermetrics", nil, 200, "{}"},
		{"/apps/a%2Fb/recentlogs", nil, 404, "404 page not found"},
		{"/apps/a%2Fb/containermetrics", nil, 404, "404 page not found"},
		{"/nowhere", nil, 404, "/nowhere"},
		{"/firehose/a?" + strings.Repeat("log&", 10_000), nil, 400, "the query has 10001 parameters, the limit is 10000"},
		{"/firehose/", nil, 404, ""},
		{"/firehose/a", nil, 400, "Bad Request: this path is a WebSocket"},
		{"/apps/a/stream", nil, 400, "Bad Request: this path is a WebSocket"},
		{"/firehose/a", http.Header{"Sec-Websocket-Protocol": {stream.Subprotocol}}, 426, "WebSocket"},
		{"/firehose/a?ack=client", upgrade(""), 400, "ack needs the WebSocket subprotocol " + stream.Subprotocol},
		{"/apps/a/stream?recent=5", upgrade("graphql"), 400, "recent needs the WebSocket subprotocol"},
		{"/firehose/" + long, upgrade(""), 400, "256"},
		{"/apps/" + long + "/stream", upgrade(""), 400, "256"},
		{"/firehose/" + long, upgrade(stream.Subprotocol), 400, "256"},
		{"/firehose/a?type=trace", upgrade(stream.Subprotocol), 400, "trace"},
		{"/firehose/a?ack=never", upgrade(stream.Subprotocol), 400, "ack"},
		{"/firehose/a?cursor=nonsense", upgrade(stream.Subprotocol), 400, "cursor"},
		{"/firehose/a?colour=red", upgrade(stream.Subprotocol), 400, "colour"},
		{"/firehose/a?" + strings.Repeat("name=n&", 1001), upgrade(stream.Subprotocol), 400, "1000"},
		{"/apps/" + long + "/stream", upgrade(stream.Subprotocol), 400, "256"},
		{"/apps/a/stream?recent=many", upgrade(stream.Subprotocol), 400, "recent"},
		{"/apps/a/stream?recent=1001", upgrade(stream.Subprotocol), 400, "1000"},
		{"/apps/a/stream?since=yesterday", upgrade(stream.Subprotocol), 400, "since"},
		{"/apps/a/stream?cursor=c9.x", upgrade(stream.Subprotocol), 400, "cursor"},
		{"/apps/a/stream?type=%zz", upgrade(stream.Subprotocol), 400, "malformed"},
	} {
		status, _, body := s.get(t, tc.path, tc.header)
		if status != tc.status || !strings.Contains(body, tc.says) {
			t.Errorf("%.60s: %d %q, want %d with %q", tc.path, status, body, tc.status, tc.says)
		}
	}
	if len(s.firehoses)+len(s.tails) != 0 || s.Open() != 0 {
		t.Errorf("%d firehoses and %d tails were opened, %d are counted", len(s.firehoses), len(s.tails), s.Open())
	}
}

func TestPlainGetSaysUpgrade(t *testing.T) {
	s := serve(t, 10)
	_, h, _ := s.get(t, "/firehose/a", nil)
	if h.Get("Sec-Websocket-Version") != "13" {
		t.Errorf("headers %v", h)
	}
	_, h, _ = s.get(t, "/firehose/a", http.Header{"Sec-Websocket-Protocol": {stream.Subprotocol}})
	if h.Get("Upgrade") != "websocket" {
		t.Errorf("headers %v", h)
	}
}

func TestDiscoveryIsJSON(t *testing.T) {
	_, _, body := serve(t, 10).get(t, "/", nil)
	var doc struct {
		Subprotocols []string
		Links        map[string]struct{ Href string }
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || len(doc.Subprotocols) != 1 || doc.Links["stream"].Href == "" {
		t.Errorf("%v: %s", err, body)
	}
}

func TestWhatIsAskedForArrives(t *testing.T) {
	s := serve(t, 10)
	for _, path := range []string{
		"/firehose/my%20nozzle?type=log&type=counter&source_id=a&name=n&ack=client",
		"/apps/cf%2Fdiego/stream?type=log&recent=7&since=10m",
	} {
		c, err := stream.Dial(t.Context(), s.http.URL+path, stream.DialOptions{Subprotocol: stream.Subprotocol})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(t.Context()); err == nil {
			t.Fatal("a message from nowhere")
		}
		c.CloseNow()
	}
	f := s.firehoses[0]
	if f.Subscription != "my nozzle" || !f.Acking || len(f.Selectors["type"]) != 2 || f.Remote == "" {
		t.Errorf("firehose %+v", f)
	}
	mask, _ := envelope.MaskOf("log")
	if q := s.tails[0]; q.Source != "cf/diego" || q.Mask != mask || q.Recent != 7 || time.Since(time.Unix(0, q.Since)) < 9*time.Minute {
		t.Errorf("tail %+v", q)
	}
}

func TestOldFraming(t *testing.T) {
	s := serve(t, 10)
	logs, metrics := []string{"log"}, []string{"error-log", "container-gauge", "gauge", "http-timer", "timer", "counter"}
	for _, tc := range []struct {
		path    string
		classes []string
	}{
		{"/firehose/a?", nil},
		{"/firehose/a?filter-type=logs", logs},
		{"/firehose/a?filter-type=metrics", metrics},
		{"/firehose/a?filter-type=Logs&colour=red", nil},
		{"/firehose/a?filter-type=%zz", nil},
		{"/apps/app-1/stream?filter-type=metrics", nil},
	} {
		c, err := stream.Dial(t.Context(), s.http.URL+tc.path, stream.DialOptions{})
		if err != nil {
			t.Fatalf("%s: %v", tc.path, err)
		}
		if _, err := c.Read(t.Context()); err == nil {
			t.Fatal("a message from nowhere")
		}
		c.CloseNow()
		if strings.HasPrefix(tc.path, "/apps") {
			q := s.tails[len(s.tails)-1]
			if !q.Old || q.Source != "app-1" {
				t.Errorf("%s: %+v", tc.path, q)
			}
			continue
		}
		q := s.firehoses[len(s.firehoses)-1]
		if !q.Old || q.Subscription != "a" || !slices.Equal(q.Selectors["class"], tc.classes) {
			t.Errorf("%s: %+v", tc.path, q)
		}
	}
}

func TestLimitsSpeak(t *testing.T) {
	s := serve(t, 0)
	status, h, body := s.get(t, "/firehose/a", upgrade(stream.Subprotocol))
	if status != 503 || h.Get("Retry-After") == "" || !strings.Contains(body, "limit is 0") {
		t.Errorf("%d %v %q", status, h, body)
	}
	many := serve(t, 1)
	many.over = "too many streams of this user: the limit is 7"
	for _, subprotocol := range []string{"", stream.Subprotocol} {
		status, h, body := many.get(t, "/apps/a/stream", upgrade(subprotocol))
		if status != 429 || h.Get("Retry-After") == "" || !strings.Contains(body, "the limit is 7") || many.Open() != 0 {
			t.Errorf("%d %v %q", status, h, body)
		}
	}
	s.ready = errors.New("no Doppler is connected")
	if status, _, body = s.get(t, "/ready", nil); status != 503 || !strings.Contains(body, "no Doppler") {
		t.Errorf("%d %q", status, body)
	}
	s.ready = nil
	s.Drain()
	if status, _, body = s.get(t, "/apps/a/stream", upgrade(stream.Subprotocol)); status != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("%d %q", status, body)
	}
}

func FuzzQueries(f *testing.F) {
	for _, q := range []string{
		"", "type=log&recent=5", "since=10m", "since=-1s", "since=2026-01-02T15:04:05Z", "since=1700000000000000000",
		"cursor=c1.AAAA", "recent=99999999999999999999", "name=&name=%00", "type=LOG", "ack=client", "%", "a;b",
	} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		r := &http.Request{Method: http.MethodGet, URL: &url.URL{Path: "/", RawQuery: query}, Header: http.Header{}}
		a := &API{cfg: Config{MaxRecent: 1000}}
		if q, err := a.parseTail(r); err == nil && (q.Recent < 0 || q.Recent > 1000 || q.Since < 0) {
			t.Errorf("%+v", q)
		}
		if q, err := parseFirehose(r); err == nil && len(q.Selectors["name"]) > maxSelectors {
			t.Errorf("%+v", q)
		}
		if q, err := parseOldFirehose(r); err == nil && (!q.Old || q.Acking || len(q.Selectors) > 1) {
			t.Errorf("%+v", q)
		}
	})
}

func TestCleanPath(t *testing.T) {
	for p, want := range map[string]string{
		"*": "*", "": "", "/": "/", "//": "/", "//firehose/a": "/firehose/a", "/a/../b/": "/b/", "/firehose/a": "/firehose/a",
	} {
		if got := cleanPath(p); got != want {
			t.Errorf("%q becomes %q, want %q", p, got, want)
		}
	}
}
