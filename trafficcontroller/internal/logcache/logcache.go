// Package logcache serves what Log Cache serves over HTTP (protocol/04, section
// 7): reads of a source by time, what is held of each source, and PromQL. Where
// Log Cache's gateway and the proxy in front of it differ, it does as the proxy
// does, for that is whom clients meet.
//
// It holds nothing itself: every request asks the Dopplers.
package logcache

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Version is that of the Log Cache whose API this is. Clients take another path
// below 2.0.0, and leave name filters out below 2.1.0 (protocol/04, 06).
const Version = "3.2.10"

// Config is what New needs. Every field has to be set.
type Config struct {
	Access Access
	// History asks every Doppler for the history of a source, Held for what it
	// holds of all. Neither takes longer than one Doppler may.
	History func(ctx context.Context, source string, query url.Values) Answers
	Held    func(ctx context.Context) Answers
	// Encode appends an envelope as JSON.
	Encode func(dst []byte, e *loggregatorv2.Envelope) ([]byte, error)
	// Observe is told of every answer.
	Observe func(endpoint string, status int, took time.Duration)
	// Settle is how old an envelope has to be for a reader that goes forward:
	// those that arrive within it cannot come too late (see window).
	Settle               time.Duration
	MaxReads, MaxQueries int // at a time
}

// Access tells who may read what. Where it refuses it has answered.
type Access interface {
	// Source tells whether a request may read a source.
	Source(w http.ResponseWriter, r *http.Request, id string) bool
	// Meta returns which sources it may see.
	Meta(w http.ResponseWriter, r *http.Request) (visible func(id string) bool, ok bool)
	// Query tells whether it may query sources, and what to read for each:
	// itself, or the apps that have it for a name.
	Query(w http.ResponseWriter, r *http.Request, sources []string) (read map[string][]string, ok bool)
}

// Answers is what the Dopplers said.
type Answers struct {
	Bodies [][]byte // of those that answered, always in the same order
	Late   int      // connected, but without an answer in time
	Away   int      // not connected, so not asked
}

func (a Answers) dopplers() int { return len(a.Bodies) + a.Late + a.Away }

// MissingHeader says how many Dopplers an answer is without, if any:
// "1 of 3".
const MissingHeader = "Loggregator-Dopplers-Missing"

// say sets MissingHeader.
func (a Answers) say(h http.Header) {
	if n := a.Late + a.Away; n > 0 {
		h.Set(MissingHeader, fmt.Sprintf("%d of %d", n, a.dopplers()))
	}
}

// LogCache answers requests. It is an http.Handler.
type LogCache struct {
	cfg     Config
	log     *slog.Logger
	mux     *http.ServeMux
	started time.Time
	reads   gate
	queries gate
	engine  *promql.Engine
	page    int          // selectPage
	unsent  atomic.Int64 // bytes of answers that are being written
}

// New returns a LogCache.
func New(cfg Config, log *slog.Logger) *LogCache {
	c := &LogCache{
		cfg: cfg, log: log, mux: http.NewServeMux(), started: time.Now(),
		reads: newGate(cfg.MaxReads), queries: newGate(cfg.MaxQueries), engine: newEngine(), page: selectPage,
	}
	c.handle("/api/v1/info", "info", c.info)
	c.handle("/api/v1/meta", "meta", c.meta)
	c.handle("/api/v1/read/{source...}", "read", c.read)
	c.handle("/api/v1/query", "query", c.serveQuery(c.instant))
	c.handle("/api/v1/query_range", "query_range", c.serveQuery(c.ranged))
	c.mux.HandleFunc("/", c.noted("unknown", http.NotFound))
	return c
}

// ServeHTTP answers a request.
func (c *LogCache) ServeHTTP(w http.ResponseWriter, r *http.Request) { c.mux.ServeHTTP(w, r) }

// handle serves a path to GET and HEAD. Clients of Prometheus try POST first,
// and take 405 as the sign to try GET.
func (c *LogCache) handle(path, endpoint string, serve http.HandlerFunc) {
	c.mux.HandleFunc(path, c.noted(endpoint, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			failure{http.StatusMethodNotAllowed, unimplemented, "Method Not Allowed"}.answer(w)
			return
		}
		serve(w, r)
	}))
}

