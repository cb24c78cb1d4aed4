package gateway

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 10 * time.Second

// stage is a gateway whose streams the test writes to.
type stage struct {
	t       *testing.T
	http    *httptest.Server
	opened  chan *Conn
	queries chan Query
	refuse  error // of Admit
	forbid  bool
}

func newStage(t *testing.T, heartbeat, timeout time.Duration) *stage {
	s := &stage{t: t, opened: make(chan *Conn, 10), queries: make(chan Query, 10)}
	g := New(Config{
		Allow: func(w http.ResponseWriter, _ *http.Request, _ []string) (any, bool) {
			if s.forbid {
				w.WriteHeader(http.StatusNotFound)
			}
			return "", !s.forbid
		},
		Admit: func(*http.Request, any) (func(), error) { return func() {}, s.refuse },
		Open: func(c *Conn, q Query, closed func()) error {
			s.opened <- c
			s.queries <- q
			go func() {
				_, _ = c.Read(context.Background())
				closed()
			}()
			return nil
		},
		Heartbeat: heartbeat, StreamTimeout: timeout,
	})
	mux := http.NewServeMux()
	mux.Handle("/v2/read", g)
	s.http = httptest.NewServer(mux)
	t.Cleanup(s.http.Close)
	return s
}

func (s *stage) do(method, query string) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.http.URL+"/v2/read"+query, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestRefusals(t *testing.T) {
	many := "?log&" + strings.Repeat("source_id=a&", 10_001)
	for name, tc := range map[string]struct {
		method, query string
		refuse        error
		forbid        bool
		status        int
		body          string
	}{
		"post":        {method: http.MethodPost, query: "?log", status: 405, body: `{"message":"method not allowed","error":"method_not_allowed"}` + "\n\n"},
		"no query":    {query: "", status: 400, body: `{"message":"query cannot be empty","error":"empty_query"}` + "\n\n"},
		"no type":     {query: "?shard_id=x", status: 400, body: `{"message":"query must provide at least one envelope type","error":"missing_envelope_type"}` + "\n\n"},
		"upper case":  {query: "?LOG", status: 400, body: missingType.body + "\n\n"},
		"full":        {query: "?log", refuse: errors.New("full"), status: 503, body: `{"message":"streaming is temporarily unavailable","error":"streaming_unavailable"}` + "\n\n"},
		"forbidden":   {query: "", forbid: true, status: 404},
		"too many":    {query: many, status: 400, body: tooManyParts.body + "\n\n"},
		"a long name": {query: "?counter.name=" + strings.Repeat("x", 1025), status: 400, body: tooLongValues.body + "\n\n"},
	} {
		s := newStage(t, time.Minute, time.Minute)
		s.refuse, s.forbid = tc.refuse, tc.forbid
		resp := s.do(tc.method, tc.query)
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != tc.status || string(body) != tc.body {
			t.Errorf("%s: %d %q %v, want %d %q", name, resp.StatusCode, body, err, tc.status, tc.body)
		}
		if tc.body != "" && resp.Header.Get("Content-Type") != "text/plain; charset=utf-8" {
			t.Errorf("%s: %v", name, resp.Header)
		}
	}
}

