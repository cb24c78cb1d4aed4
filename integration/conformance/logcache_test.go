package conformance

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// cacheCase is one observed exchange with Log Cache: with its gateway, which
// asks nobody, or with the auth proxy before it.
type cacheCase struct {
	exchange
	Via, Authorization string
	CCCalls            []string `json:"cc_calls"`
}

// TestLogCache replays /api/v1 on a Doppler that holds what the recorded one
// held, and nothing else.
func TestLogCache(t *testing.T) {
	const file = "log_cache_http.json"
	ctx := deadline(t)
	p := startCache(ctx, t)
	for i, c := range vectors(t, authVectors+file, func(c cacheCase) string { return c.Via + ": " + c.Case }) {
		t.Run(c.Via+"/"+c.Case, func(t *testing.T) {
			server := p.main
			if c.Via == "gateway" {
				server = p.open
			}
			if c.Authorization != "" {
				c.RequestHeaders = map[string]string{"Authorization": c.Authorization}
			}
			here.answers(ctx, t, c.outside()...)
			d := compareCache(t, c.exchange, do(ctx, t, server, c.exchange))
			if asked := ccPaths(here.asked(ctx, t)); !slices.Equal(asked, ccPaths(c.CCCalls)) {
				d = append(d, difference{"questions", fmt.Sprint(ccPaths(c.CCCalls)), fmt.Sprint(asked)})
			}
			all.judge(t, file, i, d)
		})
	}
}

// startCache starts a second Doppler with its Traffic Controllers, and fills
// it.
func startCache(ctx context.Context, t *testing.T) *platform {
	t.Helper()
	p := &platform{cf: here.cf}
	var err error
	p.Pipeline, err = pipeline.Start(ctx, pipeline.Config{
		Binaries: programs, Dopplers: 1, Controllers: 1, Access: p.cf.Access(),
		DopplerArgs:    []string{"--metric-interval", "0", "--ring-bytes", "64MiB", "--drain-grace", "0s"},
		ControllerArgs: []string{"--access-cache", "0s", "--drain-grace", "0s"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.producer != nil {
			_ = p.producer.Close()
		}
		if err := p.Pipeline.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	p.main = p.Controllers[0]
	if p.open, err = p.AddController(ctx, "--disable-access-control"); err == nil {
		err = p.WaitReady(ctx, p.open)
	}
	if err == nil {
		err = p.connect(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range cached() {
		p.emit(t, encode(t, e))
	}
	until(ctx, t, "everything to be held", func() bool { // the last that went in
		answer := do(ctx, t, p.open, exchange{Path: "/api/v1/read/cf%2Fjob"})
		defer answer.conn.Close()
		body, err := io.ReadAll(answer.Body)
		return err == nil && strings.Contains(string(body), "cf/job")
	})
	return p
}

// cached is what the recorded Log Cache held. The first and the last of a
// source come in their order: meta tells their timestamps.
func cached() (list []*loggregatorv2.Envelope) {
	app := func(at int64, instance string, e *loggregatorv2.Envelope) {
		e.Timestamp, e.SourceId, e.InstanceId = 1700000000000000000+at, appID, instance
		list = append(list, e)
	}
	line := func(text string, typ loggregatorv2.Log_Type) *loggregatorv2.Envelope_Log {
		return &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text), Type: typ}}
	}
	counter := func(name string, delta, total uint64) *loggregatorv2.Envelope_Counter {
		return &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name, Delta: delta, Total: total}}
	}
	tags := map[string]string{"origin": "rep", "source_type": "APP/PROC/WEB"}
	app(1, "0", &loggregatorv2.Envelope{Tags: tags, Message: line("one", loggregatorv2.Log_OUT)})
	app(2, "0", &loggregatorv2.Envelope{Tags: tags, Message: line("two\xff", loggregatorv2.Log_ERR)})
	app(3, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
		"cpu": {Unit: "percentage", Value: 0.5}, "memory": {Unit: "bytes", Value: math.NaN()},
	}}}})
	app(5, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: 1, Stop: 2}}})
	app(4, "0", &loggregatorv2.Envelope{Message: counter("requests", 1, 5)})
	app(6, "0", &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "t", Body: "b"}}})
	app(7, "0", &loggregatorv2.Envelope{DeprecatedTags: map[string]*loggregatorv2.Value{"a": {Data: &loggregatorv2.Value_Text{Text: "b"}}}, Message: line("", loggregatorv2.Log_OUT)})
	app(7, "1", &loggregatorv2.Envelope{Message: line("same timestamp", loggregatorv2.Log_OUT)})
	return append(list,
		&loggregatorv2.Envelope{Timestamp: 1700000000000000009, SourceId: "doppler", InstanceId: "x", Message: counter("ingress", 0, 5)},
		&loggregatorv2.Envelope{Timestamp: 1700000000000000010, SourceId: "cf/job", Message: counter("c", 0, 0)},
	)
}

// outside is how UAA and Cloud Controller answer: the recorded proxy knew two
// tokens by their signature, here UAA does.
func (c cacheCase) outside() []fakecf.Answer {
	list := []fakecf.Answer{
		{Server: "uaa", Token: "<admin JWT>", Body: `{"scope":["logs.admin"]}`},
		{Server: "uaa", Token: "<user JWT>", Body: `{"scope":["cloud_controller.read"]}`},
		{Server: "uaa", Status: http.StatusBadRequest, Body: `{"error":"invalid_token"}`},
	}
	for _, call := range c.CCCalls {
		request, status, _ := strings.Cut(call, " -> ")
		path, query, _ := strings.Cut(strings.TrimPrefix(request, "GET "), "?")
		a := fakecf.Answer{Server: "external", Path: path, Body: `{"pagination":{"next":null},"resources":[]}`}
		if path == "/v3/apps" && query == "per_page=5000" {
			a.Body = `{"pagination":{"next":null},"resources":[{"guid":"` + appID + `","name":"a"}]}`
		}
		if status == "404" {
			a.Status = http.StatusNotFound
		}
		list = append(list, a)
	}
	// A path fits all that begin with it, and the first that fits counts.
	slices.SortStableFunc(list[3:], func(a, b fakecf.Answer) int { return len(b.Path) - len(a.Path) })
	return append(list, fakecf.Answer{How: fakecf.Drop})
}

// ccPaths are the questions to Cloud Controller, without the token.
func ccPaths(calls []string) (paths []string) {
	for _, call := range calls {
		if path := strings.Fields(call)[1]; strings.HasPrefix(path, "/v3/") {
			paths = append(paths, path)
		}
	}
	return paths
}

var uptime = regexp.MustCompile(`"vm_uptime":"\d+"`)

// compareCache compares an answer. How long the process has run is its own.
func compareCache(t *testing.T, e exchange, c *client) (d []difference) {
	t.Helper()
	for _, x := range compare(t, e, c) {
		if x.field == "body" && uptime.ReplaceAllString(x.got, `"vm_uptime":"789"`) == x.want ||
			x.field == "header Content-Length" && strings.HasSuffix(e.Path, "/api/v1/info") {
			continue
		}
		d = append(d, x)
	}
	return d
}
