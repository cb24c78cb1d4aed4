package canary

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

const namespace = "lgr_canary"

// NewLatency returns the histogram of how long envelopes are under way.
func NewLatency(r prometheus.Registerer) *prometheus.HistogramVec {
	h := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Namespace: namespace, Name: "latency_seconds", Help: "Time from making an envelope to receiving it.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18),
	}, []string{"path"})
	for _, p := range Paths() {
		h.WithLabelValues(p.String())
	}
	r.MustRegister(h)
	return h
}

// exporter exports a Book.
type exporter struct {
	book   *Book
	status func(Path) nozzle.Status

	emitted, confirmed, resent, up *prometheus.Desc // by doppler

	numbers             []number
	duplicates          *prometheus.Desc
	gaps, missed        *prometheus.Desc
	connected, connects *prometheus.Desc
}

// number is one that each path has.
type number struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*PathReport) float64
}

// Export registers the metrics of a Book. status tells of the stream of a path.
func Export(r prometheus.Registerer, book *Book, status func(Path) nozzle.Status) {
	r.MustRegister(newExporter(book, status))
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
}

func newExporter(book *Book, status func(Path) nozzle.Status) *exporter {
	e := &exporter{
		book: book, status: status,
		emitted:    desc("emitted_envelopes_total", "Envelopes sent.", "doppler"),
		confirmed:  desc("confirmed_envelopes_total", "Envelopes that the Doppler has confirmed.", "doppler"),
		resent:     desc("resent_envelopes_total", "Envelopes sent again, because the connection broke before they were confirmed.", "doppler"),
		up:         desc("doppler_connected", "1 while the Doppler takes envelopes.", "doppler"),
		duplicates: desc("duplicate_envelopes_total", "Envelopes received again: unmarked, redelivered (marked so) or resent (sent twice by the canary).", "path", "kind"),
		gaps:       desc("gaps_total", "Gaps told.", "path", "reason", "precision"),
		missed:     desc("missed_envelopes_total", "Envelopes in gaps whose size is known.", "path", "reason", "precision"),
		connected:  desc("connected", "1 while there is a connection to the Traffic Controller.", "path"),
		connects:   desc("connects_total", "Connections to the Traffic Controller that came about.", "path"),
	}
	add := func(kind prometheus.ValueType, name, help string, of func(*PathReport) float64) {
		e.numbers = append(e.numbers, number{desc(name, help, "path"), kind, of})
	}
	counter := func(name, help string, of func(*PathReport) uint64) {
		add(prometheus.CounterValue, name, help, func(r *PathReport) float64 { return float64(of(r)) })
	}
	gauge := func(name, help string, of func(*PathReport) uint64) {
		add(prometheus.GaugeValue, name, help, func(r *PathReport) float64 { return float64(of(r)) })
	}
	counter("received_envelopes_total", "Envelopes received, each counted once.", func(r *PathReport) uint64 { return r.Received })
	counter("lost_envelopes_total", "Envelopes that did not come in time; late ones are among them.", func(r *PathReport) uint64 { return r.Lost + r.Late })
	counter("late_envelopes_total", "Lost envelopes that came after all.", func(r *PathReport) uint64 { return r.Late })
	gauge("unconfirmed_envelopes", "Envelopes given up because the Doppler neither confirmed nor delivered them.", func(r *PathReport) uint64 { return r.Given })
	counter("out_of_order_envelopes_total", "Envelopes behind a later one of the same life of the same Doppler.", func(r *PathReport) uint64 { return r.OutOfOrder })
	counter("corrupt_envelopes_total", "Envelopes that are not as they were made.", func(r *PathReport) uint64 { return r.Corrupt + r.Strange })
	counter("foreign_envelopes_total", "Envelopes of other canaries with the same source.", func(r *PathReport) uint64 { return r.Foreign })
	counter("forgotten_envelopes_total", "Envelopes that came so late that nobody knows what they were.", func(r *PathReport) uint64 { return r.Forgotten })
	gauge("outstanding_envelopes", "Envelopes sent and not yet received or lost.", func(r *PathReport) uint64 { return r.Outstanding })
	add(prometheus.GaugeValue, "oldest_outstanding_seconds", "How long ago the oldest outstanding envelope was sent.", func(r *PathReport) float64 { return r.Oldest.Seconds() })
	gauge("unexplained_envelopes", "Lost envelopes that no gap stands for. Has to be 0.", func(r *PathReport) uint64 { return r.Unexplained })
	return e
}

// Describe implements prometheus.Collector.
func (e *exporter) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		e.emitted, e.confirmed, e.resent, e.up, e.duplicates, e.gaps, e.missed, e.connected, e.connects,
	} {
		out <- d
	}
	for _, n := range e.numbers {
		out <- n.desc
	}
}

// Collect implements prometheus.Collector.
func (e *exporter) Collect(out chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	flag := func(d *prometheus.Desc, on bool, label string) {
		v := 0.0
		if on {
			v = 1
		}
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
	}
	for _, l := range e.book.Lanes() {
		counter(e.emitted, l.Emitted, l.Addr)
		counter(e.confirmed, l.Confirmed, l.Addr)
		counter(e.resent, l.Resent, l.Addr)
		flag(e.up, l.Up, l.Addr)
	}
	for _, p := range Paths() {
		r, name := e.book.Path(p), p.String()
		for _, n := range e.numbers {
			out <- prometheus.MustNewConstMetric(n.desc, n.kind, n.of(&r), name)
		}
		counter(e.duplicates, r.Duplicates, name, "unmarked")
		counter(e.duplicates, r.Redelivered, name, "redelivered")
		counter(e.duplicates, r.Resent, name, "resent")
		for _, kind := range allKinds() {
			counter(e.gaps, r.Gaps[kind].Times, name, kind.Reason, kind.Precision)
			counter(e.missed, r.Gaps[kind].Missed, name, kind.Reason, kind.Precision)
		}
		status := e.status(p)
		flag(e.connected, status.Connected, name)
		counter(e.connects, status.Connects, name)
	}
}

// allKinds are all kinds of gaps: one that was not told is 0 and not absent.
func allKinds() []GapKind {
	var all []GapKind
	for reason := range streampb.Gap_Reason_name {
		for precision := range streampb.Gap_Precision_name {
			all = append(all, kindOf(&streampb.Gap{Reason: streampb.Gap_Reason(reason), Precision: streampb.Gap_Precision(precision)}))
		}
	}
	return all
}

// Observe returns what a Book tells a histogram.
func Observe(h *prometheus.HistogramVec) func(Path, time.Duration) {
	var by [pathCount]prometheus.Observer
	for p := range by {
		by[p] = h.WithLabelValues(Path(p).String())
	}
	return func(p Path, d time.Duration) { by[p].Observe(d.Seconds()) }
}