func TestQueries(t *testing.T) {
	for query, want := range map[string][]string{
		"log":                               {"type=log"},
		"log=false":                         {"type=log"},
		"log&foo=bar":                       {"type=log"},
		"log&counter&gauge&timer&event":     {"type=log", "type=counter", "type=gauge", "type=timer", "type=event"},
		"source_id=a&source_id=b&log&gauge": {"source_id=a&source_id=b&type=log", "source_id=a&source_id=b&type=gauge"},
		"source_id=a&source_id=&log":        {"type=log"},
		"counter.name=e&counter.name=i":     {"name=e&type=counter", "name=i&type=counter"},
		"counter&counter.name=e":            {"name=e&type=counter"},
		"counter.name=":                     {"type=counter"},
		"gauge.name=cpu,memory":             {"exact=true&name=cpu&name=memory&type=gauge"},
		"gauge.name=cpu&gauge.name=memory":  {"exact=true&name=cpu&type=gauge", "exact=true&name=memory&type=gauge"},
		"gauge.name":                        {"exact=true&name=&type=gauge"},
	} {
		v, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		q, bad := parse(&http.Request{Method: http.MethodGet, URL: &url.URL{}}, v)
		if bad != nil || !slices.Equal(q.Selectors, want) {
			t.Errorf("%s: %v %q, want %q", query, bad, q.Selectors, want)
		}
	}
	// However many sources there are, a Doppler is asked in a few parameters:
	// of more than 10,000 it reads none.
	many := url.Values{"log": {""}, "counter": {""}, "gauge": {""}, "timer": {""}, "event": {""}}
	for i := range 2000 {
		many.Add("source_id", fmt.Sprint(i))
	}
	if q, bad := parse(&http.Request{Method: http.MethodGet, URL: &url.URL{}}, many); bad != nil || len(q.Selectors) != 5 {
		t.Errorf("%d selectors, %v", len(q.Selectors), bad)
	}
	v := url.Values{"shard_id": {"s", "t"}, "deterministic_name": {"d"}, "log": {""}}
	if q, bad := parse(&http.Request{Method: http.MethodGet, URL: &url.URL{}}, v); bad != nil || q.ShardID != "s" || q.DeterministicName != "d" {
		t.Errorf("%+v %v", q, bad)
	}
}

func record(t *testing.T, e *loggregatorv2.Envelope) []byte {
	t.Helper()
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return envelope.AppendRecord(nil, b)
}

func TestEvents(t *testing.T) {
	s := newStage(t, time.Minute, time.Minute)
	resp := s.do(http.MethodGet, "?log")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" || resp.Header.Get("Cache-Control") != "no-cache" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	c := <-s.opened
	records := record(t, &loggregatorv2.Envelope{
		Timestamp: 1, SourceId: "s", Tags: map[string]string{"a": "tag", "b": "kept"},
		DeprecatedTags: map[string]*loggregatorv2.Value{
			"a": {Data: &loggregatorv2.Value_Text{Text: "old wins"}}, "n": {Data: &loggregatorv2.Value_Integer{Integer: -5}},
			"f": {Data: &loggregatorv2.Value_Decimal{Decimal: 1e21}}, "none": {},
		},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte{0xff, 0xfe, 0x3f, 0x3e}}},
	})
	gaps := []*streampb.Gap{{Count: 7, Reason: streampb.Gap_EVICTED, Doppler: "d"}, {Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST}}
	if err := c.WriteFrames([][]byte{NewEncoder()(nil, gaps, records)}, nil, patience); err != nil {
		t.Fatal(err)
	}
	got := readEvent(t, bufio.NewReader(resp.Body))
	want := `{"timestamp":"1","source_id":"s","instance_id":"","deprecated_tags":{},` +
		`"tags":{"a":"old wins","b":"kept","f":"1e+21","n":"-5","none":""},"log":{"payload":"//4/Pg==","type":"OUT"}}`
	if flat := strings.ReplaceAll(got, " ", ""); !strings.HasSuffix(flat, strings.ReplaceAll(want, " ", "")+"]}") {
		t.Errorf("event %s", got)
	}
	var batch loggregatorv2.EnvelopeBatch
	if err := protojson.Unmarshal([]byte(got), &batch); err != nil || len(batch.Batch) != 3 {
		t.Fatalf("%v in %s", err, got)
	}
	for i, delta := range []uint64{7, 1} {
		e := batch.Batch[i]
		if e.GetCounter().GetName() != "dropped" || e.GetCounter().GetDelta() != delta || e.Tags["origin"] != "loggregator.rlp" || e.Tags["direction"] != "egress" {
			t.Errorf("gap %d is told as %v", i, e)
		}
	}
}

