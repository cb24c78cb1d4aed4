package conformance

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/fakecf"
)

const (
	authVectors = "../../trafficcontroller/internal/auth/testdata/"
	appID       = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	otherID     = "b3015d69-09cd-476d-aace-ad2d824d5ab7"
)

// tcCase is one observed exchange with the Traffic Controller.
type tcCase struct {
	exchange
	UAAReply     string `json:"uaa_reply"`
	UAARequest   string `json:"uaa_request"`
	CCStatus     int    `json:"cc_status"`
	CCRequest    string `json:"cc_request"`
	Subscription string `json:"doppler_subscription"`
}

// TestTrafficController replays the old paths.
func TestTrafficController(t *testing.T) {
	const file = "tc_http.json"
	ctx := deadline(t)
	for i, c := range vectors(t, authVectors+file, func(c tcCase) string { return c.Case }) {
		t.Run(c.Case, func(t *testing.T) {
			here.answers(ctx, t, c.outside(t)...)
			server := here.main
			if c.Status == 503 {
				server = here.full
				held := do(ctx, t, server, exchange{Path: c.Path, RequestHeaders: c.RequestHeaders})
				defer held.conn.Close()
				here.answers(ctx, t, c.outside(t)...)
			}
			answer := do(ctx, t, server, c.exchange)
			d := compare(t, c.exchange, answer)
			if c.Status == http.StatusSwitchingProtocols && answer.StatusCode == c.Status {
				d = append(d, c.live(ctx, t, answer, fmt.Sprint(i))...)
			}
			if asked := strings.Join(here.asked(ctx, t), "; "); asked != c.UAARequest+c.CCRequest && c.UAARequest+c.CCRequest != "" {
				d = append(d, difference{"question", c.UAARequest + c.CCRequest, asked})
			}
			all.judge(t, file, i, d)
		})
	}
}

// outside is how UAA and Cloud Controller answer in a case: as recorded, else
// not at all.
func (c tcCase) outside(t *testing.T) []fakecf.Answer {
	t.Helper()
	var list []fakecf.Answer
	if c.UAAReply != "" {
		list = append(list, says(t, "uaa", c.UAAReply))
	}
	if strings.Contains(c.Case, "(gone since") {
		c.CCStatus = 200 // not here: see improvements
	}
	if c.CCStatus != 0 {
		list = append(list, fakecf.Answer{Server: "cc", Status: c.CCStatus})
	}
	return append(list, fakecf.Answer{How: fakecf.Drop})
}

// live checks the stream of a case: a ping, what the subscription selects, one
// envelope per message, and the close.
func (c tcCase) live(ctx context.Context, t *testing.T, answer *client, tag string) (d []difference) {
	t.Helper()
	if first, masked, payload := answer.frame(t); first != pingFrame || masked || len(payload) > 0 {
		d = append(d, difference{"first frame", "8900", fmt.Sprintf("%x %x", first, payload)})
	}
	if strings.HasPrefix(c.Path, "/apps/") {
		here.tailing(ctx, t, here.main, answer.local())
	} else {
		here.member(ctx, t, answer.local())
	}
	sent := everyKind(tag, c.app(t))
	want := c.selected(t, sent)
	for _, s := range sent {
		here.emit(t, encode(t, s))
	}
	var got []string
	for len(got) == 0 || got[len(got)-1] != want[len(want)-1] {
		e := &events.Envelope{}
		if err := proto.Unmarshal(answer.message(t), e); err != nil {
			t.Fatal(err)
		}
		if id, ok := strings.CutPrefix(e.Tags["id"], tag+"/"); ok { // not of a case before, with the same subscription
			got = append(got, id)
		}
	}
	if !slices.Equal(got, want) {
		d = append(d, difference{"stream", fmt.Sprint(want), fmt.Sprint(got)})
	}
	answer.hangUp(t)
	return append(d, answer.ends(t)...)
}

// everyKind are envelopes of all kinds, tagged "tag/name". A log and then a
// counter of the app come last.
func everyKind(tag, app string) []*loggregatorv2.Envelope {
	log := func() *loggregatorv2.Envelope {
		return &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("hi")}}}
	}
	failure := log()
	failure.Tags = map[string]string{"__v1_type": "Error"}
	foreign := log()
	foreign.SourceId = otherID
	list := []*loggregatorv2.Envelope{
		foreign, failure,
		{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{"n": {Value: 1}}}}},
		{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
			"cpu": {Value: 1}, "memory": {Value: 2}, "disk": {Value: 3}, "memory_quota": {Value: 4}, "disk_quota": {Value: 5},
		}}}},
		{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: 1, Stop: 2}}},
		{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t"}}},
		log(),
		{Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "c"}}},
	}
	for i, name := range []string{"foreign", "error", "value", "container", "timer", "event", "log", "counter"} {
		e := list[i]
		if e.Tags == nil {
			e.Tags = map[string]string{}
		}
		if e.Tags["id"] = tag + "/" + name; e.SourceId == "" {
			e.SourceId = app
		}
	}
	return list
}

// subscription is what the old Traffic Controller asked its Dopplers for.
type subscription struct {
	Filter struct {
		AppID   string
		Message map[string]any
	}
}

func (c tcCase) subscription(t *testing.T) (sub subscription) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.Subscription), &sub); err != nil {
		t.Fatal(err)
	}
	return sub
}

// app is the one subscribed to, or any.
func (c tcCase) app(t *testing.T) string {
	t.Helper()
	return cmp.Or(c.subscription(t).Filter.AppID, appID)
}

// selected are the names of what the recorded subscription got at an old
// Doppler (protocol/01, v1 routing).
func (c tcCase) selected(t *testing.T, sent []*loggregatorv2.Envelope) (names []string) {
	t.Helper()
	sub := c.subscription(t)
	_, logs := sub.Filter.Message["Log"]
	_, metrics := sub.Filter.Message["Metric"]
	for _, s := range sent {
		_, name, _ := strings.Cut(s.GetTags()["id"], "/")
		isLog := name == "log" || name == "foreign"
		ofApp := slices.Contains([]string{"log", "container", "timer"}, name)
		switch {
		case name == "event", logs && !isLog, metrics && isLog, sub.Filter.AppID != "" && !ofApp:
		default:
			names = append(names, name)
		}
	}
	return names
}
