package daemon

import (
	"fmt"
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Admin is what an operator sees of a running service, on a listener of its
// own.
type Admin struct {
	// Metrics is gathered for /metrics.
	Metrics prometheus.Gatherer
	// Ready returns nil when the service can do its work, else why not. It is
	// called concurrently.
	Ready func() error
	// Subscriptions and Sources answer with JSON who reads and who writes. Nil
	// means that the service has no such view.
	Subscriptions, Sources http.Handler
}

// NewRegistry returns a registry that already describes process and runtime.
func NewRegistry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}

// Handler serves /metrics, /health, /ready, /debug/pprof/ and, where there are
// such views, /subscriptions and /sources.
func (a Admin) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /health", Health)
	mux.Handle("GET /ready", ReadyHandler(a.Ready))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	paths := "/metrics /health /ready /debug/pprof/"
	if a.Subscriptions != nil {
		mux.Handle("GET /subscriptions", a.Subscriptions)
		paths += " /subscriptions"
	}
	if a.Sources != nil {
		mux.Handle("GET /sources", a.Sources)
		paths += " /sources"
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, fmt.Sprintf("nothing at %s; there is %s", r.URL.Path, paths), http.StatusNotFound)
	})
	return mux
}

// Health answers 200 "ok" as long as the process serves requests.
func Health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte("ok\n")) // a client that left needs no answer
}

// ReadyHandler answers 200 "ready", or 503 and why not.
func ReadyHandler(ready func() error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if err := ready(); err != nil {
			http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte("ready\n")) // a client that left needs no answer
	})
}
