package daemon

import (
	"bufio"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

// Refusals counts the requests that a service does not serve, by path and
// status. What net/http refuses before there is a request, such as endless
// headers, it cannot see.
type Refusals struct{ count *prometheus.CounterVec }

// NewRefusals returns a counter that is called prefix_http_refused_total.
func NewRefusals(prefix string) *Refusals {
	return &Refusals{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: prefix + "_http_refused_total", Help: "Requests answered with a status of 400 or more.",
	}, []string{"path", "code"})}
}

// Collector is what to register.
func (r *Refusals) Collector() prometheus.Collector { return r.count }

// Wrap counts what next refuses. Paths are patterns of the http.ServeMux that
// serves next, so there are no more than it has.
func (r *Refusals) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		seen := &statusWriter{ResponseWriter: w}
		next.ServeHTTP(seen, req)
		if seen.status >= http.StatusBadRequest {
			r.count.WithLabelValues(pathOf(req.Pattern), strconv.Itoa(seen.status)).Inc()
		}
	})
}

// pathOf is a pattern without its method.
func pathOf(pattern string) string {
	if _, path, ok := strings.Cut(pattern, " "); ok {
		pattern = path
	}
	if pattern == "" || pattern == "/" {
		return "other"
	}
	return pattern
}

// statusWriter remembers the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Hijack is for WebSocket libraries that do not unwrap.
func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

// Flush is likewise for those who ask for a http.Flusher.
func (w *statusWriter) Flush() { _ = http.NewResponseController(w.ResponseWriter).Flush() }

// FlushError is for http.ResponseController.
func (w *statusWriter) FlushError() error {
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
