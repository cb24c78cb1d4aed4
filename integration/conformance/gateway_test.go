package conformance

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/fakecf"
)

// gatewayCase is one observed exchange with the RLP gateway.
type gatewayCase struct {
	exchange
	Authorization string
	UAAReply      string `json:"uaa_reply"`
	CCCalls       string `json:"cc_calls"`
	Egress        struct {
		Selectors []selector
	} `json:"egress_request"`
}

// selector is one of an EgressBatchRequest.
type selector struct {
	SourceID          string
	Log, Timer, Event *struct{}
	Counter           *struct{ Name string }
	Gauge             *struct{ Names []string }
}

// selects tells whether an envelope is for a selector (protocol/01, Doppler v2
// routing).
func (s selector) selects(e *loggregatorv2.Envelope) bool {
	if s.SourceID != "" && s.SourceID != e.GetSourceId() {
		return false
	}
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Log:
		return s.Log != nil
	case *loggregatorv2.Envelope_Timer:
		return s.Timer != nil
	case *loggregatorv2.Envelope_Event:
		return s.Event != nil
	case *loggregatorv2.Envelope_Counter:
		return s.Counter != nil && (s.Counter.Name == "" || s.Counter.Name == m.Counter.GetName())
	case *loggregatorv2.Envelope_Gauge:
		return s.Gauge != nil && (s.Gauge.Names == nil || sameNames(s.Gauge.Names, m.Gauge.GetMetrics()))
	}
	return false
}

func sameNames(names []string, metrics map[string]*loggregatorv2.GaugeValue) bool {
	for _, n := range names {
		if metrics[n] == nil {
			return false
		}
	}
	return len(names) == len(metrics)
}

// TestGateway replays /v2/read.
func TestGateway(t *testing.T) {
	const file = "rlp_gateway_http.json"
	ctx := deadline(t)
	cases := vectors(t, "../../trafficcontroller/internal/auth/testdata/"+file, func(c gatewayCase) string { return c.Case })
	beats := len(cases) - 1
	if !strings.HasPrefix(cases[beats].Case, "heartbeats only") {
		t.Fatalf("the last case is %q", cases[beats].Case)
	}
	brief := cases[beats].brief(ctx, t) // takes its time while the others run
	for i, c := range cases[:beats] {
		c.RequestHeaders = map[string]string{"Connection": "close"} // as the recording client
		if c.Authorization != "" {
			c.RequestHeaders["Authorization"] = c.Authorization
		}
		t.Run(c.Case, func(t *testing.T) {
			d, notes := c.replay(ctx, t)
			all.judge(t, file, i, d, notes...)
		})
	}
	all.judge(t, file, beats, brief())
}

func (c gatewayCase) replay(ctx context.Context, t *testing.T) (d []difference, notes []string) {
	t.Helper()
	server, outside, want := here.main, c.outside(t), c.questions()
	if c.Status == 503 {
		server = here.full
		here.answers(ctx, t, outside...)
		held := do(ctx, t, server, c.exchange)
		defer held.conn.Close()
	}
	here.answers(ctx, t, outside...)
	answer := do(ctx, t, server, c.exchange)
	if d = compare(t, c.exchange, answer); answer.StatusCode == http.StatusOK && len(answer.TransferEncoding) > 0 {
		var more []difference
		more, notes = c.live(ctx, t, answer)
		d = append(d, more...)
	}
	_ = answer.conn.Close()
	if asked := here.asked(ctx, t); len(want) > 0 && !slices.Equal(asked, want) {
		d = append(d, difference{"questions", fmt.Sprint(want), fmt.Sprint(asked)})
	}
	return d, notes
}

// outside is how UAA and Cloud Controller answer: as recorded, else not at all.
func (c gatewayCase) outside(t *testing.T) (list []fakecf.Answer) {
	t.Helper()
	if _, reply, ok := strings.Cut(c.UAAReply, " -> "); ok {
		list = append(list, says(t, "uaa", reply))
	} else if c.Status == 200 {
		list = append(list, says(t, "uaa", `200 {"scope":["logs.admin"]}`)) // recorded without a UAA
	}
	for _, call := range c.calls() {
		request, status, _ := strings.Cut(call, " -> ")
		server, path := "cc", strings.Fields(request)[1]
		if strings.HasPrefix(path, "/v3/") {
			server = "external"
		}
		a := says(t, server, status)
		a.Path = path
		list = append(list, a)
	}
	return append(list, fakecf.Answer{How: fakecf.Drop})
}

func (c gatewayCase) calls() []string {
	if c.CCCalls == "" {
		return nil
	}
	return strings.Split(c.CCCalls, " ; ")
}

// questions are what UAA and Cloud Controller were asked.
func (c gatewayCase) questions() (list []string) {
	request, _, ok := strings.Cut(c.UAAReply, " -> ")
	if !ok {
		return nil
	}
	path, form, _ := strings.Cut(strings.TrimPrefix(request, "POST "), " ")
	list = append(list, "POST "+path+" basic=doppler:secret ct=application/x-www-form-urlencoded body="+form)
	for _, call := range c.calls() {
		question, _, _ := strings.Cut(call, " -> ")
		list = append(list, question)
	}
	return list
}