func readEvent(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if blank, err := r.ReadString('\n'); err != nil || blank != "\n" {
		t.Fatalf("%q %v after an event", blank, err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(line, "data: "), "\n")
}

// An event holds no more than a hundred envelopes, and an empty batch is none.
func TestLongBatchIsCut(t *testing.T) {
	var records []byte
	for range 205 {
		records = append(records, record(t, &loggregatorv2.Envelope{SourceId: "s"})...)
	}
	events := strings.Split(strings.TrimSuffix(string(NewEncoder()(nil, nil, records)), "\n\n"), "\n\n")
	var sizes []int
	for _, e := range events {
		var batch loggregatorv2.EnvelopeBatch
		if err := protojson.Unmarshal([]byte(strings.TrimPrefix(e, "data: ")), &batch); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, len(batch.Batch))
	}
	if !slices.Equal(sizes, []int{100, 100, 5}) {
		t.Errorf("events of %v", sizes)
	}
	if got := NewEncoder()(nil, nil, nil); len(got) != 0 {
		t.Errorf("an event for nothing: %q", got)
	}
}

func TestSignsOfLifeAndTheEnd(t *testing.T) {
	s := newStage(t, 50*time.Millisecond, 200*time.Millisecond)
	resp := s.do(http.MethodGet, "?log")
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(string(body), "event: heartbeat\ndata: ") || !strings.HasSuffix(string(body), "\n\nevent: closing\ndata: closing due to stream timeout\n\n") {
		t.Errorf("body %q", body)
	}
}

// A client that takes nothing makes the write fail, and the stream ends.
func TestClientThatStopsReading(t *testing.T) {
	s := newStage(t, time.Minute, time.Minute)
	s.do(http.MethodGet, "?log")
	c := <-s.opened
	event := []byte("data: " + strings.Repeat("x", 1<<20) + "\n\n")
	var err error
	for range 1000 {
		if err = c.WriteFrames([][]byte{event}, nil, 100*time.Millisecond); err != nil {
			break
		}
	}
	if !errors.Is(err, stream.ErrStuck) {
		t.Errorf("%v, want it stuck", err)
	}
	select {
	case <-c.done:
		t.Errorf("closed with %v; who wrote knows why", c.why)
	case <-time.After(50 * time.Millisecond): // net/http ends the request now
	}
	_ = c.Close(stream.CloseStuck, "stuck")
}

// A client that is cut while it takes nothing is not waited for.
func TestClientThatIsCutWhileItIsWrittenTo(t *testing.T) {
	s := newStage(t, time.Minute, time.Minute)
	s.do(http.MethodGet, "?log")
	c := <-s.opened
	event := []byte("data: " + strings.Repeat("x", 64<<20) + "\n\n") // more than sockets hold
	failed := make(chan error, 1)
	go func() { failed <- c.WriteFrames([][]byte{event}, nil, time.Hour) }()
	for c.mu.TryLock() {
		c.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond) // until sockets are full, most likely
	_ = c.Close(stream.CloseStuck, "slow")
	select {
	case err := <-failed:
		if err == nil {
			t.Error("all of it was taken")
		}
	case <-time.After(20 * lastTimeout):
		t.Error("the write goes on")
	}
}

func TestClientThatLeaves(t *testing.T) {
	s := newStage(t, time.Minute, time.Minute)
	resp := s.do(http.MethodGet, "?log")
	c := <-s.opened
	_ = resp.Body.Close()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := c.Read(ctx)
	var closed *stream.CloseError
	if !errors.As(err, &closed) || closed.Code != stream.CloseGoingAway {
		t.Errorf("%v, want that it has left", err)
	}
	if err := c.WriteFrames([][]byte{[]byte("x")}, nil, patience); err == nil {
		t.Error("a write to nobody succeeds")
	}
}

func FuzzQuery(f *testing.F) {
	for _, q := range []string{"log", "gauge.name=a,b&source_id=x", "counter.name=&shard_id=s", "%zz", "a;b", "gauge.name=%2C"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		u := &url.URL{RawQuery: query}
		q, bad := parse(&http.Request{Method: http.MethodGet, URL: u}, u.Query())
		if bad == nil && (len(q.Selectors) == 0 || len(q.Selectors) > maxSelectors) {
			t.Errorf("%d selectors", len(q.Selectors))
		}
	})
}
