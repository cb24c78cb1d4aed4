package trafficcontroller

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/trafficcontroller/internal/edge"
)

// What the edge shows.
var (
	edgeRefused = prometheus.NewDesc("trafficcontroller_edge_refused_total", "Connections closed and requests refused before anything was decided about them.", []string{"reason"}, nil)
	edgePending = prometheus.NewDesc("trafficcontroller_pending_connections", "Connections without a request in progress, limited by --max-pending.", nil, nil)
)

// edgeCollector shows whom the edge keeps out.
type edgeCollector struct{ edge *edge.Edge }

// Describe sends what can be collected.
func (c edgeCollector) Describe(to chan<- *prometheus.Desc) {
	to <- edgeRefused
	to <- edgePending
}

// Collect sends the present values.
func (c edgeCollector) Collect(to chan<- prometheus.Metric) {
	for why, n := range c.edge.Refused() {
		to <- prometheus.MustNewConstMetric(edgeRefused, prometheus.CounterValue, float64(n), why.String())
	}
	to <- prometheus.MustNewConstMetric(edgePending, prometheus.GaugeValue, float64(c.edge.PendingNow()))
}
