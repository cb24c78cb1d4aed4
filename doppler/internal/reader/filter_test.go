package reader

import (
	"reflect"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

func TestCanonicalFilters(t *testing.T) {
	logs := envelope.Mask(envelope.Log, envelope.ErrorLog)
	for name, tc := range map[string]struct{ in, want Filter }{
		"all":              {Filter{Mask: envelope.AllClasses}, Filter{Mask: envelope.AllClasses}},
		"empty lists":      {Filter{Mask: logs, Sources: []string{}, Names: []string{}}, Filter{Mask: logs}},
		"sorted":           {Filter{Mask: logs, Sources: []string{"b", "a"}}, Filter{Mask: logs, Sources: []string{"a", "b"}}},
		"once":             {Filter{Mask: logs, Sources: []string{"b", "b"}}, Filter{Mask: logs, Sources: []string{"b"}}},
		"empty source":     {Filter{Mask: logs, Sources: []string{""}}, Filter{Mask: logs, Sources: []string{""}}},
		"names of nothing": {Filter{Mask: logs, Names: []string{"x"}}, Filter{Names: []string{"x"}}},
		"names": {
			Filter{Mask: envelope.AllClasses, Names: []string{"y", "x"}},
			Filter{Mask: envelope.AllClasses &^ (logs | envelope.Mask(envelope.Event, envelope.None)), Names: []string{"x", "y"}},
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

func TestCanonicalLeavesItsInputAlone(t *testing.T) {
	in := Filter{Mask: envelope.AllClasses, Sources: []string{"b", "a", "b"}}
	in.Canonical()
	if !reflect.DeepEqual(in.Sources, []string{"b", "a", "b"}) {
		t.Errorf("input is now %v", in.Sources)
	}
}

// Different selections have different keys, whatever is in their strings.
func TestKeysTellFiltersApart(t *testing.T) {
	filters := []Filter{
		{Mask: envelope.AllClasses},
		{Mask: envelope.Mask(envelope.Log)},
		{Mask: envelope.Mask(envelope.Log, envelope.Counter)},
		{Mask: envelope.AllClasses, Sources: []string{"a"}},
		{Mask: envelope.AllClasses, Sources: []string{"a", "b"}},
		{Mask: envelope.AllClasses, Sources: []string{`a" source="b`}},
		{Mask: envelope.AllClasses, Sources: []string{"a b"}},
		{Mask: envelope.AllClasses, Sources: []string{""}},
		{Mask: envelope.AllClasses, Names: []string{"a"}},
		{Mask: envelope.AllClasses, Sources: []string{"a"}, Names: []string{"b"}},
		{Mask: envelope.AllClasses, Sources: []string{"a", "b"}, Names: []string{"b"}},
	}
	seen := map[string]int{}
	for i, f := range filters {
		key := f.Canonical().Key()
		if j, ok := seen[key]; ok {
			t.Errorf("filters %d and %d share the key %s", j, i, key)
		}
		seen[key] = i
	}
	if got := (Filter{Mask: envelope.AllClasses}).Key(); got != "all" {
		t.Errorf("key of everything %q", got)
	}
	want := `class=log,counter, source="a" name="b"`
	if got := (Filter{Mask: envelope.Mask(envelope.Log, envelope.Counter), Sources: []string{"a"}, Names: []string{"b"}}).Key(); got != want {
		t.Errorf("key %s, want %s", got, want)
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
