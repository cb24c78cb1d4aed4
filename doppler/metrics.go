package doppler

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/doppler/internal/egress"
	"github.com/a1ea6966/loggregator/doppler/internal/ingress"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// collector turns the Doppler's counters into Prometheus metrics when they
// are asked for; the hot path knows nothing of it.
type collector struct {
	d       *Doppler
	metrics []metric
}

type metric struct {
	desc  *prometheus.Desc
	typ   prometheus.ValueType
	value func(*snapshot) float64
}

func newCollector(d *Doppler) *collector {
	c := &collector{d: d}
	add := func(typ prometheus.ValueType, name, help string, labels prometheus.Labels, value func(*snapshot) float64) {
		c.metrics = append(c.metrics, metric{
			desc: prometheus.NewDesc("doppler_"+name, help, nil, labels), typ: typ, value: value,
		})
	}
	counter, gauge := prometheus.CounterValue, prometheus.GaugeValue
	add(counter, "ingress_envelopes_total", "Envelopes accepted from producers.", nil,
		func(s *snapshot) float64 { return float64(s.in.Accepted) })
	for framing, name := range []string{ingress.Batched: "v2_batch", ingress.Single: "v2", ingress.Pushed: "v1"} {
		add(counter, "ingress_framing_envelopes_total", "Envelopes accepted, by the form they came in.", prometheus.Labels{"framing": name},
			func(s *snapshot) float64 { return float64(s.in.AcceptedBy[framing]) })
	}
	add(counter, "ingress_bytes_total", "Bytes of the envelopes accepted.", nil,
		func(s *snapshot) float64 { return float64(s.in.AcceptedBytes) })
	add(counter, "ingress_messages_total", "gRPC messages received.", nil,
		func(s *snapshot) float64 { return float64(s.in.Messages) })
	for cause, value := range map[string]func(*snapshot) float64{
		"malformed":         func(s *snapshot) float64 { return float64(s.in.Dropped.Malformed) },
		"truncated":         func(s *snapshot) float64 { return float64(s.in.Dropped.Truncated) },
		"too_large":         func(s *snapshot) float64 { return float64(s.in.Dropped.TooLarge) },
		"source_too_long":   func(s *snapshot) float64 { return float64(s.in.Dropped.SourceTooLong) },
		"source_limit":      func(s *snapshot) float64 { return float64(s.in.Dropped.OverLimit) },
		"message_too_large": func(s *snapshot) float64 { return float64(s.in.Dropped.MessageTooLarge) },
	} {
		add(counter, "ingress_dropped_total", "Envelopes not accepted, by cause.", prometheus.Labels{"cause": cause}, value)
	}
	add(counter, "tls_handshakes_failed_total", "Clients with which TLS did not come about.", nil,
		func(*snapshot) float64 { return float64(d.shakes.Failed()) })
	for r := range numRights {
		add(counter, "access_refused_total", "Calls and requests of clients whose names do not allow them, by the right they lack.",
			prometheus.Labels{"right": r.String()}, func(*snapshot) float64 { return float64(d.guard.refused[r].Load()) })
	}
	add(counter, "ingress_unknown_fields_total", "Fields of batches that are not envelopes, left out.", nil,
		func(s *snapshot) float64 { return float64(s.in.UnknownFields) })
	add(gauge, "ingress_streams", "Open streams of producers.", nil,
		func(s *snapshot) float64 { return float64(s.in.Streams) })
	add(counter, "ingress_streams_refused_total", "Streams refused for want of --ingress-bytes.", nil,
		func(s *snapshot) float64 { return float64(s.in.StreamsRefused) })
	add(gauge, "ingress_buffer_bytes", "Received and not yet appended.", nil,
		func(s *snapshot) float64 { return float64(s.in.BufferBytes) })
	add(counter, "ingress_buffer_waits_total", "How often a connection was not read on for want of --ingress-bytes.", nil,
		func(s *snapshot) float64 { return float64(s.in.BufferWaits) })
	add(counter, "ingress_buffer_overdrafts_total", "How often waiting did not help and the budget was exceeded.", nil,
		func(s *snapshot) float64 { return float64(s.in.BufferOverdrafts) })
	add(counter, "egress_envelopes_total", "Envelopes written to readers.", nil,
		func(s *snapshot) float64 { return float64(s.out.Sent) })
	for by := range egress.NumFramings {
		add(counter, "egress_framing_envelopes_total", "Envelopes written to readers, by the form they went out in.", prometheus.Labels{"framing": by.String()},
			func(s *snapshot) float64 { return float64(s.out.SentBy[by]) })
	}
	for why := range egress.NumRefusals {
		add(counter, "egress_calls_refused_total", "Calls of readers over gRPC refused, by cause.", prometheus.Labels{"cause": why.String()},
			func(s *snapshot) float64 { return float64(s.out.Refused[why]) })
	}
	for by := range egress.NumFramings {
		for _, why := range []slow.Cut{slow.Lagging, slow.Stuck} {
			add(counter, "slow_consumers_total", "Readers cut because they were slow, by framing and by reason.",
				prometheus.Labels{"framing": by.String(), "reason": why.String()},
				func(s *snapshot) float64 { return float64(s.out.Cuts[by][why]) })
		}
	}
	add(counter, "egress_dropped_total", "Envelopes readers were told they miss.", nil,
		func(s *snapshot) float64 { return float64(s.out.Dropped) })
	add(gauge, "subscriptions", "Open connections of readers.", nil,
		func(s *snapshot) float64 { return float64(s.out.Subscriptions) })
	add(gauge, "subscription_groups", "Subscription groups, lingering ones included.", nil,
		func(s *snapshot) float64 { return float64(s.out.Groups) })
	add(counter, "ring_envelopes_total", "Envelopes appended in this epoch, the Doppler's own included.", nil,
		func(s *snapshot) float64 { return float64(s.ring.Head) })
	add(counter, "ring_evicted_total", "Envelopes the ring has let go of.", nil,
		func(s *snapshot) float64 { return float64(s.ring.Oldest) })
	add(gauge, "ring_held_bytes", "Bytes of envelopes the ring holds.", nil,
		func(s *snapshot) float64 { return float64(s.ring.HeldBytes) })
	add(gauge, "ring_budget_bytes", "What the ring may take, index included.", nil,
		func(s *snapshot) float64 { return float64(s.ring.Budget) })
	add(gauge, "recent_bytes", "Bytes of the recent store in use, bookkeeping included.", nil,
		func(s *snapshot) float64 { return float64(s.recent.Bytes) })
	add(gauge, "recent_budget_bytes", "What the recent store may take.", nil,
		func(s *snapshot) float64 { return float64(s.recent.Budget) })
	add(gauge, "recent_envelopes", "Envelopes in the recent store.", nil,
		func(s *snapshot) float64 { return float64(s.recent.Envelopes) })
	add(gauge, "recent_sources", "Sources in the recent store.", nil,
		func(s *snapshot) float64 { return float64(s.recent.Sources) })
	add(counter, "recent_kept_total", "Envelopes the recent store took.", nil,
		func(s *snapshot) float64 { return float64(s.recent.Kept) })
	add(counter, "recent_evicted_total", "Envelopes the recent store lost for want of --recent-bytes.", nil,
		func(s *snapshot) float64 { return float64(s.recent.Evicted) })
	add(gauge, "sources", "Sources the ring knows.", nil,
		func(s *snapshot) float64 { return float64(s.ring.Sources) })
	return c
}

