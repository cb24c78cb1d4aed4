package trafficcontroller

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/internal/slow"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/fanout"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/relay"
)

// snapshot is every counter of the Traffic Controller at about one moment.
type snapshot struct {
	relay      relay.Stats
	hub        fanout.Stats
	tailSent   uint64
	cut        uint64
	slow       map[string]int // readers, by class
	links      int
	open       int
	tailsBytes int64
}

func (t *TrafficController) snapshot() snapshot {
	s := snapshot{relay: t.relay.Stats(), hub: t.hub.Stats(), links: t.links.Up(), open: t.api.Open(), cut: t.readers.cut(), slow: map[string]int{}}
	s.tailSent = t.tails.egress.Load()
	for _, row := range t.hub.Rows() {
		s.tailSent += row.Sent
		if row.Slow {
			s.slow[row.Options.Who.Class]++
		}
	}
	for _, row := range t.relay.Rows() {
		if row.Slow {
			s.slow[row.Options.Who.Class]++
		}
	}
	s.tailsBytes = s.hub.Bytes
	return s
}

// collector turns counters into Prometheus metrics when they are asked for.
type collector struct {
	t       *TrafficController
	metrics []metric
}

type metric struct {
	desc  *prometheus.Desc
	typ   prometheus.ValueType
	value func(*snapshot) float64
}

func newCollector(t *TrafficController) *collector {
	c := &collector{t: t}
	add := func(typ prometheus.ValueType, name, help string, labels prometheus.Labels, value func(*snapshot) float64) {
		c.metrics = append(c.metrics, metric{prometheus.NewDesc("trafficcontroller_"+name, help, nil, labels), typ, value})
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	add(counter, "ingress_envelopes_total", "Envelopes received from Dopplers.", prometheus.Labels{"stream": "firehose"},
		func(s *snapshot) float64 { return float64(s.relay.Received) })
	add(counter, "ingress_envelopes_total", "Envelopes received from Dopplers.", prometheus.Labels{"stream": "tails"},
		func(s *snapshot) float64 { return float64(s.hub.Received) })
	add(counter, "egress_envelopes_total", "Envelopes written to clients.", prometheus.Labels{"endpoint": "firehose"},
		func(s *snapshot) float64 { return float64(s.relay.Sent) })
	add(counter, "egress_envelopes_total", "Envelopes written to clients.", prometheus.Labels{"endpoint": "stream"},
		func(s *snapshot) float64 { return float64(s.tailSent) })
	add(counter, "dropped_envelopes_total", "Envelopes that slow tails were told they miss.", prometheus.Labels{"endpoint": "stream"},
		func(s *snapshot) float64 { return float64(s.hub.Dropped) })
	for of := range numClasses {
		for _, why := range []slow.Cut{slow.Lagging, slow.Stuck} {
			add(counter, "slow_consumers_total", "Clients cut because they were slow, by class and by reason.",
				prometheus.Labels{"class": of.String(), "reason": why.String()},
				func(*snapshot) float64 { return float64(t.readers.cuts[of][why].Load()) })
		}
		add(gauge, "slow_readers", "Open streams that are slow, by class.", prometheus.Labels{"class": of.String()},
			func(s *snapshot) float64 { return float64(s.slow[of.String()]) })
	}
	add(gauge, "firehoses", "Open Firehose connections.", nil,
		func(s *snapshot) float64 { return float64(s.relay.Clients) })
	add(gauge, "app_streams", "Open tails.", nil,
		func(s *snapshot) float64 { return float64(s.hub.Tails) })
	add(gauge, "connections", "Open streams, limited by --max-connections.", nil,
		func(s *snapshot) float64 { return float64(s.open) })
	add(gauge, "watched_sources", "Sources that have a tail.", nil,
		func(s *snapshot) float64 { return float64(s.hub.Sources) })
	add(gauge, "tails_queue_bytes", "What waits for all tails, limited by --tails-queue-bytes.", nil,
		func(s *snapshot) float64 { return float64(s.tailsBytes) })
	add(gauge, "dopplers", "Dopplers connected.", nil,
		func(s *snapshot) float64 { return float64(s.links) })
	return c
}

// Describe sends what can be collected.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		to <- m.desc
	}
}

// Collect sends the present values.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.t.snapshot()
	for _, m := range c.metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.typ, m.value(&s))
	}
}
