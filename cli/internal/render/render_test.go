package render_test

import (
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/cli/internal/render"
)

const moment = 1700000000987654321

var zone = time.FixedZone("", -8*60*60)

func logEnvelope(source, instance, sourceType, text string, kind loggregatorv2.Log_Type) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		Timestamp:  moment,
		SourceId:   source,
		InstanceId: instance,
		Tags:       map[string]string{"source_type": sourceType},
		Message: &loggregatorv2.Envelope_Log{
			Log: &loggregatorv2.Log{Payload: []byte(text), Type: kind},
		},
	}
}

func TestLogsLookLikeThoseOfCFLogs(t *testing.T) {
	raw, err := os.ReadFile("testdata/cf_logs.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Cases []struct {
			Message struct {
				Instance   string `json:"source_instance"`
				SourceType string `json:"source_type"`
				Text       string `json:"text"`
				Type       string `json:"type"`
			} `json:"message"`
			Plain  []string `json:"plain"`
			Colour []string `json:"colour"`
		} `json:"cases"`
	}
	if err := json.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Cases) < 17 {
		t.Fatalf("only %d cases", len(file.Cases))
	}
	plain := render.NewText(zone, false, false)
	colour := render.NewText(zone, true, false)
	for _, c := range file.Cases {
		e := logEnvelope("app", c.Message.Instance, c.Message.SourceType, c.Message.Text,
			loggregatorv2.Log_Type(loggregatorv2.Log_Type_value[c.Message.Type]))
		if diff := cmp.Diff(lines(c.Plain), string(plain.Append(nil, e))); diff != "" {
			t.Errorf("%q plain (-want +got):\n%s", c.Message.Text, diff)
		}
		if diff := cmp.Diff(lines(c.Colour), string(colour.Append(nil, e))); diff != "" {
			t.Errorf("%q in colour (-want +got):\n%s", c.Message.Text, diff)
		}
	}
}

func lines(of []string) string { return strings.Join(of, "\n") + "\n" }

