package emit

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Kinds are the values of Load.Kind.
var Kinds = []string{"log", "counter", "gauge", "timer", "event", "mix"}

// tick and longestTick are how often Pace looks what is due: at high rates, and
// at low ones.
const (
	tick        = 5 * time.Millisecond
	longestTick = 100 * time.Millisecond
)

// Load makes envelopes up: numbered ones, source by source.
type Load struct {
	// Source names the only source, or with Sources > 1 is what their names
	// start with.
	Source   string
	Sources  int
	Instance string
	Tags     map[string]string
	// Kind is one of Kinds.
	Kind string
	// Size is how many bytes the text of a log has; it is at least what its
	// number needs.
	Size int
	// Rate is per second over all sources; 0 means as fast as it is taken.
	Rate float64
	// Count and Duration end the load; 0 means no such end.
	Count    uint64
	Duration time.Duration
}

// Run sends until the load's end or until ctx ends, which is no error; the
// errors are those of send. It returns how many it sent.
func (l *Load) Run(ctx context.Context, send Send) (uint64, error) {
	if l.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.Duration)
		defer cancel()
	}
	if l.Count == 0 {
		l.Count = ^uint64(0)
	}
	m := l.newMaker()
	if l.Rate <= 0 {
		return l.flatOut(ctx, m, send)
	}
	return l.paced(ctx, m, send)
}

func (l *Load) flatOut(ctx context.Context, m *maker, send Send) (uint64, error) {
	for n := range l.Count {
		if n%64 == 0 && ended(ctx) {
			return n, nil
		}
		if err := send(m.next(n)); err != nil {
			return n, err
		}
	}
	return l.Count, nil
}

func ended(ctx context.Context) bool { return ctx.Err() != nil }

func (l *Load) paced(ctx context.Context, m *maker, send Send) (uint64, error) {
	return Pace(ctx, l.Rate, l.Count, func(n uint64) error { return send(m.next(n)) })
}

// Pace calls next with 0, 1, 2 and so on, rate times per second, until it was
// called count times, it fails or ctx ends, which is no error. It returns how
// many calls succeeded. It never tries to catch up more than one second: after
// a call that took long the rate is kept, not exceeded.
func Pace(ctx context.Context, rate float64, count uint64, next func(n uint64) error) (uint64, error) {
	ticker := time.NewTicker(tickOf(rate))
	defer ticker.Stop()
	var n uint64
	due, last := 1.0, time.Now()
	for {
		for ; due >= 1 && n < count; due-- {
			if err := next(n); err != nil {
				return n, err
			}
			n++
		}
		if n == count {
			return n, nil
		}
		select {
		case <-ctx.Done():
			return n, nil
		case <-ticker.C:
		}
		now := time.Now()
		due = min(due+rate*now.Sub(last).Seconds(), max(rate, 1))
		last = now
	}
}

// tickOf is how often to look what is due at a rate.
func tickOf(rate float64) time.Duration {
	return min(max(time.Duration(float64(time.Second)/rate/2), tick), longestTick)
}

// maker makes the envelopes of a Load; the one it returns is valid until the
// next call.
type maker struct {
	load    *Load
	sources []string
	totals  []uint64
	filler  []byte
	text    []byte
	env     loggregatorv2.Envelope
	last    int64
}

func (l *Load) newMaker() *maker {
	m := &maker{load: l, filler: bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog "), l.Size/44+1)}
	if l.Sources <= 1 {
		m.sources = []string{l.Source}
	} else {
		for i := range l.Sources {
			m.sources = append(m.sources, fmt.Sprintf("%s-%d", l.Source, i+1))
		}
	}
	m.totals = make([]uint64, len(m.sources))
	m.env.InstanceId, m.env.Tags = l.Instance, l.Tags
	return m
}

func (m *maker) next(n uint64) *loggregatorv2.Envelope {
	i := n % uint64(len(m.sources))
	m.totals[i]++
	m.last = max(time.Now().UnixNano(), m.last+1)
	m.env.Timestamp, m.env.SourceId = m.last, m.sources[i]
	kind := m.load.Kind
	if kind == "mix" {
		kind = mixture(m.totals[i])
	}
	m.setMessage(kind, m.totals[i])
	return &m.env
}

// mixture is mostly logs, as on a platform.
func mixture(n uint64) string {
	switch n % 20 {
	case 3, 13:
		return "timer"
	case 7:
		return "gauge"
	case 11, 17:
		return "counter"
	}
	if n%500 == 19 {
		return "event"
	}
	return "log"
}

func (m *maker) setMessage(kind string, number uint64) {
	switch kind {
	case "counter":
		m.env.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "requests", Delta: 1, Total: number}}
	case "gauge":
		m.env.Message = &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
			"cpu":    {Unit: "percentage", Value: 100 * rand.Float64()},
			"memory": {Unit: "bytes", Value: float64(64<<20 + rand.IntN(64<<20))},
			"disk":   {Unit: "bytes", Value: float64(200<<20 + rand.IntN(8<<20))},
		}}}
	case "timer":
		took := int64(rand.ExpFloat64() * float64(20*time.Millisecond))
		m.env.Message = &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: "http", Start: m.last - took, Stop: m.last}}
	case "event":
		m.env.Message = &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: "load", Body: fmt.Sprintf("event %d", number)}}
	default:
		m.env.Message = &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: m.line(number)}}
	}
}

func (m *maker) line(number uint64) []byte {
	m.text = fmt.Appendf(m.text[:0], "%010d", number)
	if missing := m.load.Size - len(m.text); missing > 0 {
		m.text = append(m.text, ' ')
		m.text = append(m.text, m.filler[:missing-1]...)
	}
	return m.text
}
