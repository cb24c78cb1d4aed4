package demo

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// app is a web app behind a router.
type app struct {
	id        string
	instances int
	pages     []page
	share     float64 // of the requests

	// By instance: requests taken, and of these reported in a counter.
	requests, reported []uint64
}

// page is something people ask for.
type page struct {
	method, path string
	// typical is how long it usually takes; fails is how often it does not
	// work out.
	typical time.Duration
	fails   float64
	// log is what the app writes about a request that went well; err is what
	// it writes, line by line, about one that did not.
	log func(r *rand.Rand, took time.Duration) string
	err []string
}

func newApp(id string, instances int, pages []page, share float64) *app {
	return &app{id: id, instances: instances, pages: pages, share: share,
		requests: make([]uint64, instances), reported: make([]uint64, instances)}
}

// request is one request: the app's own lines, the router's access line and
// the timer.
func (a *app) request(r *rand.Rand, at time.Time) []*loggregatorv2.Envelope {
	p := a.pages[r.IntN(len(a.pages))]
	instance := r.IntN(a.instances)
	a.requests[instance]++
	took := time.Duration((0.5 + r.ExpFloat64()/2) * float64(p.typical))
	end, code := at.Add(took), 200
	var out []*loggregatorv2.Envelope
	if r.Float64() < p.fails {
		code = 500
		for i, line := range p.err {
			out = append(out, a.log(instance, "APP/PROC/WEB", loggregatorv2.Log_ERR, end.Add(time.Duration(i-len(p.err))*time.Microsecond), line))
		}
	} else {
		out = append(out, a.log(instance, "APP/PROC/WEB", loggregatorv2.Log_OUT, end.Add(-time.Microsecond), p.log(r, took)))
	}
	visit := newVisit(r, a, p, instance, code, at, took)
	return append(out, a.log(instance, "RTR", loggregatorv2.Log_OUT, end, visit.accessLine()), visit.timer())
}

func (a *app) log(instance int, sourceType string, kind loggregatorv2.Log_Type, at time.Time, text string) *loggregatorv2.Envelope {
	e := newEnvelope(a.id, instance, at)
	e.Tags["source_type"] = sourceType
	e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text), Type: kind}}
	return e
}

func (a *app) metrics(r *rand.Rand, at time.Time) []*loggregatorv2.Envelope {
	var out []*loggregatorv2.Envelope
	for i := range a.instances {
		counter := newEnvelope(a.id, i, at)
		counter.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{
			Name: "requests", Delta: a.requests[i] - a.reported[i], Total: a.requests[i],
		}}
		a.reported[i] = a.requests[i]
		out = append(out, container(r, a.id, i, 6, 256<<20, at), counter)
	}
	return out
}

// container is what a cell measures of one instance.
func container(r *rand.Rand, id string, instance int, cpu, memory float64, at time.Time) *loggregatorv2.Envelope {
	e := newEnvelope(id, instance, at)
	e.Tags["origin"] = "rep"
	e.Message = &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
		"cpu":          {Unit: "percentage", Value: cpu * (0.5 + r.Float64())},
		"memory":       {Unit: "bytes", Value: float64(int64(memory * (0.5 + 0.2*r.Float64())))},
		"memory_quota": {Unit: "bytes", Value: memory},
		"disk":         {Unit: "bytes", Value: float64(180<<20 + r.IntN(4<<20))},
		"disk_quota":   {Unit: "bytes", Value: 1 << 30},
	}}}
	return e
}

func newEnvelope(id string, instance int, at time.Time) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		Timestamp:  at.UnixNano(),
		SourceId:   id,
		InstanceId: strconv.Itoa(instance),
		Tags:       map[string]string{"app_name": id, "space_name": "dev", "organization_name": "demo"},
	}
}

// visit is a request as the router sees it.
type visit struct {
	app              *app
	page             page
	instance, code   int
	at               time.Time
	took             time.Duration
	size             int
	client, agent    string
	requestID, route string
}

func newVisit(r *rand.Rand, a *app, p page, instance, code int, at time.Time, took time.Duration) visit {
	return visit{
		app: a, page: p, instance: instance, code: code, at: at, took: took,
		size:      200 + r.IntN(20_000),
		client:    fmt.Sprintf("203.0.113.%d", 1+r.IntN(254)),
		agent:     agents[r.IntN(len(agents))],
		requestID: uuid(r),
		route:     a.id + ".example.com",
	}
}

// accessLine is in gorouter's format, but short enough for a terminal.
func (v visit) accessLine() string {
	return fmt.Sprintf(`%s - [%s] "%s %s HTTP/1.1" %d 0 %d "-" "%s" response_time:%.6f`,
		v.route, v.at.UTC().Format("15:04:05.000Z"), v.page.method, v.page.path, v.code, v.size, v.agent, v.took.Seconds())
}

func (v visit) timer() *loggregatorv2.Envelope {
	e := newEnvelope(v.app.id, v.instance, v.at.Add(v.took))
	for name, value := range map[string]string{
		"peer_type":      "Server",
		"method":         v.page.method,
		"uri":            "http://" + v.route + v.page.path,
		"status_code":    strconv.Itoa(v.code),
		"content_length": strconv.Itoa(v.size),
		"remote_address": v.client,
		"user_agent":     v.agent,
		"request_id":     v.requestID,
	} {
		e.Tags[name] = value
	}
	e.Message = &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{
		Name: "http", Start: v.at.UnixNano(), Stop: v.at.Add(v.took).UnixNano(),
	}}
	return e
}

func uuid(r *rand.Rand) string {
	return fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<12), r.IntN(1<<12), r.Int64N(1<<48))
}
