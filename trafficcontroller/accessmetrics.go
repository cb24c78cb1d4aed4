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

	decisions, calls, failed, took, hits, entries, held, ended, renewed, local, lines *prometheus.Desc
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
		held:      desc("access_held_tokens", "Tokens of streams that are open."),
		ended:     desc("access_ended_total", "Streams closed because their leave to read ended.", "reason"),
		renewed:   desc("access_renewals_total", "Tokens that clients sent in an open stream.", "result"),
		local:     desc("access_local_tokens_total", "Tokens looked at here, without asking UAA, by how that ended.", "result"),
		lines:     desc("security_log_lines_total", "Lines of the security log.", "result"),
	}
}

// Describe sends what can be collected.
func (c *accessCollector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.decisions, c.calls, c.failed, c.took, c.hits, c.entries, c.held, c.ended, c.renewed, c.local, c.lines} {
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
	for _, l := range s.Local {
		send(c.local, counter, float64(l.Count), l.Result)
	}
	send(c.hits, counter, float64(s.CacheHits))
	send(c.entries, gauge, float64(s.CacheEntries))
	held := c.auth.HoldStats()
	send(c.held, gauge, float64(held.Tokens))
	for _, why := range auth.Losses() {
		send(c.ended, counter, float64(held.Ended[why]), why.String())
	}
	send(c.renewed, counter, float64(held.Renewed), "accepted")
	send(c.renewed, counter, float64(held.NotTaken), "refused")
	var written, failed uint64
	if c.security != nil {
		written, failed = c.security.Stats()
	}
	send(c.lines, counter, float64(written), "written")
	send(c.lines, counter, float64(failed), "failed")
}
