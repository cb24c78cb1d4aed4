package logcache

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// base is a full minute, in unix seconds; times of these tests are seconds
// after it.
const base = 1_700_000_040

func at(seconds float64) int64 { return base*1e9 + int64(seconds*1e9) }

// ask runs an instant query.
func (s *stage) ask(query string, seconds float64) *httptest.ResponseRecorder {
	return s.get("/api/v1/query?" + url.Values{"query": {query}, "time": {fmt.Sprint(base + seconds)}}.Encode())
}

func (s *stage) askRange(query string, start, end float64, step string) *httptest.ResponseRecorder {
	return s.get("/api/v1/query_range?" + url.Values{
		"query": {query}, "start": {fmt.Sprint(base + start)}, "end": {fmt.Sprint(base + end)}, "step": {step},
	}.Encode())
}

// result is an answer to a query, in the tests' own words: the labels of each
// series and its values.
func result(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	var doc struct {
		Status, ErrorType, Error string
		Data                     struct {
			ResultType string
			Result     json.RawMessage
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
		t.Fatalf("%v: %s", err, w.Body)
	}
	if doc.Status != "success" || w.Code != http.StatusOK {
		return fmt.Sprintf("%d %s: %s", w.Code, doc.ErrorType, doc.Error)
	}
	if doc.Data.ResultType == "scalar" || doc.Data.ResultType == "string" {
		return string(doc.Data.Result)
	}
	var list []struct {
		Metric map[string]string
		Value  []any
		Values [][]any
	}
	if err := json.Unmarshal(doc.Data.Result, &list); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, s := range list {
		for _, name := range slices.Sorted(maps.Keys(s.Metric)) {
			fmt.Fprintf(&b, "%s=%s ", name, s.Metric[name])
		}
		if s.Value != nil {
			s.Values = append(s.Values, s.Value)
		}
		for _, v := range s.Values {
			fmt.Fprintf(&b, "%v@%v ", v[1], v[0].(float64)-base)
		}
		b.WriteString("| ")
	}
	return strings.TrimSuffix(b.String(), " | ")
}

func gaugeAt(source string, at int64, metrics map[string]float64) *loggregatorv2.Envelope {
	m := map[string]*loggregatorv2.GaugeValue{}
	for name, value := range metrics {
		m[name] = &loggregatorv2.GaugeValue{Unit: "u", Value: value}
	}
	return &loggregatorv2.Envelope{Timestamp: at, SourceId: source, Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: m}}}
}

func timerAt(source string, at int64, name string, took time.Duration) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: at, SourceId: source, Message: &loggregatorv2.Envelope_Timer{
		Timer: &loggregatorv2.Timer{Name: name, Start: at - took.Nanoseconds(), Stop: at},
	}}
}

// measured is a stage with metrics of all kinds on two Dopplers.
func measured(t testing.TB) *stage {
	s := newStage(t, 2)
	for i := range 7 {
		e := counterAt("router", at(float64(10*i)), "requests.total", uint64(20*i))
		e.InstanceId, e.Tags = "0", map[string]string{"direction": "in", "peer-type": "a&b", "empty": "", "__name__": "x"}
		s.take(t, i%2, e)
	}
	s.take(t, 0,
		gaugeAt("router", at(5), map[string]float64{"cpu": 0.5, "mem.used": math.NaN(), "mem-used": 7}),
		gaugeAt("router", at(35), map[string]float64{"cpu": 1.5, "9lives": 9}),
		timerAt("router", at(20), "http", 3*time.Millisecond),
		timerAt("router", at(20), "http", 5*time.Millisecond),
		timerAt("cell/7", at(20), "http", time.Millisecond),
		logAt("router", at(21), "cpu"),
	)
	deprecated := counterAt("cell/7", at(1), "requests.total", 1)
	deprecated.DeprecatedTags = map[string]*loggregatorv2.Value{
		"a": {Data: &loggregatorv2.Value_Text{Text: "x"}}, "b": {Data: &loggregatorv2.Value_Integer{Integer: -3}},
		"c": {Data: &loggregatorv2.Value_Decimal{Decimal: 1.5}}, "d": {},
	}
	s.take(t, 1, deprecated)
	return s
}

