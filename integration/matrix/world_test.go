package matrix

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// world is a Doppler to which all sources log, UAA and Cloud Controller, and
// Traffic Controllers as they are needed.
type world struct {
	*pipeline.Pipeline
	cf     *pipeline.CF
	state  fakecf.State
	tokens map[string]string // by user and kind
	known  map[string]bool   // users
}

func begin(ctx context.Context, t *testing.T) *world {
	t.Helper()
	cf, err := pipeline.StartCF(blackbox.Programs)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cf.Kill)
	w := &world{cf: cf, tokens: map[string]string{}, known: map[string]bool{}}
	for _, name := range []string{"own", "foreign"} {
		w.state.Apps = append(w.state.Apps, fakecf.Resource{GUID: ids[name], Name: names[name]})
		w.state.ServiceInstances = append(w.state.ServiceInstances, fakecf.Resource{GUID: ids[name+" service"], Name: name + "-db"})
	}
	timeout := "3s"
	if blackbox.Race {
		timeout = "8s"
	}
	w.Pipeline = blackbox.Start(t, pipeline.Config{
		Dopplers: 1, Access: append(cf.Access(), "--cc-external-addr", cf.ExternalTLS, "--cc-external-ca", cf.ExternalCA),
		DopplerArgs:    []string{"--linger", "5s", "--drain-grace", "100ms"},
		ControllerArgs: []string{"--access-timeout", timeout, "--token-audience", "cf", "--log-cache-queries", "512", "--log-cache-reads", "512"},
	})
	blackbox.Talk(ctx, t, w.Dopplers[0], said)
	return w
}

// controller starts a Traffic Controller that knows nothing yet.
func (w *world) controller(ctx context.Context, t *testing.T, args ...string) string {
	t.Helper()
	s, err := w.AddController(ctx, args...)
	if err == nil {
		err = w.WaitReady(ctx, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + s.Addrs[pipeline.Public]
}

// mark is what only a source's logs and metrics have in them. Its length makes
// its base64 the same whatever comes after it.
func mark(source string) string { return fmt.Sprintf("mark-of-%-19.19s", source+",") }

// shows tells whether an answer has a source in it.
func shows(c cell, body []byte, source string) bool {
	m := mark(source)
	lists := c.path.rule == meta || c.path.name == "sources"
	return bytes.Contains(body, []byte(m)) || bytes.Contains(body, []byte(base64.StdEncoding.EncodeToString([]byte(m)))) ||
		lists && bytes.Contains(body, []byte(ids[source]))
}

// said is a log and a container metric of each source, old enough for reads that
// wait for late arrivals.
func said() *loggregatorv2.EnvelopeBatch {
	b := &loggregatorv2.EnvelopeBatch{}
	gauges := map[string]*loggregatorv2.GaugeValue{}
	for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		gauges[name] = &loggregatorv2.GaugeValue{Unit: "bytes", Value: 1}
	}
	for _, source := range speak {
		e := func() *loggregatorv2.Envelope {
			return &loggregatorv2.Envelope{
				Timestamp: time.Now().Add(-5 * time.Second).UnixNano(), SourceId: ids[source], InstanceId: "0", Tags: map[string]string{"mark": mark(source)},
			}
		}
		line, metric := e(), e()
		line.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(mark(source))}}
		metric.Message = &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: gauges}}
		b.Batch = append(b.Batch, line, metric)
	}
	return b
}

// provide gives all cells users and tokens.
func (w *world) provide(ctx context.Context, t *testing.T, cells []cell) {
	t.Helper()
	for _, c := range cells {
		if !w.known[c.user] {
			u := roles[c.role]
			u.Name = c.user
			w.state.Users, w.known[c.user] = append(w.state.Users, u), true
		}
	}
	w.know(ctx, t)
	for i, c := range cells {
		cells[i].token = w.token(ctx, t, c.user, c.kind)
	}
}

// forget has the platform forget all users, tokens and faults: it looks through
// all of them for each request.
func (w *world) forget() {
	w.state.Users, w.state.Answers = nil, nil
	clear(w.known)
	clear(w.tokens)
}

// know tells the platform of all users, without forgetting its tokens.
func (w *world) know(ctx context.Context, t *testing.T) {
	t.Helper()
	var now fakecf.State
	if err := w.cf.Control(ctx, http.MethodGet, "/state", nil, &now); err != nil {
		t.Fatal(err)
	}
	if w.state.Tokens = now.Tokens; len(w.tokens) == 0 {
		w.state.Tokens = nil
	}
	if err := w.cf.Control(ctx, http.MethodPut, "/state", w.state, nil); err != nil {
		t.Fatal(err)
	}
}

// token is one of a user, empty for kinds that are none.
func (w *world) token(ctx context.Context, t *testing.T, user, name string) string {
	t.Helper()
	if have, ok := w.tokens[user+" "+name]; ok {
		return have
	}
	path, ask := "/tokens", map[string]any{"user": user, "kind": name, "seconds": 3600}
	switch _, forged := fakecf.Forgeries[name]; {
	case forged:
		path = "/forged"
		delete(ask, "seconds")
	case name == "opaque expired":
		ask["kind"], ask["seconds"] = fakecf.Opaque, -60
	case name != fakecf.JWT && name != fakecf.Opaque:
		return ""
	}
	var given struct{ Token string }
	if err := w.cf.Control(ctx, http.MethodPost, path, ask, &given); err != nil {
		t.Fatal(err)
	}
	w.tokens[user+" "+name] = given.Token
	return given.Token
}

// breaks has the platform answer the tokens of all cells in the way of their
// fault, and besides as given.
func (w *world) breaks(ctx context.Context, t *testing.T, cells []cell, besides ...fakecf.Answer) {
	t.Helper()
	done := map[string]bool{}
	for _, c := range cells {
		if c.fault.where == "" || c.token == "" || done[c.token] {
			continue
		}
		a := c.fault.Answer
		a.Server, a.Path, a.Token = parts[c.fault.where], c.fault.where, c.token
		besides, done[c.token] = append(besides, a), true
	}
	if err := w.cf.Control(ctx, http.MethodPut, "/answers", append([]fakecf.Answer{}, besides...), nil); err != nil {
		t.Fatal(err)
	}
	w.state.Answers = besides
}

// counts is how often each outcome was.
type counts map[string]int

func (c counts) String() string {
	var text []string
	for _, name := range sorted(c) {
		text = append(text, fmt.Sprint(c[name], " ", name))
	}
	return strings.Join(text, ", ")
}
