package pump

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// metrics are what an operator sees of a Pump.
type metrics struct {
	received, bytes, redelivered, acked, sinkErrors prometheus.Counter
	gaps, missed                                    *prometheus.CounterVec
	writes                                          prometheus.Histogram
}

const namespace = "firehose_nozzle"

func newMetrics(r prometheus.Registerer, s Stream) *metrics {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
		r.MustRegister(c)
		return c
	}
	m := &metrics{
		received:    counter("received_envelopes_total", "Envelopes received, redelivered ones included."),
		bytes:       counter("received_bytes_total", "Bytes of envelopes received."),
		redelivered: counter("redelivered_envelopes_total", "Envelopes received in batches that were delivered before, in part at least."),
		acked:       counter("acked_envelopes_total", "Envelopes the sink has taken."),
		sinkErrors:  counter("sink_errors_total", "Writes the sink has refused; each is repeated."),
		gaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "gaps_total", Help: "Gaps told by the Firehose.",
		}, []string{"reason"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "missed_envelopes_total", Help: "Envelopes in gaps whose size is known.",
		}, []string{"reason"}),
		writes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "sink_write_seconds", Help: "Time of successful writes.",
			Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9),
		}),
	}
	// A reason that has not occurred is 0 and not absent.
	for number := range streampb.Gap_Reason_name {
		g := &streampb.Gap{Reason: streampb.Gap_Reason(number)}
		m.gaps.WithLabelValues(reason(g))
		m.missed.WithLabelValues(reason(g))
	}
	r.MustRegister(m.gaps, m.missed, m.writes)
	m.observe(r, s)
	return m
}

// observe registers what the stream itself knows.
func (m *metrics) observe(r prometheus.Registerer, s Stream) {
	gauge := func(name, help string, value func() float64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, value))
	}
	gauge("connected", "1 while there is a connection to the Firehose.", func() float64 {
		if s.Status().Connected {
			return 1
		}
		return 0
	})
	gauge("lag_envelopes", "Envelopes of the subscription that were not sent yet, as of the last heartbeat.", func() float64 {
		return float64(s.Status().Heartbeat.GetLag())
	})
	gauge("unacked_batches", "Batches received and not acked.", func() float64 { return float64(s.Status().Unacked) })
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Namespace: namespace, Name: "connects_total", Help: "Connections that came about.",
	}, func() float64 { return float64(s.Status().Connects) }))
}

// gap counts a gap.
func (m *metrics) gap(g *streampb.Gap) {
	m.gaps.WithLabelValues(reason(g)).Inc()
	m.missed.WithLabelValues(reason(g)).Add(float64(g.GetCount()))
}

// reason names a reason as lines do.
func reason(g *streampb.Gap) string {
	if g.GetReason() == streampb.Gap_REASON_UNSPECIFIED {
		return "unspecified"
	}
	return strings.ToLower(g.GetReason().String())
}
