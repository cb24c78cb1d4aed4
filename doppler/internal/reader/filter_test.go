package reader

import (
	"reflect"
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

func TestCanonicalFilters(t *testing.T) {
	logs := envelope.Mask(envelope.Log, envelope.ErrorLog)
	gauges := envelope.Mask(envelope.Gauge, envelope.ContainerGauge)
	counters := envelope.Mask(envelope.Counter)
	for name, tc := range map[string]struct{ in, want Filter }{
		"nothing":          {nil, nil},
		"all":              {Filter{{Mask: envelope.AllClasses}}, Filter{{Mask: envelope.AllClasses}}},
		"empty lists":      {Filter{{Mask: logs, Sources: []string{}, Names: []string{}}}, Filter{{Mask: logs}}},
		"sorted":           {Filter{{Mask: logs, Sources: []string{"b", "a"}}}, Filter{{Mask: logs, Sources: []string{"a", "b"}}}},
		"once":             {Filter{{Mask: logs, Sources: []string{"b", "b"}}}, Filter{{Mask: logs, Sources: []string{"b"}}}},
		"empty source":     {Filter{{Mask: logs, Sources: []string{""}}}, Filter{{Mask: logs, Sources: []string{""}}}},
		"names of nothing": {Filter{{Mask: logs, Names: []string{"x"}}}, nil},
		"names": {
			Filter{{Mask: envelope.AllClasses, Names: []string{"y", "x"}}},
			Filter{{Mask: envelope.AllClasses &^ (logs | envelope.Mask(envelope.Event, envelope.None)), Names: []string{"x", "y"}}},
		},
		"classes join": {Filter{{Mask: counters}, {Mask: logs}, {Mask: counters}}, Filter{{Mask: logs | counters}}},
		"sources join": {
			Filter{{Mask: logs, Sources: []string{"b"}}, {Mask: logs, Sources: []string{"a"}}},
			Filter{{Mask: logs, Sources: []string{"a", "b"}}},
		},
		"a source of all": {
			Filter{{Mask: logs | counters, Sources: []string{"a"}}, {Mask: logs}},
			Filter{{Mask: counters, Sources: []string{"a"}}, {Mask: logs}},
		},
		"a name of all": {
			Filter{{Mask: counters, Names: []string{"x"}}, {Mask: counters}, {Mask: counters, Sources: []string{"a"}, Names: []string{"y"}}},
			Filter{{Mask: counters}},
		},
		"a name of a source": {
			Filter{{Mask: counters, Sources: []string{"a"}}, {Mask: counters, Sources: []string{"a", "b"}, Names: []string{"x"}}},
			Filter{{Mask: counters, Sources: []string{"a"}}, {Mask: counters, Sources: []string{"b"}, Names: []string{"x"}}},
		},
		"names join": {
			Filter{{Mask: counters, Names: []string{"y"}}, {Mask: gauges, Names: []string{"y", "x"}}, {Mask: counters, Names: []string{"x"}}},
			Filter{{Mask: counters | gauges, Names: []string{"x", "y"}}},
		},
		"sets of names do not": {
			Filter{{Mask: gauges, Names: []string{"b", "a"}, Exact: true}, {Mask: gauges, Names: []string{"a"}, Exact: true}},
			Filter{{Mask: gauges, Names: []string{"a"}, Exact: true}, {Mask: gauges, Names: []string{"a", "b"}, Exact: true}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := tc.in.Canonical()
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("canonical %+v, want %+v", got, tc.want)
			}
			if again := got.Canonical(); !reflect.DeepEqual(again, got) || again.Key() != got.Key() {
				t.Errorf("canonical again %+v", again)
			}
		})
	}
}

// In whichever order and however often a selector is given, the key is one.
func TestOrderAndDuplicatesDoNotMatter(t *testing.T) {
	w := roomy(t)
	for range 2000 {
		f := w.filter()
		key := f.Canonical().Key()
		other := append(slices.Clone(f), f[w.rng.IntN(len(f))])
		w.rng.Shuffle(len(other), func(i, j int) { other[i], other[j] = other[j], other[i] })
		if got := other.Canonical().Key(); got != key {
			t.Fatalf("%+v has the key %s, %+v %s", f, key, other, got)
		}
		if c := f.Canonical(); c.Canonical().Key() != key {
			t.Fatalf("%+v again is %s", c, c.Canonical().Key())
		}
	}
}

