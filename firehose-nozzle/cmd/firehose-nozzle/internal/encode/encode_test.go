package encode

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

var id = nozzle.ID{Doppler: "doppler-0", Epoch: 1763713800000000001, Offset: 42}

// samples are envelopes of every kind and what they become.
var samples = []struct {
	name       string
	env        *loggregatorv2.Envelope
	json, text string // without the identity
}{
	{
		name: "log",
		env: &loggregatorv2.Envelope{
			Timestamp: 1700000000123456789, SourceId: "app", InstanceId: "0",
			Tags:    map[string]string{"source_type": "APP/PROC/WEB", "app_name": "orders"},
			Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("GET / \"200\"\n\tü\u2028"), Type: loggregatorv2.Log_ERR}},
		},
		json: `{"time":"2023-11-14T22:13:20.123456789Z","source_id":"app","instance_id":"0","kind":"log","log":{"type":"ERR","payload":"GET / \"200\"\n\tü` + "\u2028" + `"},"tags":{"app_name":"orders","source_type":"APP/PROC/WEB"}`,
		text: `time=2023-11-14T22:13:20.123456789Z kind=log source_id=app instance_id=0 type=ERR payload="GET / \"200\"\n\tü` + "\u2028" + `" tag.app_name=orders tag.source_type=APP/PROC/WEB`,
	},
	{
		name: "log that is no text",
		env:  &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte{0xff, 0, 'a'}, Type: 7}}},
		json: `{"time":"1970-01-01T00:00:00Z","source_id":"","kind":"log","log":{"type":"7","payload_base64":"/wBh"}`,
		text: `time=1970-01-01T00:00:00Z kind=log source_id="" type=7 payload="\xff\u0000a"`,
	},
	{
		name: "counter",
		env: &loggregatorv2.Envelope{SourceId: "a b", Message: &loggregatorv2.Envelope_Counter{
			Counter: &loggregatorv2.Counter{Name: "hits", Delta: 3, Total: math.MaxUint64},
		}},
		json: `{"time":"1970-01-01T00:00:00Z","source_id":"a b","kind":"counter","counter":{"name":"hits","delta":3,"total":18446744073709551615}`,
		text: `time=1970-01-01T00:00:00Z kind=counter source_id="a b" name=hits delta=3 total=18446744073709551615`,
	},
	{
		name: "gauge",
		env: &loggregatorv2.Envelope{SourceId: "a", Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{
			Metrics: map[string]*loggregatorv2.GaugeValue{
				"cpu": {Unit: "percentage", Value: 0.25}, "mem ory": {Value: 1e30}, "nan": {Value: math.NaN()}, "inf": {Value: math.Inf(-1)}, "": {},
			},
		}}},
		json: `{"time":"1970-01-01T00:00:00Z","source_id":"a","kind":"gauge","gauge":{"":{"value":0},"cpu":{"value":0.25,"unit":"percentage"},"inf":{"value":"-Infinity"},"mem ory":{"value":1e+30},"nan":{"value":"NaN"}}`,
		text: `time=1970-01-01T00:00:00Z kind=gauge source_id=a metric._=0 metric.cpu=0.25 unit.cpu=percentage metric.inf=-Inf metric.mem_ory=1e+30 metric.nan=NaN`,
	},
	{
		name: "timer",
		env: &loggregatorv2.Envelope{SourceId: "a", Message: &loggregatorv2.Envelope_Timer{
			Timer: &loggregatorv2.Timer{Name: "http", Start: 1e9, Stop: 1e9 + 1500e3},
		}},
		json: `{"time":"1970-01-01T00:00:00Z","source_id":"a","kind":"timer","timer":{"name":"http","start":"1970-01-01T00:00:01Z","stop":"1970-01-01T00:00:01.0015Z","milliseconds":1.5}`,
		text: `time=1970-01-01T00:00:00Z kind=timer source_id=a name=http start=1970-01-01T00:00:01Z stop=1970-01-01T00:00:01.0015Z milliseconds=1.5`,
	},
	{
		name: "event",
		env:  &loggregatorv2.Envelope{SourceId: "a", Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t", Body: "b=c"}}},
		json: `{"time":"1970-01-01T00:00:00Z","source_id":"a","kind":"event","event":{"title":"t","body":"b=c"}`,
		text: `time=1970-01-01T00:00:00Z kind=event source_id=a title=t body="b=c"`,
	},
	{
		name: "none, typed tags",
		env: &loggregatorv2.Envelope{
			SourceId: "a", Tags: map[string]string{"m": "new"},
			DeprecatedTags: map[string]*loggregatorv2.Value{
				"m": {Data: &loggregatorv2.Value_Text{Text: "old"}}, "i": {Data: &loggregatorv2.Value_Integer{Integer: -1}},
				"d": {Data: &loggregatorv2.Value_Decimal{Decimal: 2.5}}, "z": {Data: &loggregatorv2.Value_Text{Text: "é=\"\\"}}, "none": {},
			},
		},
		json: `{"time":"1970-01-01T00:00:00Z","source_id":"a","kind":"none","tags":{"d":"2.5","i":"-1","m":"new","z":"é=\"\\"}`,
		text: `time=1970-01-01T00:00:00Z kind=none source_id=a tag.d=2.5 tag.i=-1 tag.m=new tag.z="é=\"\\"`,
	},
}

