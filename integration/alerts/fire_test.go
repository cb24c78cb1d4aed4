package alerts

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// TestRulesFireWhenTheyShould evaluates rules over made-up series, a minute
// between two values, 20 minutes in: what is quiet must not fire, what is not
// must.
func TestRulesFireWhenTheyShould(t *testing.T) {
	const down = "1x10 0x20"
	shown := make(map[string]bool)
	for _, tc := range []struct {
		rule, series string
		fires        int
	}{
		{"LoggregatorLostWithoutAWord", `lgr_canary_unexplained_envelopes{path="tail"} 0x30`, 0},
		{"LoggregatorLostWithoutAWord", `lgr_canary_unexplained_envelopes{path="tail"} 0x10 3x20`, 1},
		{"LoggregatorCorruptsEnvelopes", `lgr_canary_corrupt_envelopes_total{path="tail"} 7x30`, 0},
		{"LoggregatorCorruptsEnvelopes", `lgr_canary_corrupt_envelopes_total{path="tail"} 7x15 8x20`, 1},
		{"LoggregatorDeliversTwice", `lgr_canary_duplicate_envelopes_total{kind="redelivered"} 0+1x30`, 0},
		{"LoggregatorDeliversTwice", `lgr_canary_duplicate_envelopes_total{kind="unmarked"} 0+1x30`, 1},
		{"LoggregatorOutOfOrder", `lgr_canary_out_of_order_envelopes_total{path="tail"} 0x15 1x20`, 1},
		{"LoggregatorCanaryCutOff", `lgr_canary_connected{path="tail"} 1x30`, 0},
		{"LoggregatorCanaryCutOff", `lgr_canary_connected{path="tail"} ` + down, 1},
		{"LoggregatorDopplerUnreachable", `lgr_canary_doppler_connected{doppler="a"} ` + down, 1},
		{"LoggregatorStalls", `lgr_canary_oldest_outstanding_seconds{path="tail"} 2x30`, 0},
		{"LoggregatorStalls", `lgr_canary_oldest_outstanding_seconds{path="tail"} 2x10 0+60x20`, 1},
		{"LoggregatorCanaryReceivesNothing", `lgr_canary_received_envelopes_total{path="tail",instance="a"} 0+600x30
			lgr_canary_emitted_envelopes_total{doppler="d",instance="a"} 0+600x30`, 0},
		{"LoggregatorCanaryReceivesNothing", `lgr_canary_received_envelopes_total{path="tail",instance="a"} 600x30
			lgr_canary_received_envelopes_total{path="firehose",instance="a"} 0+600x30
			lgr_canary_emitted_envelopes_total{doppler="d",instance="a"} 0+600x30`, 1},
		{"LoggregatorSlow", latency("0+600x30"), 0},
		{"LoggregatorSlow", latency("0+500x30"), 1},
		{"LoggregatorGaps", `lgr_canary_gaps_total{path="tail",reason="evicted",precision="exact"} 1x30`, 0},
		{"LoggregatorGaps", `lgr_canary_gaps_total{path="tail",reason="evicted",precision="exact"} 1x15 2x20`, 1},
		{"LoggregatorNoCanary", `lgr_canary_emitted_envelopes_total{doppler="d"} 0+600x30`, 0},
		{"LoggregatorNoCanary", `something_else 1x30`, 1},
		{"DopplerReadersMissEnvelopes", `doppler_egress_dropped_total 5x30`, 0},
		{"DopplerReadersMissEnvelopes", `doppler_egress_dropped_total 0+5x30`, 1},
		{"DopplerRefusesEnvelopes", `doppler_ingress_dropped_total{cause="source_limit"} 0+5x30`, 0},
		{"DopplerRefusesEnvelopes", `doppler_ingress_dropped_total{cause="malformed"} 0+5x30`, 1},
		{"DopplerRefusesProducers", `doppler_ingress_streams_refused_total 0x18 1x20`, 1},
		{"DopplerRingShallow", ring("0+600x30", "40x30"), 0},  // 4 s, but there is room
		{"DopplerRingShallow", ring("0+60x30", "90x30"), 0},   // 90 s
		{"DopplerRingShallow", ring("0+600x30", "100x30"), 1}, // 10 s
		{"DopplerCutsReaders", `doppler_slow_consumers_total{framing="v2",reason="lag"} 0+1x30`, 1},
		{"TrafficControllerLacksDopplers", dopplers(2), 0},
		{"TrafficControllerLacksDopplers", dopplers(1), 1},
		{"TrafficControllerLacksDopplers", "trafficcontroller_dopplers 1x30", 0}, // nobody scrapes Dopplers
		{"TrafficControllerTailsMissEnvelopes", `trafficcontroller_dropped_envelopes_total{endpoint="stream"} 0+5x30`, 1},
		{"TrafficControllerCutsClients", `trafficcontroller_slow_consumers_total 0+1x30`, 1},
		{"TrafficControllerAccessOutage", `trafficcontroller_access_decisions_total{reason="no_token"} 0+5x30`, 0},
		{"TrafficControllerAccessOutage", `trafficcontroller_access_decisions_total{reason="outage"} 0+5x30`, 1},
		{"TrafficControllerSecurityLogLost", `trafficcontroller_security_log_lines_total{result="failed"} 0+1x30`, 1},
		{"TrafficControllerLogCacheIncomplete", `trafficcontroller_log_cache_missing_total{reason="late"} 0+1x30`, 1},
		{"NozzleCutOff", `firehose_nozzle_connected ` + down, 1},
		{"NozzleSinkFails", `firehose_nozzle_sink_errors_total 0+1x30`, 1},
		{"NozzleBehind", lag("500x30", "0+6000x30"), 0},
		{"NozzleBehind", lag("2000x30", "0+6000x30"), 0}, // 20 s
		{"NozzleBehind", lag("9000x30", "0+6000x30"), 1}, // 90 s
		{"NozzleBehind", lag("9000x30", "0x30"), 1},
		{"NozzleMissesEnvelopes", `firehose_nozzle_gaps_total{reason="evicted"} 0x15 1x20`, 1},
	} {
		shown[tc.rule] = shown[tc.rule] || tc.fires > 0
		t.Run(fmt.Sprintf("%s fires %d", tc.rule, tc.fires), func(t *testing.T) { eval(t, tc.rule, tc.series, tc.fires) })
	}
	for name := range rules(t) {
		if !shown[name] {
			t.Errorf("no row shows that %s fires", name)
		}
	}
}

