package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"time"

	logcache "code.cloudfoundry.org/go-log-cache/v3"
	"code.cloudfoundry.org/go-log-cache/v3/rpc/logcache_v1"
	loggregator "code.cloudfoundry.org/go-loggregator/v10"
	v2 "code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"

	"github.com/a1ea6966/loggregator/integration/clients/mix"
)

// selection are the flags of what to read.
type selection struct {
	addr, token, shard, name string
	sources, types           list
	preferred, lines         bool
	tls                      secure
	check                    check
}

func (s *selection) parse(name string, args []string) error {
	f := newFlags(name)
	f.StringVar(&s.addr, "addr", "", "where to read from")
	f.StringVar(&s.token, "token", "", "access token")
	f.StringVar(&s.shard, "shard", "", "shard id")
	f.StringVar(&s.name, "deterministic-name", "", "deterministic name")
	f.Var(&s.sources, "source", "source ids; none for any")
	f.Var(&s.types, "type", "log, counter, gauge, timer, event; none for all")
	f.BoolVar(&s.preferred, "preferred", true, "use_preferred_tags")
	f.BoolVar(&s.lines, "lines", false, "say what comes instead of checking it")
	s.tls.flags(f)
	s.check.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	s.check.expect, s.check.gap = s.expected, droppedV2
	s.check.prepare()
	return nil
}

// expected is what the selection gets of an envelope.
func (s *selection) expected(via string, n int) (all []numbered) {
	for _, e := range mix.V2(s.check.run, via, n) {
		if !s.selects(e) {
			continue
		}
		if s.preferred {
			e = mix.Preferred(e)
		}
		all = append(all, e)
	}
	return all
}

func (s *selection) selects(e *v2.Envelope) bool {
	return (len(s.sources) == 0 || has(s.sources, e.GetSourceId())) && (len(s.types) == 0 || has(s.types, kind(e)))
}

func has(l list, s string) bool {
	for _, item := range l {
		if item == s {
			return true
		}
	}
	return false
}

func kind(e *v2.Envelope) string {
	switch e.GetMessage().(type) {
	case *v2.Envelope_Log:
		return "log"
	case *v2.Envelope_Counter:
		return "counter"
	case *v2.Envelope_Gauge:
		return "gauge"
	case *v2.Envelope_Timer:
		return "timer"
	case *v2.Envelope_Event:
		return "event"
	}
	return ""
}

// droppedV2 is how many envelopes a reader of /v2/read or of a Doppler's Egress is told it
// misses: a counter as Reverse Log Proxies emit it.
func droppedV2(e numbered) int {
	counter, ok := e.(*v2.Envelope)
	if !ok || counter.GetCounter().GetName() != "dropped" || counter.GetTags()["direction"] != "egress" {
		return 0
	}
	return int(counter.GetCounter().GetDelta())
}

// request selects each type of each source.
func (s *selection) request() *v2.EgressBatchRequest {
	types, sources := s.types, s.sources
	if len(types) == 0 {
		types = list{"log", "counter", "gauge", "timer", "event"}
	}
	if len(sources) == 0 {
		sources = list{""}
	}
	r := &v2.EgressBatchRequest{ShardId: s.shard, DeterministicName: s.name, UsePreferredTags: s.preferred}
	for _, source := range sources {
		for _, t := range types {
			r.Selectors = append(r.Selectors, selectorOf(source, t))
		}
	}
	return r
}

func selectorOf(source, kind string) *v2.Selector {
	s := &v2.Selector{SourceId: source}
	switch kind {
	case "log":
		s.Message = &v2.Selector_Log{Log: &v2.LogSelector{}}
	case "counter":
		s.Message = &v2.Selector_Counter{Counter: &v2.CounterSelector{}}
	case "gauge":
		s.Message = &v2.Selector_Gauge{Gauge: &v2.GaugeSelector{}}
	case "timer":
		s.Message = &v2.Selector_Timer{Timer: &v2.TimerSelector{}}
	case "event":
		s.Message = &v2.Selector_Event{Event: &v2.EventSelector{}}
	}
	return s
}

