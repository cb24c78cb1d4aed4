package logcache

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// envelopesOf reads an answer as strictly as go-log-cache does.
func envelopesOf(t testing.TB, w *httptest.ResponseRecorder) (list []*loggregatorv2.Envelope) {
	t.Helper()
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	var doc struct {
		Envelopes struct{ Batch []json.RawMessage }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	for _, raw := range doc.Envelopes.Batch {
		e := &loggregatorv2.Envelope{}
		if err := protojson.Unmarshal(raw, e); err != nil {
			t.Fatal(err)
		}
		list = append(list, e)
	}
	return list
}

// texts are the payloads of an answer.
func texts(t testing.TB, w *httptest.ResponseRecorder) (list []string) {
	t.Helper()
	for _, e := range envelopesOf(t, w) {
		list = append(list, string(e.GetLog().GetPayload()))
	}
	return list
}

// Two Dopplers; c and d are of one time, and so are g and h of one Doppler.
func twoDopplers(t *testing.T) *stage {
	s := newStage(t, 2)
	s.take(t, 0, logAt("app", 10, "a"), logAt("app", 30, "c"), logAt("app", 50, "f"), logAt("app", 60, "g"), logAt("app", 60, "h"))
	s.take(t, 1, logAt("app", 40, "e"), logAt("app", 20, "b"), logAt("app", 30, "d"), logAt("other", 35, "x"))
	return s
}

func TestReadMerges(t *testing.T) {
	s := twoDopplers(t)
	for query, want := range map[string]string{
		"":                                      "a b c d e f g h",
		"?limit=2":                              "a b",
		"?limit=3":                              "a b c d", // of one time: all of them
		"?limit=1&start_time=60":                "g h",
		"?startTime=20&endTime=31":              "b c d",
		"?start_time=-6795364578871345152":      "a b c d e f g h",
		"?descending=true":                      "h g f e d c b a",
		"?descending=true&limit=1":              "h g",
		"?descending=true&limit=5":              "h g f e d c",
		"?descending=1&start_time=30&limit=4":   "h g f e",
		"?start_time=5&end_time=5":              "",
		"?envelope_types=LOG":                   "a b c d e f g h",
		"?envelope_types=ANY&envelope_types=5":  "",
		"?envelope_types=0":                     "a b c d e f g h",
		"?end_time=0&limit=1":                   "a",
		"?source_id=other&limit=1":              "a",
		"?start_time=9000000000000000000":       "",
		"?end_time=9000000000000000000&limit=1": "a",
	} {
		if got := strings.Join(texts(t, s.get("/api/v1/read/app"+query)), " "); got != want {
			t.Errorf("%s: %q, want %q", query, got, want)
		}
	}
}

// Answers that had no room for all are complete up to their last timestamp but
// one; nothing behind that is shown, whichever Doppler has it.
func TestReadOfFullPages(t *testing.T) {
	s := twoDopplers(t)
	for _, tc := range []struct {
		first, second int // what has room on each Doppler
		query, want   string
	}{
		{2, 0, "", "a"},
		{3, 0, "", "a b c d"},
		{4, 0, "", "a b c d e f"}, // of g and h there may be more
		{0, 1, "", "a b"},
		{0, 2, "", "a b"},
		{1, 1, "", "a"},
		{1, 0, "?descending=true", "h"}, // nothing else has room: better than nothing
		{3, 0, "?descending=true", "h g"},
		{0, 1, "?descending=true", "h g f e"},
		{1, 0, "?start_time=60", "g"},
	} {
		s.dopplers[0].PageLimit, s.dopplers[1].PageLimit = tc.first, tc.second
		if got := strings.Join(texts(t, s.get("/api/v1/read/app"+tc.query)), " "); got != tc.want {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

func TestReadFaults(t *testing.T) {
	s := twoDopplers(t)
	long := strings.Repeat("x", maxQueryBytes)
	for query, want := range map[string]string{
		"?start_time=x":                       `400 3 parsing field "start_time": strconv.ParseInt: parsing "x": invalid syntax`,
		"?end_time=1.5":                       `400 3 parsing field "end_time": strconv.ParseInt: parsing "1.5": invalid syntax`,
		"?limit=":                             `400 3 parsing field "limit": strconv.ParseInt: parsing "": invalid syntax`,
		"?limit=1&limit=2":                    `400 3 too many values for field "limit": 1, 2`,
		"?start_time=1&startTime=2":           `400 3 too many values for field "start_time": 1, 2`,
		"?descending=ja":                      `400 3 parsing field "descending": strconv.ParseBool: parsing "ja": invalid syntax`,
		"?envelope_types=6":                   `400 3 parsing list "envelope_types": "6" is not a valid value`,
		"?envelope_types=-1":                  `400 3 parsing list "envelope_types": "-1" is not a valid value`,
		"?limit=%zz":                          `400 3 invalid URL escape "%zz"`,
		"?" + long + "x":                      `400 3 the query has 65537 bytes, the limit is 65536`,
		"?limit=1001":                         `500 2 limit (1001) must be 1000 or less`,
		"?name_filter=" + long[:1025]:         `500 2 name filter must be a valid regular expression: it has 1025 bytes, the limit is 1024`,
		"?name_filter=%28.%7B500%7D%29%2B%2B": "500 2 name filter must be a valid regular expression: error parsing regexp: invalid nested repetition operator: `++`",
	} {
		w := s.get("/api/v1/read/app" + query)
		var doc struct {
			Code    int
			Message string
			Details []any
		}
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil || doc.Details == nil {
			t.Errorf("%.60s: %v: %s", query, err, w.Body)
		}
		if got := fmt.Sprint(w.Code, " ", doc.Code, " ", doc.Message); got != want {
			t.Errorf("%.60s:\n got %s\nwant %s", query, got, want)
		}
	}
	if len(s.asked) != 0 {
		t.Errorf("Dopplers were asked %v", s.asked)
	}
}

// A short expression can stand for a long program.
func TestRegexpsThatExplode(t *testing.T) {
	for expr, ok := range map[string]bool{
		"cpu|memory": true, "^(a.*b)*c$": true, "[[:alpha:]]{3,20}": true,
		"(abcdefghijkl){1000}": false, "((abc){30}){30}": true, strings.Repeat("(abcdefghij){100}", 12): false,
		strings.Repeat("(", 1000): false, `[\pL\pN]{900}`: false,
	} {
		if _, err := compile(expr); (err == nil) != ok {
			t.Errorf("%.40s: %v", expr, err)
		}
	}
}

func TestOtherMethods(t *testing.T) {
	s := twoDopplers(t)
	for _, tc := range []struct {
		method, path string
		status       int
	}{
		{http.MethodPost, "/api/v1/read/app", http.StatusMethodNotAllowed},
		{http.MethodPut, "/api/v1/meta", http.StatusMethodNotAllowed},
		{http.MethodDelete, "/api/v1/nope", http.StatusNotFound},
		{http.MethodHead, "/api/v1/read/app", http.StatusOK},
	} {
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
		if w.Code != tc.status || tc.status == http.StatusMethodNotAllowed && w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s %s: %d %v", tc.method, tc.path, w.Code, w.Header())
		}
	}
	if want := []string{"read 405", "meta 405", "unknown 404", "read 200"}; !slices.Equal(s.seen, want) {
		t.Errorf("observed %v, want %v", s.seen, want)
	}
}

// A reader that goes forward waits for a late Doppler; for one that is away
// nobody does. The newest are shown without either.
func TestMissingDopplers(t *testing.T) {
	for _, tc := range []struct {
		name             string
		have, late, away int
		query            string
		status           int
		missing          string
	}{
		{"all", 2, 0, 0, "", 200, ""},
		{"late, forward", 2, 1, 0, "", 503, ""},
		{"late, backward", 2, 1, 0, "?descending=true", 200, "1 of 3"},
		{"away, forward", 2, 0, 1, "", 200, "1 of 3"},
		{"both, backward", 2, 1, 2, "?descending=true", 200, "3 of 5"},
		{"none, backward", 0, 1, 1, "?descending=true", 503, ""},
		{"none at all", 0, 0, 0, "", 503, ""},
	} {
		s := newStage(t, tc.have)
		s.late, s.away = tc.late, tc.away
		w := s.get("/api/v1/read/app" + tc.query)
		if w.Code != tc.status || w.Header().Get(MissingHeader) != tc.missing {
			t.Errorf("%s: %d, missing %q", tc.name, w.Code, w.Header().Get(MissingHeader))
		}
		if tc.status == 503 && (w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), `"code":14`)) {
			t.Errorf("%s: %v %s", tc.name, w.Header(), w.Body)
		}
	}
}

func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now().UnixNano()
		second := time.Second.Nanoseconds()
		s := newStage(t, 1)
		s.take(t, 0, logAt("app", now-second-1, "settled"), logAt("app", now-second, "fresh"), logAt("app", now, "future"))
		for query, want := range map[string]string{
			"":                                "settled",
			fmt.Sprint("?end_time=", now+9):   "settled",
			fmt.Sprint("?end_time=", now-9e9): "",
			fmt.Sprint("?start_time=", now):   "",
			"?descending=true":                "fresh settled",
			fmt.Sprint("?descending=true&end_time=", now+1): "future fresh settled",
		} {
			if got := strings.Join(texts(t, s.get("/api/v1/read/app"+query)), " "); got != want {
				t.Errorf("%s: %q, want %q", query, got, want)
			}
		}
	})
}