// latency has 1 in a few envelopes that takes between 1 and 2 s.
func latency(fast string) string {
	return `lgr_canary_latency_seconds_bucket{path="tail",instance="a",le="0.5"} ` + fast + `
		lgr_canary_latency_seconds_bucket{path="tail",instance="a",le="2.048"} 0+600x30
		lgr_canary_latency_seconds_bucket{path="tail",instance="a",le="+Inf"} 0+600x30`
}

// ring has a budget of 100 bytes.
func ring(ingress, held string) string {
	return "doppler_ingress_bytes_total " + ingress + "\ndoppler_ring_held_bytes " + held + "\ndoppler_ring_budget_bytes 100x30"
}

// dopplers are two, of which a Traffic Controller reaches some.
func dopplers(reached int) string {
	return fmt.Sprintf("trafficcontroller_dopplers %dx30\n", reached) +
		`doppler_ring_budget_bytes{instance="a"} 1x30
		doppler_ring_budget_bytes{instance="b"} 1x30`
}

func lag(lag, received string) string {
	return "firehose_nozzle_lag_envelopes " + lag + "\nfirehose_nozzle_received_envelopes_total " + received
}

// start is when the series begin, and step the time between two values.
var start = time.Unix(1_800_000_000, 0)

const step = time.Minute

// eval counts the series that a rule's expression has.
func eval(t *testing.T, rule, series string, fires int) {
	t.Helper()
	r, ok := rules(t)[rule]
	if !ok {
		t.Fatalf("there is no rule %s", rule)
	}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 10_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: parser.NewParser(parser.Options{})})
	defer engine.Close()
	query, err := engine.NewInstantQuery(t.Context(), storageOf(t, series), nil, r.Expr, start.Add(20*step))
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	result := query.Exec(t.Context())
	vector, err := result.Vector()
	if err != nil || len(vector) != fires {
		t.Errorf("%v, %v", vector, err)
	}
}

// made is a storage of made-up series.
type made struct {
	storage.Querier
	series []storage.Series
}

// storageOf reads series as Prometheus' own tests write them, one a line.
func storageOf(t *testing.T, text string) storage.Queryable {
	t.Helper()
	m := &made{Querier: storage.NoopQuerier()}
	reader := parser.NewParser(parser.Options{})
	for line := range strings.Lines(text) {
		name, values, err := reader.ParseSeriesDesc(strings.TrimSpace(line))
		if err != nil {
			t.Fatal(err)
		}
		var samples []chunks.Sample
		for i, v := range values {
			samples = append(samples, sample{at: start.Add(time.Duration(i) * step).UnixMilli(), value: v.Value})
		}
		m.series = append(m.series, storage.NewListSeries(name, samples))
	}
	return storage.QueryableFunc(func(int64, int64) (storage.Querier, error) { return m, nil })
}

// Select returns the series that match.
func (m *made) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &selected{next: -1}
	for _, s := range m.series {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Labels().Get(m.Name)) }) {
			found.series = append(found.series, s)
		}
	}
	return found
}

// selected are series one after another.
type selected struct {
	series []storage.Series
	next   int
}

func (s *selected) Next() bool                        { s.next++; return s.next < len(s.series) }
func (s *selected) At() storage.Series                { return s.series[s.next] }
func (s *selected) Err() error                        { return nil }
func (s *selected) Warnings() annotations.Annotations { return nil }

// sample is a value at a time.
type sample struct {
	at    int64
	value float64
}

func (s sample) T() int64                      { return s.at }
func (s sample) ST() int64                     { return 0 }
func (s sample) F() float64                    { return s.value }
func (s sample) H() *histogram.Histogram       { return nil }
func (s sample) FH() *histogram.FloatHistogram { return nil }
func (s sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample           { return s }