// Describe sends what can be collected.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, m := range c.metrics {
		to <- m.desc
	}
}

// Collect sends the present values, all of one moment.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	s := c.d.snapshot()
	for _, m := range c.metrics {
		to <- prometheus.MustNewConstMetric(m.desc, m.typ, m.value(&s))
	}
}

// emitMetrics appends the familiar self-metrics to the Doppler's own ring
// (protocol/05): deltas since the last time, and totals.
func (d *Doppler) emitMetrics(ctx context.Context) error {
	if d.cfg.MetricInterval == 0 {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(d.cfg.MetricInterval)
	defer tick.Stop()
	var last snapshot
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s := d.snapshot()
			if err := d.appendMetrics(now, &last, &s); err != nil {
				return err
			}
			last = s
		}
	}
}

func (d *Doppler) appendMetrics(now time.Time, last, s *snapshot) error {
	counter := func(name string, before, total uint64, tags ...string) *loggregatorv2.Envelope {
		return d.ownEnvelope(now, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Counter{
			Counter: &loggregatorv2.Counter{Name: name, Delta: total - min(before, total), Total: total},
		}}, tags...)
	}
	batch := &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{
		counter("ingress", last.in.Accepted, s.in.Accepted),
		counter("dropped", last.in.Dropped.Total(), s.in.Dropped.Total(), "direction", "ingress"),
		counter("dropped", last.out.Dropped, s.out.Dropped, "direction", "egress"),
		counter("egress", last.out.Sent, s.out.Sent),
		d.ownEnvelope(now, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{
			Gauge: &loggregatorv2.Gauge{Metrics: map[string]*loggregatorv2.GaugeValue{
				"subscriptions": {Unit: "subscriptions", Value: float64(s.out.Subscriptions)},
			}},
		}}),
	}}
	msg, err := proto.Marshal(batch)
	if err != nil {
		return fmt.Errorf("encode self-metrics: %w", err)
	}
	recs, _ := envelope.ScanBatch(msg, envelope.Limits{}, nil)
	d.ring.Append(msg, recs)
	return nil
}

// ownEnvelope completes an envelope about the Doppler itself.
func (d *Doppler) ownEnvelope(now time.Time, e *loggregatorv2.Envelope, tags ...string) *loggregatorv2.Envelope {
	e.Timestamp, e.SourceId, e.InstanceId = now.UnixNano(), "doppler", d.cfg.Name
	e.Tags = map[string]string{"origin": "loggregator.doppler", "metric_version": "2.0"}
	for i := 0; i+1 < len(tags); i += 2 {
		e.Tags[tags[i]] = tags[i+1]
	}
	return e
}
