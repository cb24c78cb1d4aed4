package trafficcontroller

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/gateway"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/logcache"
)

// buildLogCache serves Log Cache's API from the history of all Dopplers.
func (t *TrafficController) buildLogCache() http.Handler {
	return logcache.New(logcache.Config{
		Access: logCacheAccess{t.access.Auth}, Encode: gateway.AppendJSON, Observe: t.cacheMetrics.observe,
		History: func(ctx context.Context, source string, query url.Values) logcache.Answers {
			return t.cacheMetrics.answers(t.gather(ctx, true, source, func(ctx context.Context, addr string) ([]byte, error) {
				return t.dialer.History(ctx, addr, source, query)
			}))
		},
		Held: func(ctx context.Context) logcache.Answers {
			return t.cacheMetrics.answers(t.gather(ctx, true, "", t.dialer.Held))
		},
		Settle: t.cfg.LogCacheSettle, MaxReads: t.cfg.LogCacheReads, MaxQueries: t.cfg.LogCacheQueries,
	}, t.log)
}

// logCacheAccess answers what auth refuses.
type logCacheAccess struct{ auth *auth.Auth }

// Source tells whether a request may read a source.
func (a logCacheAccess) Source(w http.ResponseWriter, r *http.Request, id string) bool {
	return decided(w, a.auth.LogCache(r.Context(), r, id))
}

// Meta returns which sources a request may see.
func (a logCacheAccess) Meta(w http.ResponseWriter, r *http.Request) (visible func(string) bool, ok bool) {
	d, seen := a.auth.LogCacheMeta(r.Context(), r)
	return seen.Has, decided(w, d)
}

// Query tells whether a request may query sources, and what to read for each.
func (a logCacheAccess) Query(w http.ResponseWriter, r *http.Request, sources []string) (read map[string][]string, ok bool) {
	d, read := a.auth.LogCacheQuery(r.Context(), r, sources)
	return read, decided(w, d)
}

// cacheMetrics shows how Log Cache's API is used.
type cacheMetrics struct {
	requests *prometheus.HistogramVec
	missing  *prometheus.CounterVec
}

func newCacheMetrics() *cacheMetrics {
	m := &cacheMetrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "trafficcontroller_log_cache_request_seconds", Help: "How long requests to Log Cache's API took, by endpoint and status.",
			Buckets: prometheus.ExponentialBuckets(0.001, 4, 8),
		}, []string{"endpoint", "code"}),
		missing: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficcontroller_log_cache_missing_total", Help: "Answers of Dopplers that such a request went without.",
		}, []string{"reason"}),
	}
	m.requests.WithLabelValues("read", "200")
	m.answers(gathered{})
	return m
}

func (m *cacheMetrics) observe(endpoint string, status int, took time.Duration) {
	m.requests.WithLabelValues(endpoint, strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *cacheMetrics) answers(g gathered) logcache.Answers {
	m.missing.WithLabelValues("late").Add(float64(g.late))
	m.missing.WithLabelValues("away").Add(float64(g.away))
	return logcache.Answers{Bodies: g.bodies, Late: g.late, Away: g.away}
}
