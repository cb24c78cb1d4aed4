package demo

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

var agents = [...]string{"Mozilla/5.0", "curl/8.14.1", "okhttp/5.1.0", "Go-http-client/2.0"}

// shopPages are those of a web shop that logs in sentences.
var shopPages = []page{
	{method: "GET", path: "/", typical: 15 * time.Millisecond, log: completed},
	{method: "GET", path: "/products/17", typical: 40 * time.Millisecond, log: completed},
	{method: "GET", path: "/search?q=lamp", typical: 90 * time.Millisecond, log: func(r *rand.Rand, took time.Duration) string {
		return fmt.Sprintf("search q=\"lamp\" hits=%d in %dms", r.IntN(60), took.Milliseconds())
	}},
	{method: "POST", path: "/cart", typical: 30 * time.Millisecond, log: func(r *rand.Rand, _ time.Duration) string {
		return fmt.Sprintf("cart %04x now has %d items", r.IntN(1<<16), 1+r.IntN(9))
	}},
	{method: "POST", path: "/checkout", typical: 220 * time.Millisecond, fails: 0.15, log: func(r *rand.Rand, took time.Duration) string {
		return fmt.Sprintf("order %d placed, %d.%02d EUR, took %dms", 10_000+r.IntN(90_000), 5+r.IntN(200), r.IntN(100), took.Milliseconds())
	}, err: []string{
		"java.net.SocketTimeoutException: payment.internal:8443 did not answer within 200 ms",
		"\tat com.example.shop.payment.Client.charge(Client.java:118)",
		"\tat com.example.shop.checkout.Checkout.place(Checkout.java:64)",
		"\tat com.example.shop.web.CheckoutController.post(CheckoutController.java:41)",
		"Caused by: java.io.IOException: connection pool exhausted (20 of 20 in use)",
		"\t... 12 more",
	}},
}

// apiCalls are those of a service that logs JSON.
var apiCalls = []page{
	{method: "GET", path: "/v1/stock/17", typical: 4 * time.Millisecond, log: func(r *rand.Rand, took time.Duration) string {
		return fmt.Sprintf(`{"level":"info","msg":"stock read","sku":%d,"left":%d,"ms":%d}`, r.IntN(500), r.IntN(80), took.Milliseconds())
	}},
	{method: "PUT", path: "/v1/stock/17", typical: 9 * time.Millisecond, log: func(r *rand.Rand, took time.Duration) string {
		return fmt.Sprintf(`{"level":"info","msg":"stock written","sku":%d,"delta":-%d,"ms":%d}`, r.IntN(500), 1+r.IntN(3), took.Milliseconds())
	}},
	{method: "GET", path: "/v1/prices", typical: 25 * time.Millisecond, fails: 0.05, log: func(r *rand.Rand, took time.Duration) string {
		return fmt.Sprintf(`{"level":"info","msg":"prices read","rows":%d,"ms":%d}`, 100+r.IntN(400), took.Milliseconds())
	}, err: []string{
		`{"level":"error","msg":"prices unavailable","error":"read tcp 10.0.4.7:5432: connection reset by peer"}`,
	}},
}

func completed(r *rand.Rand, took time.Duration) string {
	return fmt.Sprintf("Completed 200 OK in %dms (views: %.1fms, db: %.1fms)", took.Milliseconds(), 2+8*r.Float64(), 1+4*r.Float64())
}

// worker takes jobs from a queue, one after the other. Now and then it needs
// too much memory and is killed.
type worker struct {
	id     string
	job    int
	done   uint64
	memory float64 // of 1, of what it may have
	next   time.Time
}

func newWorker(id string) *worker { return &worker{id: id, job: 4700, memory: 0.4} }

func (w *worker) advance(r *rand.Rand, from, to time.Time) []*loggregatorv2.Envelope {
	if w.next.IsZero() {
		w.next = from
	}
	var out []*loggregatorv2.Envelope
	for ; !w.next.After(to); w.next = w.next.Add(time.Duration((1 + 3*r.Float64()) * float64(time.Second))) {
		if w.memory > 1 {
			out = append(out, w.crash(w.next)...)
			continue
		}
		w.job++
		w.done++
		w.memory += 0.01
		out = append(out, w.log("APP/PROC/WORKER", loggregatorv2.Log_OUT, w.next, w.report(r)))
	}
	return out
}

func (w *worker) report(r *rand.Rand) string {
	kinds := [...]string{"invoice.render", "mail.send", "image.resize"}
	return fmt.Sprintf("job %d %s done in %dms, queue %d", w.job, kinds[r.IntN(len(kinds))], 40+r.IntN(900), r.IntN(30))
}

// crash is what the platform says when an instance dies and comes back.
func (w *worker) crash(at time.Time) []*loggregatorv2.Envelope {
	w.memory = 0.4
	event := newEnvelope(w.id, 0, at.Add(2*time.Millisecond))
	event.Message = &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{
		Title: "crash", Body: "worker/0 exited with status 137 (out of memory)",
	}}
	return []*loggregatorv2.Envelope{
		w.log("APP/PROC/WORKER", loggregatorv2.Log_ERR, at, "fatal: cannot allocate 16777216 bytes"),
		w.log("APP/PROC/WORKER", loggregatorv2.Log_OUT, at.Add(time.Millisecond), "Exit status 137 (out of memory)"),
		event,
		w.log("CELL", loggregatorv2.Log_OUT, at.Add(300*time.Millisecond), "Cell 7f3c creating container for instance worker/0"),
		w.log("CELL", loggregatorv2.Log_OUT, at.Add(900*time.Millisecond), "Cell 7f3c successfully created container for instance worker/0"),
	}
}

func (w *worker) log(sourceType string, kind loggregatorv2.Log_Type, at time.Time, text string) *loggregatorv2.Envelope {
	e := newEnvelope(w.id, 0, at)
	e.Tags["source_type"] = sourceType
	e.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text), Type: kind}}
	return e
}

func (w *worker) metrics(r *rand.Rand, at time.Time) *loggregatorv2.Envelope {
	e := container(r, w.id, 0, 30, 512<<20, at)
	e.GetGauge().Metrics["memory"].Value = float64(int64(w.memory * (512 << 20)))
	return e
}