func TestNameFilter(t *testing.T) {
	s := newStage(t, 1)
	gauge := func(names ...string) *loggregatorv2.Envelope_Gauge {
		m := map[string]*loggregatorv2.GaugeValue{}
		for _, n := range names {
			m[n] = &loggregatorv2.GaugeValue{Value: 1}
		}
		return &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: m}}
	}
	s.take(t, 0, logAt("app", 1, "cpu"), counterAt("app", 2, "cpu.x", 1), counterAt("app", 3, "mem", 1),
		&loggregatorv2.Envelope{Timestamp: 4, SourceId: "app", Message: gauge("cpu", "memory", "disk")},
		&loggregatorv2.Envelope{Timestamp: 5, SourceId: "app", Message: gauge("memory")},
		&loggregatorv2.Envelope{Timestamp: 6, SourceId: "app", Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "cpu-time"}}},
		&loggregatorv2.Envelope{Timestamp: 7, SourceId: "app", Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "cpu"}}})
	list := envelopesOf(t, s.get("/api/v1/read/app?name_filter="+url.QueryEscape("^(cpu|disk)")))
	if len(list) != 3 || list[0].GetCounter() == nil || len(list[1].GetGauge().GetMetrics()) != 2 || list[2].GetTimer() == nil {
		t.Errorf("%v", list)
	}
	if reduce(logAt("app", 1, "cpu"), regexp.MustCompile("")) {
		t.Error("a log has a name")
	}
}