// noted tells Observe of every answer.
func (c *LogCache) noted(endpoint string, serve http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		noted := &noter{ResponseWriter: w, status: http.StatusOK}
		began := time.Now()
		serve(noted, r)
		c.cfg.Observe(endpoint, noted.status, time.Since(began))
	}
}

// noter notes the status of an answer.
type noter struct {
	http.ResponseWriter
	status int
}

func (n *noter) WriteHeader(status int) {
	n.status = status
	n.ResponseWriter.WriteHeader(status)
}

// Unwrap is for http.ResponseController.
func (n *noter) Unwrap() http.ResponseWriter { return n.ResponseWriter }

// Codes of gRPC, which Log Cache's errors carry.
const (
	unknown         = 2
	invalidArgument = 3
	exhausted       = 8
	unimplemented   = 12
	unavailable     = 14
)

// failure is an answer that is an error, as Log Cache's gateway words it.
type failure struct {
	status, code int
	message      string
}

func badArgument(format string, args ...any) *failure {
	return &failure{http.StatusBadRequest, invalidArgument, fmt.Sprintf(format, args...)}
}

// badRequest is what the cache itself, behind the gateway, did not take. It
// makes a 500 of it, which clients know.
func badRequest(format string, args ...any) *failure {
	return &failure{http.StatusInternalServerError, unknown, fmt.Sprintf(format, args...)}
}

func (f failure) answer(w http.ResponseWriter) {
	if f.status == http.StatusTooManyRequests || f.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "1")
	}
	answerJSON(w, f.status, "application/json", struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
		Details []any  `json:"details"`
	}{f.code, f.message, []any{}})
}

// answerJSON answers with v and a line feed.
func answerJSON(w http.ResponseWriter, status int, contentType string, v any) {
	body, err := appendText(nil, v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, status, contentType, append(body, '\n'))
}

func answer(w http.ResponseWriter, status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // the client may be gone
}

// Answers wait for their clients outside of the gates: one that takes nothing
// keeps nobody out. It has so long, and all of them have so many bytes. Refusals
// have the time that every answer has.
const (
	sendTimeout = 30 * time.Second
	maxUnsent   = 256 << 20
)

// send answers with a body, unless too many bytes wait already.
func (c *LogCache) send(w http.ResponseWriter, contentType string, body []byte) bool {
	n := int64(len(body))
	defer c.unsent.Add(-n)
	if c.unsent.Add(n) > maxUnsent {
		return false
	}
	// net/http sends the end of the body later, and takes the deadline off then. A
	// recorder in a test has none.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(sendTimeout))
	answer(w, http.StatusOK, contentType, body)
	return true
}

// grpcHeader is on every answer that came through the gateway from the cache.
func grpcHeader(h http.Header) { h.Set("Grpc-Metadata-Content-Type", "application/grpc") }

const plain = "text/plain; charset=utf-8"

// info says which version this is; nobody needs a token for it. Uptime is that
// of this process.
func (c *LogCache) info(w http.ResponseWriter, _ *http.Request) {
	answerJSON(w, http.StatusOK, plain, struct {
		Version  string `json:"version"`
		VMUptime string `json:"vm_uptime"`
	}{Version, strconv.FormatInt(int64(time.Since(c.started).Seconds()), 10)})
}

// gate lets in so many at a time; others wait a little.
type gate struct {
	slots chan struct{}
}

func newGate(n int) gate { return gate{make(chan struct{}, n)} }

// patience is how long a request may wait to be let in. The clients of
// go-log-cache wait 5 s for their answer.
const patience = time.Second

// enter tells whether a request may go on; leave has to follow then.
func (g gate) enter(ctx context.Context) bool {
	select {
	case g.slots <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case g.slots <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (g gate) leave() { <-g.slots }

func (g gate) size() int { return cap(g.slots) }

// tooMany refuses what is over a limit. The cf CLI asks for half as much after
// a 429.
func tooMany(limit int, what string) *failure {
	return &failure{http.StatusTooManyRequests, exhausted, fmt.Sprintf("%d %s, which is the limit", limit, what)}
}

type buffer []byte

func (b *buffer) Write(p []byte) (int, error) {
	*b = append(*b, p...)
	return len(p), nil
}
