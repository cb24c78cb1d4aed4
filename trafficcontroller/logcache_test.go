package trafficcontroller

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/logcache"
)

// Log Cache's API over the Dopplers there are, and over those that are left.
func TestLogCache(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	security := filepath.Join(t.TempDir(), "security.log")
	r := start(t, func(c *Config) { c.LogCacheSettle, c.SecurityLog = 0, security }, a, b)
	for i := range 4 {
		[]*dopplertest.Server{a, b}[i%2].With(func(d *dopplertest.Doppler) {
			d.Append("app", "", string(rune('w'+i)), int64(i+1))
		})
	}
	if got := r.get("/api/v1/info"); got.code != http.StatusOK || !strings.Contains(got.body, logcache.Version) {
		t.Errorf("info: %+v", got)
	}
	whole := r.get("/api/v1/read/app")
	for i, id := range []string{"w", "x", "y", "z"} {
		if parts := strings.Split(whole.body, `"instance_id":"`); len(parts) != 5 || !strings.HasPrefix(parts[i+1], id) {
			t.Fatalf("read: %+v", whole)
		}
	}
	meta := r.get("/api/v1/meta")
	if want := `{"meta":{"app":{"count":"4","oldestTimestamp":"1","newestTimestamp":"4"}}}` + "\n"; meta.body != want || meta.header.Get(logcache.LimitsHeader) == "" {
		t.Errorf("meta: %+v", meta)
	}

	if lines, err := os.ReadFile(security); err != nil || !strings.Contains(string(lines), "|GET /api/v1/read/app|") {
		t.Errorf("%v: the security log has %s", err, lines)
	}

	b.Stop(false)
	eventually(t, "one Doppler is left", func() bool { return r.tc.links.Up() == 1 })
	rest := r.get("/api/v1/read/app")
	if strings.Count(rest.body, "instance_id") != 2 || rest.header.Get(logcache.MissingHeader) != "1 of 2" {
		t.Errorf("read what is left: %+v", rest)
	}
	admin := get(t, "http://"+r.tc.AdminAddr()+"/metrics").body
	for _, line := range []string{
		`trafficcontroller_log_cache_request_seconds_count{code="200",endpoint="read"} 2`,
		`trafficcontroller_log_cache_missing_total{reason="away"} 1`,
	} {
		if !strings.Contains(admin, line) {
			t.Errorf("no metric %s", line)
		}
	}
}

// A Doppler that is connected and does not answer makes a reader that goes
// forward come again; the newest are shown without it.
func TestLogCacheWithoutAnAnswer(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, func(c *Config) { c.GatherTimeout = 100 * time.Millisecond }, a, b)
	a.Emit("app", "x", 1)
	release, stuck := make(chan struct{}), make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.With(func(*dopplertest.Doppler) { close(stuck); <-release })
	}()
	<-stuck
	forward, backward := r.get("/api/v1/read/app"), r.get("/api/v1/read/app?descending=true")
	close(release)
	<-done
	if n := r.logs.count("history could not be read"); n != 1 {
		t.Errorf("%d lines in the log of 2 reads that failed", n)
	}
	if forward.code != http.StatusServiceUnavailable || forward.header.Get("Retry-After") == "" {
		t.Errorf("forward: %+v", forward)
	}
	if backward.code != http.StatusOK || strings.Count(backward.body, "instance_id") != 1 || backward.header.Get(logcache.MissingHeader) != "1 of 2" {
		t.Errorf("backward: %+v", backward)
	}
}

// PromQL over all Dopplers.
func TestLogCacheQuery(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	now := time.Now().UnixNano()
	a.With(func(d *dopplertest.Doppler) { d.Append("app", "requests", "0", now-1) })
	b.With(func(d *dopplertest.Doppler) { d.Append("app", "requests", "1", now-2) })
	got := r.get(`/api/v1/query?query=count(requests{source_id="app"})&time=` + strconv.FormatInt(now/1e9+1, 10))
	if got.code != http.StatusOK || !strings.Contains(got.body, `,"2"]`) {
		t.Errorf("%+v", got)
	}
}
