package logcache

import (
	"encoding/json"
	"maps"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

type vector struct {
	Case, Via, Path, Authorization string
	Calls                          []string          `json:"cc_calls"`
	Status                         int               `json:"status"`
	Headers                        map[string]string `json:"response_headers"`
	Body                           string            `json:"response_body"`
}

// improvement is where we differ from what was observed, on purpose.
type improvement struct {
	reason string
	status int
	body   string
}

const slashBody = `{"envelopes":{"batch":[{"timestamp":"1700000000000000010","source_id":"cf/job","instance_id":"","deprecated_tags":{},"tags":{},"counter":{"name":"c","delta":"0","total":"0"}}]}}` + "\n"

// improvements are keyed by via and case.
var improvements = map[string]improvement{
	"gateway/meta": {
		"clients meet the proxy's form: camel case, without zeros, which those of Java need", 200,
		`{"meta":{"cf/job":{"count":"1","oldestTimestamp":"1700000000000000010","newestTimestamp":"1700000000000000010"},"doppler":{"count":"1","oldestTimestamp":"1700000000000000009","newestTimestamp":"1700000000000000009"},"f47ac10b-58cc-4372-a567-0e02b2c3d479":{"count":"8","oldestTimestamp":"1700000000000000001","newestTimestamp":"1700000000000000007"}}}` + "\n",
	},
	"gateway/old path": {"paths that do not exist are answered as by the proxy", 404, "404 page not found\n"},
	"gateway/POST-only? GET query without query": {
		"faults of a query are told as by the proxy", 400,
		`{"status":"error","errorType":"bad_data","error":"parse error at char 1: no expression found in input"}` + "\n",
	},
	"gateway/query bad": {
		"faults of a query are told as by the proxy", 400,
		`{"status":"error","errorType":"bad_data","error":"parse error at char 9: unexpected end of input inside braces"}` + "\n",
	},
	"gateway/query without source_id": {
		"faults of a query are told as by the proxy", 400,
		`{"status":"error","errorType":"bad_data","error":"query does not request any source_ids"}` + "\n",
	},
	"auth-proxy/read admin, source with slash": {
		"go-log-cache does not escape the slash, so through the proxy it could not read such a source; as by the gateway", 200, slashBody,
	},
}

const vectorApp = "f47ac10b-58cc-4372-a567-0e02b2c3d479"

// observed fills a stage with the envelopes of the vectors, on two Dopplers.
func observed(t *testing.T) *stage {
	t.Helper()
	s := newStage(t, 2)
	s.started = time.Now().Add(-789 * time.Second)
	app := func(at int64, instance string, e *loggregatorv2.Envelope) *loggregatorv2.Envelope {
		e.Timestamp, e.SourceId, e.InstanceId = 1700000000000000000+at, vectorApp, instance
		return e
	}
	line := func(text string, typ loggregatorv2.Log_Type) *loggregatorv2.Envelope_Log {
		return &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text), Type: typ}}
	}
	tags := map[string]string{"origin": "rep", "source_type": "APP/PROC/WEB"}
	s.take(t, 1,
		app(2, "0", &loggregatorv2.Envelope{Tags: tags, Message: line("two\xff", loggregatorv2.Log_ERR)}),
		app(4, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "requests", Delta: 1, Total: 5}}}),
		app(6, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t", Body: "b"}}}),
		app(7, "1", &loggregatorv2.Envelope{Message: line("same timestamp", loggregatorv2.Log_OUT)}),
		&loggregatorv2.Envelope{Timestamp: 1700000000000000010, SourceId: "cf/job", Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "c"}}},
	)
	s.take(t, 0,
		app(7, "0", &loggregatorv2.Envelope{DeprecatedTags: map[string]*loggregatorv2.Value{"a": {Data: &loggregatorv2.Value_Text{Text: "b"}}}, Message: line("", loggregatorv2.Log_OUT)}),
		app(5, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: 1, Stop: 2}}}),
		app(3, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
			"cpu": {Unit: "percentage", Value: 0.5}, "memory": {Unit: "bytes", Value: math.NaN()},
		}}}}),
		app(1, "0", &loggregatorv2.Envelope{Tags: tags, Message: line("one", loggregatorv2.Log_OUT)}),
		&loggregatorv2.Envelope{Timestamp: 1700000000000000009, SourceId: "doppler", InstanceId: "x", Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "ingress", Total: 5}}},
	)
	return s
}

// usersOf makes the users of a case as its Cloud Controller saw them.
func usersOf(v vector) map[string]func(string) bool {
	if v.Via == "gateway" {
		return nil
	}
	shown := func(id string) bool {
		for _, call := range v.Calls {
			if strings.HasSuffix(call, "/"+id+" -> 200") {
				return true
			}
		}
		return v.Path == "/api/v1/meta" && id == vectorApp
	}
	return map[string]func(string) bool{
		"bearer <admin JWT>": everything, "Bearer <admin JWT>": everything, "<admin JWT>": everything, "bearer <user JWT>": shown,
	}
}

func TestVectors(t *testing.T) {
	raw, err := os.ReadFile("../auth/testdata/log_cache_http.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Cases []vector }
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) != 56 {
		t.Fatalf("%d cases", len(file.Cases))
	}
	unused := maps.Clone(improvements)
	for _, v := range file.Cases {
		key := v.Via + "/" + v.Case
		delete(unused, key)
		t.Run(key, func(t *testing.T) { replay(t, key, v) })
	}
	for key := range unused {
		t.Errorf("there is no case %q to improve", key)
	}
}

func replay(t *testing.T, key string, v vector) {
	s := observed(t)
	s.access.users = usersOf(v)
	status, header, body := s.over(t, v.Path, v.Authorization)
	if better, ok := improvements[key]; ok {
		if status == v.Status && body == v.Body {
			t.Errorf("is as observed, not better: %s", better.reason)
		}
		if status != better.status || body != better.body {
			t.Errorf("%d %q, want the better %d %q", status, body, better.status, better.body)
		}
		return
	}
	if status != v.Status || body != v.Body {
		t.Errorf("%d %q\nwant %d %q", status, body, v.Status, v.Body)
	}
	for name, want := range v.Headers {
		if got := header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
