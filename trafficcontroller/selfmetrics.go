package trafficcontroller

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/mtls"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/accesslog"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
)

// emitMetrics emits the familiar self-metrics (protocol/05) to --agent-addr
// until ctx ends. What cannot be sent is part of the next total.
func (t *TrafficController) emitMetrics(ctx context.Context) error {
	if t.cfg.AgentAddr == "" {
		<-ctx.Done()
		return nil
	}
	client, closeClient, err := t.agent()
	if err != nil {
		return err
	}
	defer closeClient()
	tick := time.NewTicker(t.cfg.MetricInterval)
	defer tick.Stop()
	var last snapshot
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			s := t.snapshot()
			bounded, cancel := context.WithTimeout(ctx, 5*time.Second)
			_, err := client.Send(bounded, t.metricBatch(now, &last, &s))
			cancel()
			if err != nil {
				t.log.Warn("self-metrics could not be emitted", "addr", t.cfg.AgentAddr, "error", err)
				continue
			}
			last = s
		case e := <-t.events:
			// The old one's took a second at most, too (protocol/03).
			bounded, cancel := context.WithTimeout(ctx, time.Second)
			_, err := client.Send(bounded, &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{e}})
			cancel()
			if err != nil {
				t.log.Warn("event could not be emitted", "addr", t.cfg.AgentAddr, "error", err)
			}
		}
	}
}

// tellSlow emits the event by which operators know that a client was cut for
// being slow (protocol/03). When nobody takes events, or there are too many,
// it is left out: the log has a line of it.
func (t *TrafficController) tellSlow(c api.Client, reason string) {
	e := t.ownEnvelope(time.Now(), &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{
		Title: "Traffic Controller has disconnected slow consumer",
		Body: fmt.Sprintf("Remote Address: %s\nX-Forwarded-For: %s\nPath: %s\n\n"+
			"It does not keep up (%s). More instances of it, or a faster one, would.",
			c.Remote, c.Forwarded, withoutSecrets(c.URL), reason),
	}}})
	select {
	case t.events <- e:
	default:
	}
}

// withoutSecrets is a path and query without what may be tokens.
func withoutSecrets(target string) string {
	path, query, ok := strings.Cut(target, "?")
	if !ok {
		return target
	}
	return path + "?" + accesslog.WithoutSecrets(query)
}

func (t *TrafficController) agent() (loggregatorv2.IngressClient, func(), error) {
	creds := insecure.NewCredentials()
	if !t.cfg.AgentTLS.Empty() {
		files := t.cfg.AgentTLS
		files.Log = t.log
		config, err := mtls.Client(files, mtls.NameMetron)
		if err != nil {
			return nil, nil, fmt.Errorf("TLS to agent: %w", err)
		}
		creds = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient(t.cfg.AgentAddr, grpc.WithTransportCredentials(creds))
	if err != nil {
		return nil, nil, fmt.Errorf("agent-addr: %w", err)
	}
	return loggregatorv2.NewIngressClient(conn), func() { _ = conn.Close() }, nil
}

// metricBatch is the change since last, and the present gauges.
func (t *TrafficController) metricBatch(now time.Time, last, s *snapshot) *loggregatorv2.EnvelopeBatch {
	counter := func(name string, before, total uint64, tags ...string) *loggregatorv2.Envelope {
		return t.ownEnvelope(now, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Counter{
			Counter: &loggregatorv2.Counter{Name: name, Delta: total - min(before, total), Total: total},
		}}, tags...)
	}
	gauge := func(name string, value float64) *loggregatorv2.Envelope {
		return t.ownEnvelope(now, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{
			Metrics: map[string]*loggregatorv2.GaugeValue{name: {Unit: "connections", Value: value}},
		}}})
	}
	return &loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{
		counter("ingress", last.relay.Received+last.hub.Received, s.relay.Received+s.hub.Received, "protocol", "websocket"),
		counter("egress", last.relay.Sent, s.relay.Sent, "endpoint", "firehose"),
		counter("egress", last.tailSent, s.tailSent, "endpoint", "stream"),
		counter("dropped", last.hub.Dropped, s.hub.Dropped, "direction", "egress"),
		counter("doppler_proxy.slow_consumer", last.cut, s.cut),
		gauge("doppler_proxy.firehoses", float64(s.relay.Clients)),
		gauge("doppler_proxy.app_streams", float64(s.hub.Tails)),
	}}
}

// ownEnvelope completes an envelope about the Traffic Controller itself.
func (t *TrafficController) ownEnvelope(now time.Time, e *loggregatorv2.Envelope, tags ...string) *loggregatorv2.Envelope {
	e.Timestamp, e.SourceId, e.InstanceId = now.UnixNano(), "traffic_controller", t.cfg.Name
	e.Tags = map[string]string{"origin": "loggregator.trafficcontroller", "metric_version": "2.0"}
	for i := 0; i+1 < len(tags); i += 2 {
		e.Tags[tags[i]] = tags[i+1]
	}
	return e
}