func encode(t *testing.T, format string) Encoder {
	t.Helper()
	e, err := New(format)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestEnvelopes(t *testing.T) {
	js, text := encode(t, "json"), encode(t, "text")
	for _, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			env, err := proto.Marshal(s.env)
			if err != nil {
				t.Fatal(err)
			}
			want := s.json + `,"doppler":"doppler-0","epoch":"1763713800000000001","offset":42}` + "\n"
			if got := string(js.AppendEnvelope(nil, id, false, env)); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
			want = s.text + " doppler=doppler-0 epoch=1763713800000000001 offset=42 redelivered=true\n"
			if got := string(text.AppendEnvelope(nil, id, true, env)); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
	if got := string(js.AppendEnvelope(nil, nozzle.ID{}, true, []byte{0xff})); got != `{"kind":"malformed","envelope_base64":"/w==","doppler":"","epoch":"0","offset":0,"redelivered":true}`+"\n" {
		t.Errorf("got %s", got)
	}
	if got := string(text.AppendEnvelope(nil, id, false, []byte{0xff})); !strings.HasPrefix(got, `kind=malformed envelope_base64="/w=="`) {
		t.Errorf("got %s", got)
	}
}

func TestGaps(t *testing.T) {
	b := &nozzle.Batch{
		Position: &streampb.Position{Doppler: "d", Epoch: 7},
		Gaps: []*streampb.Gap{
			{From: 3, To: 9, Count: 5, Reason: streampb.Gap_EVICTED},
			{Precision: streampb.Gap_UNKNOWN, Reason: streampb.Gap_DOPPLER_LOST, Doppler: "e", Epoch: 8, SourceId: "s"},
			{Precision: streampb.Gap_AT_LEAST, Count: 1},
		},
	}
	want := `{"kind":"gap","gap":{"precision":"exact","count":5,"reason":"evicted","from":3,"to":9},"doppler":"d","epoch":"7"}
{"kind":"gap","gap":{"precision":"unknown","reason":"doppler_lost","source_id":"s"},"doppler":"e","epoch":"8"}
{"kind":"gap","gap":{"precision":"at_least","count":1,"reason":"unspecified"},"doppler":"d","epoch":"7"}
`
	if got := string(AppendBatch(nil, encode(t, "json"), b)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	want = `kind=gap precision=exact count=5 reason=evicted from=3 to=9 doppler=d epoch=7
kind=gap precision=unknown reason=doppler_lost source_id=s doppler=e epoch=8
kind=gap precision=at_least count=1 reason=unspecified doppler=d epoch=7
`
	if got := string(AppendBatch(nil, encode(t, "text"), b)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestUnknownFormat(t *testing.T) {
	if _, err := New("xml"); err == nil || !strings.Contains(err.Error(), "json, text") {
		t.Fatal(err)
	}
}

// object is a JSON line as encoding/json reads it.
type object struct {
	Time       string `json:"time"`
	SourceID   string `json:"source_id"`
	InstanceID string `json:"instance_id"`
	Kind       string `json:"kind"`
	Log        *struct {
		Type          string  `json:"type"`
		Payload       *string `json:"payload"`
		PayloadBase64 *string `json:"payload_base64"`
	} `json:"log"`
	Counter *struct {
		Name  string      `json:"name"`
		Delta json.Number `json:"delta"`
		Total json.Number `json:"total"`
	} `json:"counter"`
	Gauge map[string]struct {
		Value any    `json:"value"`
		Unit  string `json:"unit"`
	} `json:"gauge"`
	Timer *struct {
		Name         string  `json:"name"`
		Start        string  `json:"start"`
		Stop         string  `json:"stop"`
		Milliseconds float64 `json:"milliseconds"`
	} `json:"timer"`
	Event *struct {
		Title string `json:"title"`
		Body  string `json:"body"`
	} `json:"event"`
	Tags    map[string]string `json:"tags"`
	Base64  string            `json:"envelope_base64"`
	Doppler string            `json:"doppler"`
	Epoch   string            `json:"epoch"`
	Offset  uint64            `json:"offset"`
	Again   bool              `json:"redelivered"`
}

func parse(t *testing.T, line []byte) object {
	t.Helper()
	if n := bytes.Count(line, []byte("\n")); n != 1 || line[len(line)-1] != '\n' {
		t.Fatalf("not one line: %q", line)
	}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	var o object
	if err := d.Decode(&o); err != nil {
		t.Fatalf("%v in %s", err, line)
	}
	return o
}

// FuzzJSON holds every line against encoding/json, and what it says against
// what protobuf-go reads.
func FuzzJSON(f *testing.F) {
	for _, s := range samples {
		if env, err := proto.Marshal(s.env); err == nil {
			f.Add(env)
		}
	}
	f.Add(envelopetest.Reference())
	f.Add([]byte{0xff})
	f.Add([]byte("\x22\x04\x0a\x02ab\x22\x02\x10\x01"))                                                            // one log in two parts
	f.Add([]byte("\x22\x04\x0a\x02ab\x2a\x03\x0a\x01c\x22\x02\x10\x01"))                                           // a log, a counter, a log
	f.Add([]byte("\x4a\x06\x0a\x01a\x12\x01b\x4a\x06\x0a\x01a\x12\x01c\x4a\x00"))                                  // a tag twice, one empty
	f.Add([]byte("\x32\x07\x0a\x05\x0a\x01m\x12\x00\x32\x0d\x0a\x0b\x12\x09\x11\x00\x00\x00\x00\x00\x00\xf0\x7f")) // gauges merged
	f.Add([]byte("\x1a\x09\x0a\x01a\x12\x04\x0a\x02bb\x1a\x07\x0a\x01a\x12\x02\x10\x05"))                          // a typed tag twice
	f.Add([]byte("\x13\x0b\x0c\x14\x08\x01"))                                                                      // unknown groups
	f.Fuzz(func(t *testing.T, env []byte) {
		line := encode(t, "json").AppendEnvelope([]byte("x"), id, true, env)
		o := parse(t, line[1:])
		var want loggregatorv2.Envelope
		if err := proto.Unmarshal(env, &want); err != nil {
			return // no Doppler accepts it: any valid line will do
		}
		if _, err := envelope.ScanEnvelope(env, envelope.Limits{MaxEnvelope: 1 << 20, MaxSourceID: 1 << 20}); err != nil {
			return
		}
		compare(t, o, &want, line)
		text := encode(t, "text").AppendEnvelope(nil, id, false, env)
		if bytes.Count(text, []byte("\n")) != 1 || !utf8.Valid(text) {
			t.Fatalf("not one line of text: %q", text)
		}
		for _, pair := range pairs.FindAll(bytes.TrimSuffix(text, []byte("\n")), -1) {
			text = bytes.Replace(text, pair, nil, 1)
		}
		if left := bytes.TrimSpace(text); len(left) != 0 {
			t.Fatalf("not name=value pairs: %q", left)
		}
	})
}

// pairs is the grammar of the text format.
var pairs = regexp.MustCompile(`[!-<>-~]+=("([^"\\]|\\.)*"|[!#-<>-~]+)`)

func compare(t *testing.T, o object, want *loggregatorv2.Envelope, line []byte) {
	t.Helper()
	same := o.SourceID == want.GetSourceId() && o.InstanceID == want.GetInstanceId() && o.Time == string(appendTime(nil, want.GetTimestamp())) &&
		o.Doppler == id.Doppler && o.Epoch == strconv.FormatUint(id.Epoch, 10) && o.Offset == id.Offset && o.Again
	for name, value := range want.GetTags() {
		got, ok := o.Tags[name]
		same = same && ok && got == value
	}
	typed := 0
	for name, value := range want.GetDeprecatedTags() {
		if _, ok := want.GetTags()[name]; ok || value.GetData() == nil {
			continue
		}
		typed++
		got, ok := o.Tags[name]
		same = same && ok
		if text, isText := value.GetData().(*loggregatorv2.Value_Text); isText {
			same = same && got == text.Text
		}
	}
	if !same || len(o.Tags) != len(want.GetTags())+typed || !sameMessage(o, want) {
		t.Fatalf("%s is not %v", line, want)
	}
}

func sameMessage(o object, want *loggregatorv2.Envelope) bool {
	switch m := want.GetMessage().(type) {
	case *loggregatorv2.Envelope_Log:
		if o.Kind != "log" || o.Log == nil || o.Log.Payload == nil == (o.Log.PayloadBase64 == nil) {
			return false
		}
		if o.Log.Payload != nil {
			return *o.Log.Payload == string(m.Log.GetPayload()) && (m.Log.GetType() > 1 || m.Log.GetType() < 0 || o.Log.Type == m.Log.GetType().String())
		}
		return *o.Log.PayloadBase64 == base64.StdEncoding.EncodeToString(m.Log.GetPayload())
	case *loggregatorv2.Envelope_Counter:
		return o.Kind == "counter" && o.Counter.Name == m.Counter.GetName() &&
			o.Counter.Delta.String() == strconv.FormatUint(m.Counter.GetDelta(), 10) && o.Counter.Total.String() == strconv.FormatUint(m.Counter.GetTotal(), 10)
	case *loggregatorv2.Envelope_Gauge:
		for name, v := range m.Gauge.GetMetrics() {
			got, ok := o.Gauge[name]
			if f, isNumber := got.Value.(float64); !ok || got.Unit != v.GetUnit() || isNumber && f != v.GetValue() {
				return false
			}
		}
		return o.Kind == "gauge" && len(o.Gauge) == len(m.Gauge.GetMetrics())
	case *loggregatorv2.Envelope_Timer:
		return o.Kind == "timer" && o.Timer.Name == m.Timer.GetName() &&
			o.Timer.Start == string(appendTime(nil, m.Timer.GetStart())) && o.Timer.Stop == string(appendTime(nil, m.Timer.GetStop()))
	case *loggregatorv2.Envelope_Event:
		return o.Kind == "event" && o.Event.Title == m.Event.GetTitle() && o.Event.Body == m.Event.GetBody()
	}
	return o.Kind == "none"
}

func TestEncodersDoNotAllocate(t *testing.T) {
	for _, format := range Formats() {
		e := encode(t, format)
		dst := make([]byte, 0, 4096)
		for _, s := range samples[:6] {
			env, err := proto.Marshal(s.env)
			if err != nil {
				t.Fatal(err)
			}
			e.AppendEnvelope(dst, id, true, env)
			if n := testing.AllocsPerRun(100, func() { e.AppendEnvelope(dst, id, true, env) }); n > 0 {
				t.Errorf("%s of %s allocates %v times", format, s.name, n)
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for _, format := range Formats() {
		b.Run(format, func(b *testing.B) {
			e, err := New(format)
			if err != nil {
				b.Fatal(err)
			}
			env := envelopetest.Reference()
			var dst []byte
			b.ReportAllocs()
			b.SetBytes(int64(len(env)))
			for b.Loop() {
				dst = e.AppendEnvelope(dst[:0], id, false, env)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "envelopes/s")
		})
	}
}
