package trafficcontroller

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/trafficcontroller/internal/accesslog"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth"
)

// accessCollector shows what access control decides and costs.
type accessCollector struct {
	auth     *auth.Auth
	security *accesslog.Log // nil for none

	decisions, calls, failed, took, hits, entries, lines *prometheus.Desc
}

func newAccessCollector(a *auth.Auth, security *accesslog.Log) *accessCollector {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("trafficcontroller_"+name, help, labels, nil)
	}
	return &accessCollector{
		auth: a, security: security,
		decisions: desc("access_decisions_total", "Requests decided about, by what they asked for and why.", "surface", "reason"),
		calls:     desc("access_calls_total", "Questions to UAA and Cloud Controller.", "call"),
		failed:    desc("access_calls_failed_total", "Those of them without a clear answer.", "call"),
		took:      desc("access_call_last_seconds", "How long the last of them took.", "call"),
		hits:      desc("access_cache_hits_total", "Answers that did not have to be asked for again."),
		entries:   desc("access_cache_entries", "Answers held, limited by --access-cache-entries."),
		lines:     desc("security_log_lines_total", "Lines of the security log.", "result"),
	}
}

// Describe sends what can be collected.
func (c *accessCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.decisions, c.calls, c.failed, c.took, c.hits, c.entries, c.lines} {
		to <- d
	}
}

// Collect sends the present values.
func (c *accessCollector) Collect(to chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, typ prometheus.ValueType, value float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, typ, value, labels...)
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	s := c.auth.Stats()
	for _, d := range s.Decisions {
		send(c.decisions, counter, float64(d.Count), d.Surface.String(), d.Reason.String())
	}
	for _, call := range s.Calls {
		send(c.calls, counter, float64(call.Count), call.Call.String())
		send(c.failed, counter, float64(call.Failed), call.Call.String())
		send(c.took, gauge, call.Last.Seconds(), call.Call.String())
	}
	send(c.hits, counter, float64(s.CacheHits))
	send(c.entries, gauge, float64(s.CacheEntries))
	var written, failed uint64
	if c.security != nil {
		written, failed = c.security.Stats()
	}
	send(c.lines, counter, float64(written), "written")
	send(c.lines, counter, float64(failed), "failed")
}