func TestOtherKindsLookLikeThoseOfCFTail(t *testing.T) {
	const header = "   2023-11-14T14:13:20.98-0800 [app/3] "
	for _, tc := range []struct {
		name string
		e    *loggregatorv2.Envelope
		want string
	}{
		{"counter", counter(), header + "COUNTER requests:42\n"},
		{"gauge", gauge(1.5), header + "GAUGE cpu:1.500000 percentage memory:1024.000000 bytes\n"},
		{"timer", timer(), header + "TIMER http 12.500000 ms\n"},
		{"event", event(), header + "EVENT crash:exit 137\n"},
		{"nothing", &loggregatorv2.Envelope{SourceId: "app"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := string(render.NewText(zone, true, false).Append(nil, tc.e))
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
	noInstance := counter()
	noInstance.InstanceId = ""
	want := "   2023-11-14T14:13:20.98-0800 [app] COUNTER requests:42\n"
	if got := string(render.NewText(zone, false, false).Append(nil, noInstance)); got != want {
		t.Errorf("without instance: got %q, want %q", got, want)
	}
}

func TestSourceTypeOfOldAgents(t *testing.T) {
	e := logEnvelope("app", "0", "", "x", loggregatorv2.Log_OUT)
	e.Tags = nil
	text := render.NewText(zone, false, false)
	if got := string(text.Append(nil, e)); !strings.Contains(got, "[unknown/0]") {
		t.Errorf("without tags: %q", got)
	}
	e.DeprecatedTags = map[string]*loggregatorv2.Value{
		"source_type": {Data: &loggregatorv2.Value_Text{Text: "APP"}},
	}
	if got := string(text.Append(nil, e)); !strings.Contains(got, "[APP/0]") {
		t.Errorf("deprecated tag: %q", got)
	}
}

func TestSeveralSourcesAreTold(t *testing.T) {
	text := render.NewText(zone, false, true, "web", "worker")
	got := string(text.Append(nil, logEnvelope("web", "0", "APP", "a\nb", loggregatorv2.Log_OUT)))
	got += string(text.Append(nil, logEnvelope("worker", "1", "APP", "c", loggregatorv2.Log_ERR)))
	want := "web    | 2023-11-14T14:13:20.98-0800 [APP/0] OUT a\n" +
		"web    | 2023-11-14T14:13:20.98-0800 [APP/0] OUT b\n" +
		"worker | 2023-11-14T14:13:20.98-0800 [APP/1] ERR c\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	coloured := render.NewText(zone, true, true, "web", "worker")
	one := string(coloured.Append(nil, logEnvelope("web", "0", "APP", "a", loggregatorv2.Log_OUT)))
	two := string(coloured.Append(nil, logEnvelope("worker", "0", "APP", "a", loggregatorv2.Log_OUT)))
	if !strings.HasPrefix(one, "\x1b[36mweb    |\x1b[0m ") || !strings.HasPrefix(two, "\x1b[33mworker |\x1b[0m ") {
		t.Errorf("colours: %q %q", one, two)
	}
}

func TestJSON(t *testing.T) {
	binary := logEnvelope("app", "", "APP", "\xff\x00", loggregatorv2.Log_ERR)
	for _, tc := range []struct {
		name string
		e    *loggregatorv2.Envelope
		want string
	}{
		{"log", logEnvelope("app", "0", "APP", "<a>\n", loggregatorv2.Log_OUT),
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","instance_id":"0","kind":"log","log":{"type":"OUT","payload":"<a>\n"},"tags":{"source_type":"APP"}}`},
		{"empty log", logEnvelope("app", "0", "APP", "", loggregatorv2.Log_OUT),
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","instance_id":"0","kind":"log","log":{"type":"OUT","payload":""},"tags":{"source_type":"APP"}}`},
		{"binary log", binary,
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","kind":"log","log":{"type":"ERR","payload_base64":"/wA="},"tags":{"source_type":"APP"}}`},
		{"counter", counter(),
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","instance_id":"3","kind":"counter","counter":{"name":"requests","delta":2,"total":42}}`},
		{"gauge", gauge(math.NaN()),
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","instance_id":"3","kind":"gauge","gauge":{"cpu":{"value":"NaN","unit":"percentage"},"memory":{"value":1024,"unit":"bytes"}}}`},
		{"infinite gauge", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
			"a": {Value: math.Inf(1)}, "b": {Value: math.Inf(-1)},
		}}}}, `{"time":"1970-01-01T00:00:00Z","source_id":"","kind":"gauge","gauge":{"a":{"value":"Infinity"},"b":{"value":"-Infinity"}}}`},
		{"timer", timer(),
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","instance_id":"3","kind":"timer","timer":{"name":"http","start":"1970-01-01T00:00:00.001Z","stop":"1970-01-01T00:00:00.0135Z","milliseconds":12.5}}`},
		{"event", event(),
			`{"time":"2023-11-14T22:13:20.987654321Z","source_id":"app","instance_id":"3","kind":"event","event":{"title":"crash","body":"exit 137"}}`},
		{"old tags", &loggregatorv2.Envelope{
			Tags: map[string]string{"a": "new"},
			DeprecatedTags: map[string]*loggregatorv2.Value{
				"a": {Data: &loggregatorv2.Value_Text{Text: "old"}},
				"b": {Data: &loggregatorv2.Value_Integer{Integer: 7}},
				"c": {Data: &loggregatorv2.Value_Decimal{Decimal: 1.5}},
			},
		}, `{"time":"1970-01-01T00:00:00Z","source_id":"","kind":"none","tags":{"a":"new","b":"7","c":"1.5"}}`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := render.AppendJSON(nil, tc.e)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want+"\n", string(got)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestGapsInPlainWords(t *testing.T) {
	for _, tc := range []struct {
		count     uint64
		precision streampb.Gap_Precision
		reason    streampb.Gap_Reason
		doppler   string
		want      string
	}{
		{12, streampb.Gap_EXACT, streampb.Gap_EVICTED, "d1", "12 envelopes missed (reader was slower than the ring is deep)"},
		{1, streampb.Gap_EXACT, streampb.Gap_QUEUE_FULL, "", "1 envelope missed (reader was slower than its queue at the Traffic Controller)"},
		{3, streampb.Gap_AT_LEAST, streampb.Gap_RATE_LIMITED, "", "at least 3 envelopes missed (the source was over its ingress limit)"},
		{0, streampb.Gap_UNKNOWN, streampb.Gap_DOPPLER_LOST, "d1", "an unknown number of envelopes missed (Doppler d1 ended without a farewell)"},
		{3, streampb.Gap_AT_LEAST, streampb.Gap_HISTORY_LIMIT, "d", "at least 3 envelopes missed (older ones than the limit of history are left out)"},
		{0, streampb.Gap_UNKNOWN, streampb.Gap_CURSOR_UNKNOWN, "", "an unknown number of envelopes missed (a Doppler did not know the place to go on from)"},
	} {
		if got := render.Missed(tc.count, tc.precision, tc.reason, tc.doppler); got != tc.want {
			t.Errorf("got %q, want %q", got, tc.want)
		}
	}
	for reason := range streampb.Gap_Reason_name {
		got := render.Missed(1, streampb.Gap_EXACT, streampb.Gap_Reason(reason), "")
		if reason != 0 && strings.Contains(got, "no reason") {
			t.Errorf("reason %v has no words", streampb.Gap_Reason(reason))
		}
	}
}

func TestColourMode(t *testing.T) {
	t.Setenv("NO_COLOR", "")
	t.Setenv("TERM", "xterm")
	if !render.ColourAuto.On(true) || render.ColourAuto.On(false) || !render.ColourAlways.On(false) || render.ColourNever.On(true) {
		t.Error("modes")
	}
	t.Setenv("NO_COLOR", "1")
	if render.ColourAuto.On(true) || !render.ColourAlways.On(true) {
		t.Error("NO_COLOR")
	}
}

func counter() *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: moment, SourceId: "app", InstanceId: "3",
		Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "requests", Delta: 2, Total: 42}}}
}

func gauge(cpu float64) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: moment, SourceId: "app", InstanceId: "3",
		Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
			"memory": {Unit: "bytes", Value: 1024},
			"cpu":    {Unit: "percentage", Value: cpu},
		}}}}
}

func timer() *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: moment, SourceId: "app", InstanceId: "3",
		Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: 1_000_000, Stop: 13_500_000}}}
}

func event() *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: moment, SourceId: "app", InstanceId: "3",
		Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "crash", Body: "exit 137"}}}
}