// follow reads what a stream of go-loggregator gives. Its receive function
// blocks, so it has a goroutine of its own, which ends with ctx.
func (s *selection) follow(ctx context.Context, stream loggregator.EnvelopeStream) error {
	batches := make(chan []*v2.Envelope)
	go func() {
		for ctx.Err() == nil {
			batch := stream()
			select {
			case batches <- batch:
			case <-ctx.Done():
			}
		}
	}()
	if s.lines {
		for {
			select {
			case batch := <-batches:
				for _, e := range batch {
					if err := say(map[string]any{"envelope": e}); err != nil {
						return err
					}
				}
			case <-ctx.Done():
				return nil
			}
		}
	}
	return follow(ctx, &s.check, func(ctx context.Context) ([]*v2.Envelope, error) {
		select {
		case batch := <-batches:
			return batch, nil
		case <-ctx.Done():
			return nil, nil
		}
	})
}

// readConnector reads loggregator.v2.Egress with EnvelopeStreamConnector.
func readConnector(ctx context.Context, args []string) error {
	var s selection
	if err := s.parse("connector", args); err != nil {
		return err
	}
	config, err := s.tls.config()
	if err != nil {
		return err
	}
	var options []loggregator.EnvelopeStreamOption
	if config == nil {
		plain, err := s.tls.grpc()
		if err != nil {
			return err
		}
		options = append(options, loggregator.WithEnvelopeStreamConnectorDialOptions(plain))
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return s.follow(ctx, loggregator.NewEnvelopeStreamConnector(s.addr, config, options...).Stream(ctx, s.request()))
}

// doer adds a token to requests.
type doer struct {
	client *http.Client
	token  string
}

// Do sends a request.
func (d doer) Do(r *http.Request) (*http.Response, error) {
	if d.token != "" {
		r.Header.Set("Authorization", d.token)
	}
	return d.client.Do(r)
}

func (s *selection) doer() (doer, error) {
	config, err := s.tls.config()
	return doer{&http.Client{Transport: &http.Transport{TLSClientConfig: config}}, s.token}, err
}

// readGateway reads /v2/read with RLPGatewayClient.
func readGateway(ctx context.Context, args []string) error {
	var s selection
	if err := s.parse("gateway", args); err != nil {
		return err
	}
	d, err := s.doer()
	if err != nil {
		return err
	}
	faults := make(chan error, 10)
	go func() {
		for err := range faults {
			fmt.Fprintln(os.Stderr, "gateway client:", err)
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := loggregator.NewRLPGatewayClient(s.addr, loggregator.WithRLPGatewayHTTPClient(d), loggregator.WithRLPGatewayErrChan(faults))
	return s.follow(ctx, c.Stream(ctx, s.request()))
}

// readLogCache walks through the sources of a selection with go-log-cache, and
// says what Meta knows of them.
func readLogCache(ctx context.Context, args []string) error {
	var s selection
	if err := s.parse("logcache", args); err != nil {
		return err
	}
	d, err := s.doer()
	if err != nil {
		return err
	}
	c := logcache.NewClient(s.addr, logcache.WithHTTPClient(d))
	ctx, cancel := context.WithTimeout(ctx, s.check.limit)
	defer cancel()
	for _, source := range s.sources {
		newest, err := c.Read(ctx, source, time.Time{}, logcache.WithDescending(), logcache.WithLimit(1))
		if err != nil {
			return fmt.Errorf("read %s: %w", source, err)
		}
		if len(newest) == 0 {
			return fmt.Errorf("read %s: nothing is there", source)
		}
		logcache.Walk(ctx, source, func(batch []*v2.Envelope) bool {
			for _, e := range batch {
				s.check.take(e)
			}
			return !s.check.done()
		}, c.Read, logcache.WithWalkStartTime(time.Unix(0, 1)), logcache.WithWalkLimit(1000),
			logcache.WithWalkEnvelopeTypes(types(s.types)...), logcache.WithWalkBackoff(logcache.NewRetryBackoff(10*time.Millisecond, 20)))
	}
	meta, err := c.Meta(ctx)
	if err != nil {
		return fmt.Errorf("read meta: %w", err)
	}
	if err := say(map[string]any{"meta": meta}); err != nil {
		return err
	}
	return say(s.check.Result)
}

func types(names list) (all []logcache_v1.EnvelopeType) {
	for _, name := range names {
		all = append(all, map[string]logcache_v1.EnvelopeType{
			"log": logcache_v1.EnvelopeType_LOG, "counter": logcache_v1.EnvelopeType_COUNTER, "gauge": logcache_v1.EnvelopeType_GAUGE,
			"timer": logcache_v1.EnvelopeType_TIMER, "event": logcache_v1.EnvelopeType_EVENT,
		}[name])
	}
	return all
}
