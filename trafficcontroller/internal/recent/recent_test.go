package recent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

func logAt(at int64) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: at, SourceId: "app", Message: &loggregatorv2.Envelope_Log{
		Log: &loggregatorv2.Log{Payload: []byte(fmt.Sprint("line ", at))},
	}}
}

func container(at int64, instance string, cpu float64) *loggregatorv2.Envelope {
	metrics := map[string]*loggregatorv2.GaugeValue{}
	for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		metrics[name] = &loggregatorv2.GaugeValue{Unit: "u", Value: cpu}
	}
	return &loggregatorv2.Envelope{Timestamp: at, SourceId: "app", InstanceId: instance, Message: &loggregatorv2.Envelope_Gauge{
		Gauge: &loggregatorv2.Gauge{Metrics: metrics},
	}}
}

func answerOf(t *testing.T, list ...*loggregatorv2.Envelope) (body []byte) {
	t.Helper()
	for _, e := range list {
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		body = envelope.AppendRecord(body, b)
	}
	return body
}

// stage serves canned answers.
type stage struct {
	answers [][]byte
	query   url.Values
	forbid  bool
}

func (s *stage) get(t *testing.T, path string) *http.Response {
	t.Helper()
	reads := New(Config{
		Allow: func(w http.ResponseWriter, _ *http.Request, _ string) bool {
			if s.forbid {
				w.WriteHeader(http.StatusNotFound)
			}
			return !s.forbid
		},
		Ask: func(_ context.Context, _ string, q url.Values) ([][]byte, int) {
			s.query = q
			return s.answers, 2
		},
		Max: 5000,
	}, slog.New(slog.DiscardHandler))
	mux := http.NewServeMux()
	mux.HandleFunc("/apps/{id}/recentlogs", reads.Logs)
	mux.HandleFunc("/apps/{id}/containermetrics", reads.ContainerMetrics)
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header.Set("Origin", "https://ui.example.com")
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, r)
	return w.Result()
}

// parts reads a body as noaa does.
func parts(t *testing.T, resp *http.Response) (list []*loggregatorv2.Envelope) {
	t.Helper()
	_, boundary, ok := strings.Cut(resp.Header.Get("Content-Type"), "boundary=")
	if !ok || len(boundary) != 60 {
		t.Fatalf("boundary %q", boundary)
	}
	var codec dropsonde.Encoder
	for r := multipart.NewReader(resp.Body, boundary); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		v1, err := io.ReadAll(part)
		if err != nil || len(part.Header) != 0 {
			t.Fatalf("%v, headers %v", err, part.Header)
		}
		v2, err := codec.AppendV2(nil, v1)
		if err != nil {
			t.Fatal(err)
		}
		e := &loggregatorv2.Envelope{}
		if err := proto.Unmarshal(v2, e); err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
}

func TestLogs(t *testing.T) {
	for query, want := range map[string][]int64{
		"": {6, 5, 4, 3, 2, 1}, "?limit=2": {6, 5}, "?limit=-1": {6, 5, 4, 3, 2, 1}, "?limit=x": {6, 5, 4, 3, 2, 1}, "?limit=0": nil,
	} {
		s := &stage{answers: [][]byte{answerOf(t, logAt(1), logAt(3), logAt(5)), answerOf(t, logAt(2), logAt(4), logAt(6))}}
		resp := s.get(t, "/apps/app/recentlogs"+query)
		var got []int64
		for _, e := range parts(t, resp) {
			if string(e.GetLog().GetPayload()) != fmt.Sprint("line ", e.Timestamp) {
				t.Errorf("%v", e)
			}
			got = append(got, e.Timestamp)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", query, got, want)
		}
		if h := resp.Header; h.Get("Access-Control-Allow-Origin") != "https://ui.example.com" || h.Get("Access-Control-Allow-Credentials") != "true" {
			t.Errorf("headers %v", h)
		}
	}
	s := &stage{answers: [][]byte{nil}}
	s.get(t, "/apps/app/recentlogs?limit=1000000")
	if s.query.Get("limit") != "5000" || s.query.Get("class") != "log" {
		t.Errorf("query %v", s.query)
	}
}

func TestEmptyBody(t *testing.T) {
	s := &stage{answers: [][]byte{nil, nil}}
	resp := s.get(t, "/apps/app/recentlogs")
	body, _ := io.ReadAll(resp.Body)
	_, boundary, _ := strings.Cut(resp.Header.Get("Content-Type"), "multipart/x-protobuf; boundary=")
	if want := "\r\n--" + boundary + "--\r\n"; string(body) != want {
		t.Errorf("body %q, want %q", body, want)
	}
}

func TestContainerMetrics(t *testing.T) {
	s := &stage{answers: [][]byte{
		answerOf(t, container(1, "0", 1), container(3, "1", 3), container(5, "0", 5)),
		answerOf(t, container(2, "0", 2), container(4, "1", 4)),
	}}
	got := map[string]float64{}
	for _, e := range parts(t, s.get(t, "/apps/app/containermetrics")) {
		if _, twice := got[e.InstanceId]; twice {
			t.Errorf("instance %s twice", e.InstanceId)
		}
		got[e.InstanceId] = e.GetGauge().GetMetrics()["cpu"].GetValue()
	}
	if len(got) != 2 || got["0"] != 5 || got["1"] != 4 {
		t.Errorf("%v", got)
	}
	if s.query.Get("class") != "container-gauge" || s.query.Get("since") == "" {
		t.Errorf("query %v", s.query)
	}
}

func TestRefusals(t *testing.T) {
	s := &stage{}
	resp := s.get(t, "/apps/app/recentlogs")
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(body), "none of 2 Dopplers") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	s.forbid = true
	if resp := s.get(t, "/apps/app/containermetrics"); resp.StatusCode != http.StatusNotFound || s.query == nil {
		t.Errorf("%d", resp.StatusCode)
	}
}