func TestCut(t *testing.T) {
	entries := func(times ...int64) (list []entry) {
		for _, at := range times {
			list = append(list, entry{at, make([]byte, 10)})
		}
		return list
	}
	for _, tc := range []struct {
		list         []entry
		limit, bytes int
		want         int
	}{
		{entries(), 1, 1, 0},
		{entries(1, 2, 3), 5, 100, 3},
		{entries(1, 2, 3), 2, 100, 2},
		{entries(1, 2, 2, 2, 3), 2, 100, 4},
		{entries(1, 2, 3), 5, 25, 2},
		{entries(1, 2, 2, 3), 5, 25, 3},
		{entries(1, 1, 1), 1, 1, 3}, // one time at least, else nobody gets on
	} {
		if got := len(cut(tc.list, tc.limit, tc.bytes)); got != tc.want {
			t.Errorf("%v, %d, %d bytes: %d, want %d", tc.list, tc.limit, tc.bytes, got, tc.want)
		}
	}
}

// Whoever is over the limit waits a little, and is told then.
func TestTooManyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := twoDopplers(t)
		for range cap(s.reads.slots) {
			s.reads.enter(t.Context())
		}
		began := time.Now()
		w := s.get("/api/v1/read/app")
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "4 reads") ||
			time.Since(began) != patience {
			t.Errorf("%d %v %s after %s", w.Code, w.Header(), w.Body, time.Since(began))
		}
		if w := s.get("/api/v1/meta"); w.Code != http.StatusTooManyRequests {
			t.Errorf("meta: %d", w.Code)
		}
		time.AfterFunc(patience/2, s.reads.leave)
		if w := s.get("/api/v1/read/app"); w.Code != http.StatusOK {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

// blocked is a client that takes nothing until it is let.
type blocked struct {
	*httptest.ResponseRecorder
	writing, let chan struct{}
	deadlines    []time.Time
}

func (b *blocked) SetWriteDeadline(at time.Time) error {
	b.deadlines = append(b.deadlines, at)
	return nil
}

func (b *blocked) Write(p []byte) (int, error) {
	b.writing <- struct{}{}
	<-b.let
	return b.ResponseRecorder.Write(p)
}

// Clients that take nothing keep nobody out, and have a deadline.
func TestClientsThatTakeNothing(t *testing.T) {
	s := measured(t)
	let := make(chan struct{})
	var clients []*blocked
	var done sync.WaitGroup
	for range s.reads.size() {
		b := &blocked{ResponseRecorder: httptest.NewRecorder(), writing: make(chan struct{}), let: let}
		clients = append(clients, b)
		done.Go(func() { s.read(b, readRequest("router")) })
		<-b.writing
	}
	if w := s.get("/api/v1/read/router"); w.Code != http.StatusOK {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	s.unsent.Add(maxUnsent)
	for path, status := range map[string]int{"read/router": 429, "meta": 429, "query?query=1": 503} {
		if w := s.get("/api/v1/" + path); w.Code != status || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "268435456 bytes") {
			t.Errorf("%s: %d %v %s", path, w.Code, w.Header(), w.Body)
		}
	}
	s.unsent.Add(-maxUnsent)
	close(let)
	done.Wait()
	if n := s.unsent.Load(); n != 0 {
		t.Errorf("%d bytes unsent", n)
	}
	for _, b := range clients {
		if len(b.deadlines) != 1 || b.deadlines[0].IsZero() { // it stays for what net/http sends at the end
			t.Errorf("deadlines %v", b.deadlines)
		}
	}
}

func readRequest(source string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/api/v1/read/"+source, nil)
	r.SetPathValue("source", source)
	return r
}

func TestMeta(t *testing.T) {
	s := newStage(t, 2)
	s.take(t, 0, logAt("app", 5, "a"), logAt("app", 7, "b"), logAt("gone", 1, "c"), logAt("app", 9, "d"))
	s.take(t, 1, logAt("app", 3, "e"), logAt("zero", 0, "f"), logAt("app", -2, "g"), logAt("<&>", 1, "h"))
	s.dopplers[0].Evict(3)
	w := s.get("/api/v1/meta")
	want := `{"meta":{"<&>":{"count":"1","oldestTimestamp":"1","newestTimestamp":"1"},` +
		`"app":{"count":"3","expired":"2","oldestTimestamp":"-2","newestTimestamp":"9"},"zero":{"count":"1"}}}` + "\n"
	if w.Body.String() != want || w.Header().Get(LimitsHeader) != "count=1000; bytes=1048576; age=0s" {
		t.Errorf("%v %s\nwant %s", w.Header(), w.Body, want)
	}
	s.dopplers = nil
	if w := s.get("/api/v1/meta"); w.Code != http.StatusBadGateway {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestInfo(t *testing.T) {
	w := newStage(t, 0).get("/api/v1/info")
	var info struct{ Version, VMUptime string }
	if err := json.Unmarshal([]byte(strings.Replace(w.Body.String(), "vm_uptime", "VMUptime", 1)), &info); err != nil {
		t.Fatal(err)
	}
	major, _, _ := strings.Cut(info.Version, ".")
	if n, err := strconv.Atoi(major); err != nil || n < 2 || info.VMUptime != "0" || w.Code != 200 {
		t.Errorf("%d %+v", w.Code, info)
	}
}

func FuzzQuery(f *testing.F) {
	for _, seed := range []string{
		"", "start_time=-6795364578871345152&descending=true&limit=1", "envelope_types=LOG&envelope_types=2&end_time=5",
		"name_filter=%28a%7B10%7D%29%7B20%7D", "limit=%zz;&", "startTime=9223372036854775807",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := &http.Request{URL: &url.URL{RawQuery: raw}}
		q, bad := parseQuery(r)
		if bad != nil {
			if bad.status != http.StatusBadRequest && bad.status != http.StatusInternalServerError || bad.message == "" {
				t.Errorf("%q: %+v", raw, bad)
			}
			return
		}
		now := time.Unix(0, math.MaxInt64/2)
		q.window(now, time.Second)
		if q.limit < 1 || q.limit > maxLimit || !q.descending && q.end > now.Add(-time.Second).UnixNano() {
			t.Errorf("%q: %+v", raw, q)
		}
	})
}
