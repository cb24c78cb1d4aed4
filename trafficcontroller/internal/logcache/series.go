package logcache

import (
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// plainName makes a name of a metric or label that PromQL can spell: everything
// but ASCII letters and digits becomes an underscore, and so does a digit at the
// start.
func plainName(name string) string {
	start := true
	return strings.Map(func(r rune) rune {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		ok := letter || !start && '0' <= r && r <= '9'
		start = false
		if ok {
			return r
		}
		return '_'
	}, name)
}

// namesLike is a regular expression for the names that plainName makes metric
// of; empty if it would be too long for a name filter.
func namesLike(metric string) string {
	var b strings.Builder
	b.WriteByte('^')
	for i, r := range metric {
		switch {
		case r != '_':
			b.WriteRune(r)
		case i == 0:
			b.WriteString(`[\W\d_]`)
		default:
			b.WriteString(`[\W_]`)
		}
	}
	b.WriteByte('$')
	if b.Len() > maxRegexpBytes {
		return ""
	}
	return b.String()
}

// valueOf is the value of a metric in an envelope: the total of a counter, the
// value of a gauge, how many nanoseconds a timer ran.
func valueOf(e *loggregatorv2.Envelope, metric string) (value float64, ok bool) {
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Counter:
		return float64(m.Counter.GetTotal()), plainName(m.Counter.GetName()) == metric
	case *loggregatorv2.Envelope_Timer:
		return float64(m.Timer.GetStop() - m.Timer.GetStart()), plainName(m.Timer.GetName()) == metric
	case *loggregatorv2.Envelope_Gauge:
		for _, name := range slices.Sorted(maps.Keys(m.Gauge.GetMetrics())) {
			if plainName(name) == metric {
				return m.Gauge.GetMetrics()[name].GetValue(), true
			}
		}
	}
	return 0, false
}

// labelsOf are the labels of an envelope's metrics: its tags, the source and
// the instance. An empty one is none.
func labelsOf(e *loggregatorv2.Envelope) labels.Labels {
	all := make(map[string]string, len(e.GetTags())+len(e.GetDeprecatedTags())+2)
	for _, name := range slices.Sorted(maps.Keys(e.GetDeprecatedTags())) {
		all[plainName(name)] = textOf(e.GetDeprecatedTags()[name])
	}
	for _, name := range slices.Sorted(maps.Keys(e.GetTags())) {
		all[plainName(name)] = e.GetTags()[name]
	}
	all[sourceLabel] = e.GetSourceId()
	if e.GetInstanceId() != "" {
		all["instance_id"] = e.GetInstanceId()
	}
	delete(all, model.MetricNameLabel)
	maps.DeleteFunc(all, func(name, value string) bool { return name == "" || value == "" })
	return labels.FromMap(all)
}

func textOf(v *loggregatorv2.Value) string {
	switch d := v.GetData().(type) {
	case *loggregatorv2.Value_Text:
		return d.Text
	case *loggregatorv2.Value_Integer:
		return strconv.FormatInt(d.Integer, 10)
	case *loggregatorv2.Value_Decimal:
		return strconv.FormatFloat(d.Decimal, 'g', -1, 64)
	}
	return ""
}

// seriesBuilder gathers samples by their labels.
type seriesBuilder struct {
	index map[string]int
	list  []*series
	key   []byte // scratch
}

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// add takes a sample, and returns how many bytes of labels are kept for it.
func (b *seriesBuilder) add(l labels.Labels, at int64, value float64) (kept int) {
	b.key = l.Bytes(b.key)
	i, ok := b.index[string(b.key)]
	if !ok {
		if b.index == nil {
			b.index = map[string]int{}
		}
		i = len(b.list)
		b.index[string(b.key)] = i
		b.list = append(b.list, &series{labels: l})
		kept = len(b.key)
	}
	b.list[i].samples = append(b.list[i].samples, &sample{at, value})
	return kept
}

// set returns the series in the order of their labels. Samples are sorted, for
// those of several sources and Dopplers may be of one series.
func (b *seriesBuilder) set() storage.SeriesSet {
	slices.SortFunc(b.list, func(x, y *series) int { return labels.Compare(x.labels, y.labels) })
	s := &seriesSet{}
	for _, one := range b.list {
		slices.SortStableFunc(one.samples, func(x, y chunks.Sample) int { return int(min(max(x.T()-y.T(), -1), 1)) })
		s.rest = append(s.rest, storage.NewListSeries(one.labels, one.samples))
	}
	return s
}

// seriesSet is a storage.SeriesSet.
type seriesSet struct {
	at   storage.Series
	rest []storage.Series
}

// Next goes to the next series.
func (s *seriesSet) Next() bool {
	if len(s.rest) == 0 {
		return false
	}
	s.at, s.rest = s.rest[0], s.rest[1:]
	return true
}

// At is the present series.
func (s *seriesSet) At() storage.Series { return s.at }

// Err is nil.
func (s *seriesSet) Err() error { return nil }

// Warnings are none.
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// sample is a chunks.Sample of a number.
type sample struct {
	at    int64 // unix milliseconds
	value float64
}

// T is its time.
func (s *sample) T() int64 { return s.at }

// ST is the time its series started, which is not known.
func (s *sample) ST() int64 { return 0 }

// F is its value.
func (s *sample) F() float64 { return s.value }

// H is no histogram.
func (s *sample) H() *histogram.Histogram { return nil }

// FH is no histogram.
func (s *sample) FH() *histogram.FloatHistogram { return nil }

// Type is that of a number.
func (s *sample) Type() chunkenc.ValueType { return chunkenc.ValFloat }

// Copy copies it.
func (s *sample) Copy() chunks.Sample { c := *s; return &c }

// milliseconds of unix nanoseconds, rounded down.
func milliseconds(ns int64) int64 {
	ms := ns / 1e6
	if ns%1e6 < 0 {
		ms--
	}
	return ms
}

// nanoseconds of unix milliseconds; what is too far away is as far as can be.
func nanoseconds(ms int64) int64 {
	return min(max(ms, math.MinInt64/1_000_000), math.MaxInt64/1_000_000) * 1_000_000
}
