package logcache

import (
	"context"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"
)

// answering has Dopplers that remember their answers: it is the Traffic
// Controller's part that is measured.
func answering(s *stage) {
	known, ask := map[string]Answers{}, s.cfg.History
	s.cfg.History = func(ctx context.Context, source string, q url.Values) Answers {
		q.Set("end", strconv.FormatInt(math.MaxInt64, 10)) // which is now otherwise
		key := q.Encode()
		a, ok := known[key]
		if !ok {
			a = ask(ctx, source, q)
			known[key] = a
		}
		return a
	}
	s.cfg.Observe = func(string, int, time.Duration) {}
}

// cf logs --recent: 1000 lines of 4 Dopplers, of 500 bytes encoded.
func BenchmarkRecent(b *testing.B) {
	s := newStage(b, 4)
	for i := range 4000 {
		e := logAt("app", int64(i), strings.Repeat("x", 250))
		e.InstanceId = "0"
		e.Tags = map[string]string{"deployment": "cf", "job": "diego-cell", "index": "7d2c4c5e-1f1c-4f0e-9a56-3c7c8f6f5b1a", "ip": "10.0.1.7", "source_type": "APP/PROC/WEB", "space_name": "space", "organization_name": "org", "app_name": "app"}
		s.take(b, i%4, e)
	}
	answering(s)
	for b.Loop() {
		if w := s.get("/api/v1/read/app?descending=true&limit=1000"); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/envelope")
}

// The rate of 20,000 counters of 20 series.
func BenchmarkQuery(b *testing.B) {
	s := newStage(b, 1)
	for i := range 20_000 {
		e := counterAt("app", at(float64(i)/200), "requests", uint64(i))
		e.Tags = map[string]string{"deployment": "cf", "job": "router", "index": string(rune('a' + i%20))}
		s.take(b, 0, e)
	}
	answering(s)
	b.ReportAllocs()
	for b.Loop() {
		if w := s.ask(`sum by (job) (rate(requests{source_id="app"}[2m]))`, 100); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/20_000, "ns/envelope")
}