func TestInstantQueries(t *testing.T) {
	s := measured(t)
	s.access.named = map[string][]string{"web": {"router"}}
	for query, want := range map[string]string{
		`1 + 1`:                              `[1700000100.000,"2"]`,
		`"a<b"`:                              `[1700000100.000,"a<b"]`,
		`-1 / 0`:                             `[1700000100.000,"-Inf"]`,
		`vector(0)`:                          "0@60",
		`requests_total{source_id="router"}`: "direction=in instance_id=0 peer_type=a&b source_id=router 120@60",
		`requests_total{source_id="web"}`:    "direction=in instance_id=0 peer_type=a&b source_id=router 120@60",
		`requests_total{source_id="router",peer_type=~"a.b",direction!="out"}`: "direction=in instance_id=0 peer_type=a&b source_id=router 120@60",
		`requests_total{source_id="router",direction="out"}`:                   "",
		`requests_total{source_id="router",instance_id="1"}`:                   "",
		`{__name__="requests.total",source_id="cell/7"}`:                       "a=x b=-3 c=1.5 source_id=cell/7 1@60",
		`rate(requests_total{source_id="router"}[1m])`:                         "direction=in instance_id=0 peer_type=a&b source_id=router 2@60",
		`sum(cpu{source_id="router"})`:                                         "1.5@60",
		`cpu{source_id="router"} offset 30s`:                                   "source_id=router 0.5@60",
		`cpu{source_id="router"} @ 1700000050`:                                 "source_id=router 0.5@60",
		`mem_used{source_id="router"}`:                                         "source_id=router 7@60", // the first of two names
		`_lives{source_id="router"}`:                                           "source_id=router 9@60",
		`max_over_time(http{source_id="router"}[1m])`:                          "source_id=router 5000000@60",
		`count_over_time(http{source_id="router"}[1m])`:                        "source_id=router 2@60",
		`http{source_id=~"router|cell/7"}`:                                     "source_id=cell/7 1000000@60 | source_id=router 5000000@60",
		`http{source_id=~"router|cell/7",source_id!="router"}`:                 "source_id=cell/7 1000000@60",
		`http{source_id=~"cell.7|router"}`:                                     "source_id=router 5000000@60", // a list of ids, not a pattern
		`cpu{source_id="nobody"}`:                                              "",
		`avg_over_time(cpu{source_id="router"}[1m:10s])`:                       "source_id=router 1@60",
		`avg_over_time(cpu{source_id="router"}[2m:])`:                          "source_id=router 1.5@60",
		`requests_total{source_id="router"}[21s]`:                              "direction=in instance_id=0 peer_type=a&b source_id=router 80@40 100@50 120@60",
	} {
		if got := result(t, s.ask(query, 60)); got != want {
			t.Errorf("%s:\n got %s\nwant %s", query, got, want)
		}
	}
}

func TestRangeQueries(t *testing.T) {
	s := measured(t)
	for _, tc := range []struct{ query, step, want string }{
		{`requests_total{source_id="router"}`, "10", "direction=in instance_id=0 peer_type=a&b source_id=router 40@20 60@30 80@40"},
		{`sum(requests_total{source_id="router"})`, "20s", "40@20 80@40"},
		{`1`, "10s", "1@20 1@30 1@40"},
		{`cpu{source_id="nobody"}`, "10s", ""},
		{`http{source_id="cell/7"} > 1e9`, "10s", ""},
	} {
		if got := result(t, s.askRange(tc.query, 20, 40, tc.step)); got != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.query, got, tc.want)
		}
	}
}