// live emits envelopes of all kinds, among them the recorded ones, and compares
// what comes with what the selectors select.
func (c gatewayCase) live(ctx context.Context, t *testing.T, answer *client) (d []difference, notes []string) {
	t.Helper()
	here.member(ctx, t, answer.local())
	stream := &sse{in: answer.Body}
	begin := "begin " + c.Case
	here.emit(t, encode(t, c.selectable(begin)))
	for !strings.Contains(canonical(t, stream.next(t)...), begin) {
		// A young Doppler's stream begins at its first envelope.
	}
	recorded := c.recorded(t)
	var want []json.RawMessage
	for _, e := range append(recorded, others()...) {
		here.emit(t, encode(t, e))
		selected := slices.ContainsFunc(c.Egress.Selectors, func(s selector) bool { return s.selects(e) })
		if selected {
			want = append(want, asJSON(t, e))
		} else if slices.Contains(recorded, e) {
			notes = append(notes, "an envelope that the selectors do not select: the recording fed the gateway with it")
		}
	}
	end := c.selectable("end")
	here.emit(t, encode(t, end))
	want = append(want, asJSON(t, end))
	var got []json.RawMessage
	for len(got) == 0 || !strings.Contains(string(got[len(got)-1]), `"end"`) {
		got = append(got, stream.next(t)...)
	}
	if w, g := canonical(t, want...), canonical(t, got...); w != g {
		d = append(d, difference{"envelopes", w, g})
	}
	return d, notes
}

// recorded are the envelopes of the recorded body.
func (c gatewayCase) recorded(t *testing.T) (list []*loggregatorv2.Envelope) {
	t.Helper()
	recorded := &sse{in: strings.NewReader(c.ResponseBody)}
	for recorded.left() {
		for _, text := range recorded.next(t) {
			e := &loggregatorv2.Envelope{}
			if err := protojson.Unmarshal(text, e); err != nil {
				t.Fatal(err)
			}
			list = append(list, e)
		}
	}
	return list
}

// selectable is an envelope that the first selector of a case selects.
func (c gatewayCase) selectable(instance string) *loggregatorv2.Envelope {
	s := c.Egress.Selectors[0]
	e := &loggregatorv2.Envelope{SourceId: s.SourceID, InstanceId: instance}
	switch {
	case s.Counter != nil:
		e.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: s.Counter.Name}}
	case s.Gauge != nil:
		metrics := map[string]*loggregatorv2.GaugeValue{}
		for _, n := range s.Gauge.Names {
			metrics[n] = &loggregatorv2.GaugeValue{Unit: "u", Value: 0.5}
		}
		e.Message = &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}}
	default:
		e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("hi")}}
	}
	return e
}

// others are envelopes that some of the recorded selectors select.
func others() (list []*loggregatorv2.Envelope) {
	for _, source := range []string{appID, otherID, "a", "b", "c", ""} {
		log := &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("hi"), Type: loggregatorv2.Log_ERR}}}
		timer := &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: 1, Stop: 2}}}
		event := &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t", Body: "b"}}}
		each := []*loggregatorv2.Envelope{log, timer, event}
		for _, name := range []string{"egress", "ingress", "other", ""} {
			each = append(each, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name, Delta: 1, Total: 2}}})
		}
		for _, names := range [][]string{{"cpu"}, {"memory"}, {"cpu", "memory"}, {"cpu", "memory", "disk"}, {""}, nil} {
			metrics := map[string]*loggregatorv2.GaugeValue{}
			for _, n := range names {
				metrics[n] = &loggregatorv2.GaugeValue{Unit: "u", Value: 0.5}
			}
			each = append(each, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: metrics}}})
		}
		for _, e := range each {
			e.SourceId, e.Timestamp, e.Tags = source, -5, map[string]string{"k": "v"}
		}
		list = append(list, each...)
	}
	return list
}

// asJSON is an envelope as the gateway writes it (protocol/04, section 6).
func asJSON(t *testing.T, e *loggregatorv2.Envelope) json.RawMessage {
	t.Helper()
	text, err := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// canonical is JSON with sorted keys and without blanks.
func canonical(t *testing.T, list ...json.RawMessage) string {
	t.Helper()
	var text []byte
	for _, item := range list {
		var v any
		d := json.NewDecoder(bytes.NewReader(item))
		d.UseNumber()
		err := d.Decode(&v)
		if err == nil {
			var one []byte
			one, err = json.Marshal(v)
			text = append(append(text, one...), '\n')
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return string(text)
}

// brief follows a stream to its end, in the background, and compares it with
// the case of heartbeats: our interval is the one of production.
func (c gatewayCase) brief(ctx context.Context, t *testing.T) (wait func() []difference) {
	t.Helper()
	c.RequestHeaders = map[string]string{"Authorization": "bearer tok", "Connection": "close"}
	here.answers(ctx, t, c.outside(t)...)
	c.Path += "&source_id=nobody"
	answer := do(ctx, t, here.brief, c.exchange)
	d := compare(t, c.exchange, answer)
	ended := make(chan string, 1)
	go func() {
		var body bytes.Buffer
		_, _ = body.ReadFrom(answer.Body) // what is missing is seen
		ended <- body.String()
	}()
	return func() []difference {
		second := regexp.MustCompile(`data: \d{10}\n`)
		want := "event: heartbeat\ndata: N\n\nevent: closing\ndata: closing due to stream timeout\n\n"
		if got := second.ReplaceAllString(<-ended, "data: N\n"); got != want {
			d = append(d, difference{"body", want, got})
		}
		return d
	}
}