func TestCanonicalLeavesItsInputAlone(t *testing.T) {
	in := Filter{
		{Mask: envelope.AllClasses, Sources: []string{"b", "a", "b"}},
		{Mask: envelope.Mask(envelope.Counter), Sources: []string{"d", "a", "c"}, Names: []string{"y", "x"}},
	}
	in.Canonical()
	if !reflect.DeepEqual(in[0].Sources, []string{"b", "a", "b"}) || !reflect.DeepEqual(in[1].Sources, []string{"d", "a", "c"}) ||
		!reflect.DeepEqual(in[1].Names, []string{"y", "x"}) {
		t.Errorf("input is now %v", in)
	}
}

// Different selections have different keys, whatever is in their strings.
func TestKeysTellFiltersApart(t *testing.T) {
	logs, counters := envelope.Mask(envelope.Log), envelope.Mask(envelope.Counter)
	gauges := envelope.Mask(envelope.Gauge)
	filters := []Filter{
		nil,
		{{Mask: envelope.AllClasses}},
		{{Mask: logs}},
		{{Mask: logs | counters}},
		{{Mask: envelope.AllClasses, Sources: []string{"a"}}},
		{{Mask: envelope.AllClasses, Sources: []string{"a", "b"}}},
		{{Mask: envelope.AllClasses, Sources: []string{`a" source="b`}}},
		{{Mask: envelope.AllClasses, Sources: []string{"a b"}}},
		{{Mask: envelope.AllClasses, Sources: []string{""}}},
		{{Mask: envelope.AllClasses, Names: []string{"a"}}},
		{{Mask: envelope.AllClasses, Sources: []string{"a"}, Names: []string{"b"}}},
		{{Mask: envelope.AllClasses, Sources: []string{"a", "b"}, Names: []string{"b"}}},
		{{Mask: logs, Sources: []string{"a"}}, {Mask: counters, Sources: []string{"b"}}},
		{{Mask: logs, Sources: []string{"b"}}, {Mask: counters, Sources: []string{"a"}}},
		{{Mask: gauges, Names: []string{"a", "b"}}},
		{{Mask: gauges, Names: []string{"a", "b"}, Exact: true}},
		{{Mask: gauges, Names: []string{"a"}, Exact: true}, {Mask: gauges, Names: []string{"b"}, Exact: true}},
	}
	seen := map[string]int{}
	for i, f := range filters {
		key := f.Canonical().Key()
		if j, ok := seen[key]; ok {
			t.Errorf("filters %d and %d share the key %s", j, i, key)
		}
		seen[key] = i
	}
	for want, f := range map[string]Filter{
		"nothing":                                nil,
		"all":                                    {{Mask: envelope.AllClasses}},
		`class=log,counter, source="a" name="b"`: {{Mask: logs | counters, Sources: []string{"a"}, Names: []string{"b"}}},
		`class=gauge, name="b" exact or class=log, source="a"`: {
			{Mask: gauges, Names: []string{"b"}, Exact: true}, {Mask: logs, Sources: []string{"a"}},
		},
	} {
		if got := f.Key(); got != want {
			t.Errorf("key %s, want %s", got, want)
		}
	}
}

func TestGapProto(t *testing.T) {
	g := &Gap{
		Source: "s", From: 3, To: 9, Count: 5, Classes: &ring.Counts{envelope.Log: 2, envelope.None: 3},
		Precision: streampb.Gap_AT_LEAST, Reason: streampb.Gap_OVER_SHARE,
	}
	p := g.Proto("d", 7)
	if p.GetSourceId() != "s" || p.GetFrom() != 3 || p.GetTo() != 9 || p.GetCount() != 5 || p.GetDoppler() != "d" || p.GetEpoch() != 7 ||
		p.GetPrecision() != streampb.Gap_AT_LEAST || p.GetReason() != streampb.Gap_OVER_SHARE {
		t.Errorf("gap %v", p)
	}
	if !reflect.DeepEqual(p.GetClassCounts(), []uint64{2, 0, 0, 0, 0, 0, 0, 0, 3}) {
		t.Errorf("class counts %v", p.GetClassCounts())
	}
	if (&Gap{}).Proto("d", 7).GetClassCounts() != nil {
		t.Error("a gap of a group has class counts")
	}
}