func TestQueryFaults(t *testing.T) {
	s := measured(t)
	long := strings.Repeat("x", maxPromQLBytes)
	many := make([]string, maxSources+1)
	for i := range many {
		many[i] = fmt.Sprint("app-", i)
	}
	s.access.named = map[string][]string{"many": many}
	for query, want := range map[string]string{
		"a{\n,":                         "400 bad_data: parse error at line 2, char 1: unexpected \",\" in label matching, expected identifier or \"}\"",
		`cpu{source_id="a"} + mem`:      "400 bad_data: metric 'mem' does not have a 'source_id' label",
		`cpu{source_id!="a"}`:           "400 bad_data: query does not request any source_ids",
		`cpu{source_id="a"`:             "400 bad_data: parse error at char 18: unexpected end of input inside braces",
		`{source_id="a"}`:               "400 bad_data: a metric has to be selected by its name",
		`{__name__=~"a",source_id="a"}`: "400 bad_data: a metric has to be selected by its name",
		`cpu{source_id=~"` + strings.Join(many, "|") + `"}`:          "400 bad_data: the query names 101 sources, the limit is 100",
		`cpu{source_id="many"}`:                                      "400 bad_data: the query reads 102 sources, the limit is 100",
		long + "x":                                                   "400 bad_data: the query has 16385 bytes, the limit is 16384",
		`a{source_id="a",b=~"((.{30}){30})[a-z]"}`:                   "",
		`a{source_id="a",b=~"(abcdefghij){1000}(abcdefghij){1000}"}`: "400 bad_data: the regular expressions of the query make more than 20000 steps, which is the limit",
		`label_replace(cpu{source_id="a"},"b","$1","c","(abcdefghijabcdefghijk){1000}")`:                                    "400 bad_data: the regular expressions of the query make more than 20000 steps, which is the limit",
		`requests_total{source_id=~"router|cell/7"} * on() cpu{source_id="router"} * on() http{source_id=~"router|cell/7"}`: "500 internal: multiple matches for labels",
		`sort_by_label(cpu{source_id="a"}, "b")`:                                                                            "400 bad_data: parse error at char 1: function \"sort_by_label\" is not enabled",
	} {
		if got := result(t, s.ask(query, 60)); got != want && (want == "" || !strings.HasPrefix(got, want)) {
			t.Errorf("%.80s:\n got %s\nwant %s", query, got, want)
		}
	}
	for path, want := range map[string]string{
		"query?query=1&time=tomorrow":                     `500 internal: cannot parse "tomorrow" to a valid Unix or RFC3339 timestamp`,
		"query?query=1&time=1e18":                         `500 internal: cannot parse "1e18" to a valid Unix or RFC3339 timestamp`,
		"query?query=1&time=NaN":                          `500 internal: cannot parse "NaN" to a valid Unix or RFC3339 timestamp`,
		"query?query=1&time=2023-11-14T22:14:00Z":         `[1700000040.000,"1"]`,
		"query?query=1&time=-1.5":                         `[-1.500,"1"]`,
		"query?query=%zz":                                 `400 bad_data: invalid URL escape "%zz"`,
		"query_range?query=1&step=1s&end=2":               `500 internal: couldn't parse start: cannot parse "" to a valid Unix or RFC3339 timestamp`,
		"query_range?query=1&step=1s&start=2":             `500 internal: couldn't parse end: cannot parse "" to a valid Unix or RFC3339 timestamp`,
		"query_range?query=1&step=x&start=2&end=3":        `500 internal: couldn't parse step: cannot parse "x" to a valid step`,
		"query_range?query=1&step=0&start=2&end=3":        `400 bad_data: step has to be a millisecond at least`,
		"query_range?query=1&step=-1s&start=2&end=3":      `500 internal: couldn't parse step: cannot parse "-1s" to a valid step`,
		"query_range?query=1&step=1s&start=3&end=2":       `400 bad_data: end is before start`,
		"query_range?query=1&step=1s&start=0&end=11000":   `400 bad_data: the range has more than 11000 steps, which is the limit`,
		`query_range?query="a"&step=1s&start=0&end=1`:     `400 bad_data: invalid expression type "string" for range query, must be Scalar or instant Vector`,
		"query_range?query=1&step=9e9&start=-9e9&end=9e9": "1@",
	} {
		if got := result(t, s.get("/api/v1/"+path)); !strings.HasPrefix(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", path, got, want)
		}
	}
}

// Pages and Dopplers do not show in the result.
func TestQueriesReadAllPages(t *testing.T) {
	s := newStage(t, 3)
	s.page = 300
	const n = 3100
	for i := range n {
		// Two of a time, on one Doppler or on two.
		s.take(t, i*i%7%3, counterAt("app", at(float64(i/2)/1000), "c", uint64(i)))
	}
	for _, room := range []int{0, 100} {
		s.dopplers[1].PageLimit = room
		if got, want := result(t, s.ask(`count_over_time(c{source_id="app"}[1m])`, 30)), fmt.Sprintf("source_id=app %d@30", n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if len(s.asked) < 2 {
		t.Errorf("%d pages", len(s.asked))
	}
	for _, q := range s.asked {
		if names := regexp.MustCompile(q.Get("name_filter")); !names.MatchString("c") || names.MatchString("cc") {
			t.Errorf("asked for %s", names)
		}
	}
}

func TestQueryLimits(t *testing.T) {
	s := measured(t)
	for name, change := range map[string]func(*shelf){
		"more than 500000 envelopes": func(s *shelf) { s.left = 3 },
		"more than 67108864 bytes":   func(s *shelf) { s.room = 3 },
	} {
		small := newShelf(s.LogCache, map[string][]string{"router": {"router"}})
		change(small)
		q, err := s.engine.NewInstantQuery(t.Context(), small, nil, `count_over_time(requests_total{source_id="router"}[1h])`, time.Unix(base+60, 0))
		if err != nil {
			t.Fatal(err)
		}
		if r := q.Exec(t.Context()); r.Err == nil || !strings.Contains(r.Err.Error(), name) {
			t.Errorf("%s: %v", name, r.Err)
		}
		q.Close()
	}
}

// The engine would take gigabytes for some of these.
func TestQueriesThatExplode(t *testing.T) {
	s := measured(t)
	nested := `cpu{source_id="router"}`
	for range 10 {
		nested = `label_replace(` + nested + `,"a","$1$1","source_id","(.*)")`
	}
	hidden := strings.ReplaceAll(nested, `"$1$1"`, `("\x241\x241")`)
	for query, want := range map[string]string{
		`count_over_time(vector(1)[10000d:1s])`:                 "400 bad_data: a subquery has 864000000 steps, the limit is 100000",
		`count_over_time(vector(1)[100d:])`:                     "400 bad_data: a subquery has 144000 steps, the limit is 100000",
		`max_over_time(sum_over_time(vector(1)[1h:1s])[2d:1h])`: "400 bad_data: a subquery has 176400 steps",
		`count_over_time(vector(1)[1d:1s])`:                     "86400@60",
		hidden:                                                  "400 bad_data: the query puts labels together out of more than 100",
		nested:                                                  "400 bad_data: the query puts labels together out of more than 100",
		`label_join(label_join(cpu{source_id="router"},"a","",` + strings.Repeat(`"source_id",`, 20) + `"b"),"a","","a","a","a","a","a")`: "400 bad_data: the query puts labels together",
		`label_join(cpu{source_id="router"},"a","-","source_id","source_id")`:                                                             "a=router-router source_id=router 1.5@60",
	} {
		if got := result(t, s.ask(query, 60)); !strings.HasPrefix(got, want) {
			t.Errorf("%.80s: %s, want %s", query, got, want)
		}
	}
	w := s.askRange(`count_over_time(vector(1)[1h:1s])`, 0, 100_000, "10000")
	if got := result(t, w); got != "400 bad_data: a subquery has 103600 steps, the limit is 100000" {
		t.Error(got)
	}
}

func TestTooManyQueries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := measured(t)
		for range cap(s.queries.slots) {
			s.queries.enter(t.Context())
		}
		w := s.ask("1", 60)
		if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" || !strings.Contains(w.Body.String(), "2 queries") {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	})
}

func TestQueryWithoutDopplers(t *testing.T) {
	s := measured(t)
	s.late, s.away = 1, 1
	w := s.ask(`cpu{source_id="router"}`, 60)
	if w.Code != http.StatusOK || w.Header().Get(MissingHeader) != "2 of 4" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	s.dopplers = nil
	w = s.ask(`cpu{source_id="router"}`, 60)
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

// Whoever may not read one of the sources gets nothing, and whoever has no
// token is told nothing about the query either.
func TestQueryAccess(t *testing.T) {
	s := measured(t)
	s.access.users = map[string]func(string) bool{"bearer a": func(id string) bool { return id == "router" }}
	for _, tc := range []struct {
		token, query string
		status       int
	}{
		{"bearer a", `cpu{source_id="router"}`, 200},
		{"bearer a", `cpu{source_id="router"} or http{source_id="cell/7"}`, 404},
		{"bearer a", `1`, 200},
		{"bearer a", `{`, 400},
		{"", `1`, 404},
		{"", `{`, 404},
		{"", `cpu`, 404},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/api/v1/query?query="+url.QueryEscape(tc.query), nil)
		r.Header.Set("Authorization", tc.token)
		s.ServeHTTP(w, r)
		if w.Code != tc.status || tc.status == 404 && w.Body.Len() > 0 {
			t.Errorf("%q, %s: %d %s", tc.token, tc.query, w.Code, w.Body)
		}
	}
}

func TestPlainNames(t *testing.T) {
	for name, want := range map[string]string{
		"": "", "cpu": "cpu", "a.b-c:d": "a_b_c_d", "9lives": "_lives", "a9": "a9", "Zürich": "Z_rich", "_": "_", "日本": "__",
	} {
		if got := plainName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
		if like := namesLike(want); want != "" && !regexp.MustCompile(like).MatchString(name) {
			t.Errorf("%q does not match %s", name, like)
		}
	}
	if namesLike(strings.Repeat("_", maxRegexpBytes)) != "" {
		t.Error("a filter longer than Dopplers take")
	}
}

func FuzzPromQL(f *testing.F) {
	for _, seed := range []string{
		"", "1", `cpu{source_id="a"}`, `sum(rate(a{source_id=~"a|b|c",x!="y"}[5m])) by (x)`, `{__name__="a.b",source_id="c"}`,
		`label_replace(a{source_id="b"},"c","$1","d","((a{9}){9}){9}")`, "a{source_id='\\xff'}", "`", `{"a b",source_id=""}`, "\n\n(",
	} {
		f.Add(seed)
	}
	s := measured(f)
	f.Fuzz(func(t *testing.T, text string) {
		if x, err := parse(text); len(x.ids) > maxSources || err != nil && err.Error() == "" {
			t.Errorf("%q: %v", text, err)
		}
		w := s.ask(text, 60)
		if !json.Valid(w.Body.Bytes()) || w.Code != 200 && w.Code != 400 && w.Code != 500 {
			t.Errorf("%q: %d %s", text, w.Code, w.Body)
		}
	})
}

// The names that a Doppler is asked for are those that count here.
func FuzzPlainName(f *testing.F) {
	for _, seed := range []string{"", "cpu", "9.a", "a_b", "ä", "a\nb", "\xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		name = strings.ToValidUTF8(name, "?")
		like := namesLike(plainName(name))
		if like != "" && !regexp.MustCompile(like).MatchString(name) {
			t.Errorf("%q does not match %s", name, like)
		}
	})
}
