package envelope_test

import (
	"net/url"
	"reflect"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestSelectorString(t *testing.T) {
	logs := envelope.Mask(envelope.Log, envelope.ErrorLog)
	for _, tc := range []struct {
		in   envelope.Selector
		want string
	}{
		{envelope.Selector{Mask: envelope.AllClasses}, ""},
		{envelope.Selector{}, "class=none&name="},
		{envelope.Selector{Mask: logs, Names: []string{"x"}}, "class=none&name="},
		{envelope.Selector{Mask: logs}, "type=log"},
		{envelope.Selector{Mask: envelope.Mask(envelope.None)}, "class=none"},
		{envelope.Selector{Mask: envelope.Mask(envelope.Log, envelope.Counter)}, "class=log&type=counter"},
		{envelope.Selector{Mask: envelope.AllClasses, Sources: []string{"b", "a&b", "b"}}, "source_id=a%26b&source_id=b"},
		{envelope.Selector{Mask: envelope.AllClasses, Names: []string{"x"}}, "name=x&type=counter&type=gauge&type=timer"},
		{envelope.Selector{Mask: envelope.AllClasses, Names: []string{"b", "a"}, Exact: true}, "exact=true&name=a&name=b&type=gauge"},
		{envelope.Selector{Mask: logs, Exact: true}, "type=log"},
	} {
		got := tc.in.String()
		if got != tc.want {
			t.Errorf("%+v: %q, want %q", tc.in, got, tc.want)
		}
		back, err := envelope.ParseSelector(got)
		if err != nil || back.String() != got {
			t.Errorf("%q is read as %+v, %v", got, back, err)
		}
	}
}

func TestParseSelector(t *testing.T) {
	gauges := envelope.Mask(envelope.Gauge, envelope.ContainerGauge)
	for in, want := range map[string]envelope.Selector{
		"":                                 {Mask: envelope.AllClasses},
		"source_id=":                       {Mask: envelope.AllClasses, Sources: []string{""}},
		"type=log&class=counter":           {Mask: envelope.Mask(envelope.Log, envelope.ErrorLog, envelope.Counter)},
		"class=counter&name=b&name=a":      {Mask: envelope.Mask(envelope.Counter), Names: []string{"b", "a"}},
		"type=gauge&name=&exact=1":         {Mask: gauges, Names: []string{""}, Exact: true},
		"type=gauge&exact=false":           {Mask: gauges},
		"class=gauge&name=x&exact=true":    {Mask: envelope.Mask(envelope.Gauge), Names: []string{"x"}, Exact: true},
		"type=timer&source_id=a&name=a%20": {Mask: envelope.Mask(envelope.Timer, envelope.HTTPTimer), Sources: []string{"a"}, Names: []string{"a "}},
	} {
		if got, err := envelope.ParseSelector(in); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v, want %+v", in, got, err, want)
		}
	}
	for in, want := range map[string]string{
		"a=%zz":                           "is no query",
		"kind=log":                        `parameter "kind" is not known; there are [type class source_id name exact]`,
		"type=logs":                       `unknown envelope type "logs"`,
		"class=logs":                      `unknown envelope class "logs"`,
		"exact=yes":                       `exact "yes" is neither true nor false`,
		"exact=true&name=x":               "exact goes with type=gauge",
		"exact=true&type=gauge":           "at least one name",
		"exact=true&type=log&name=x":      "exact goes with type=gauge",
		strings.Repeat("x", 1000):         "is not known",
		"type=" + url.QueryEscape("\x00"): "unknown envelope type",
	} {
		_, err := envelope.ParseSelector(in)
		if err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 300 {
			t.Errorf("%.40q: %v, want %s", in, err, want)
		}
	}
}

// What is selected stays selected in the canonical form and in the string.
func FuzzParseSelector(f *testing.F) {
	for _, s := range []string{
		"", "type=log", "exact=true&name=cpu&name=memory&type=gauge", "name=e&type=counter", "source_id=a&type=log",
		"class=none&name=", "class=log&source_id=", "exact=true", "a=%zz", "type=gauge&type=gauge&exact=0&name=%2C",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		s, err := envelope.ParseSelector(query)
		if err != nil {
			return
		}
		text := s.String()
		back, err := envelope.ParseSelector(text)
		if err != nil || back.String() != text {
			t.Fatalf("%q gives %q, which is read as %+v, %v", query, text, back, err)
		}
		if again := s.Canonical(); !reflect.DeepEqual(again, again.Canonical()) {
			t.Fatalf("%+v is not canonical", again)
		}
		for _, e := range selectorSamples {
			if got, want := back.Matches(e.class, e.source, []byte(e.env)), s.Matches(e.class, e.source, []byte(e.env)); got != want {
				t.Fatalf("%q: %s %q matches %v, as %q %v", query, e.class, e.source, want, text, got)
			}
		}
	})
}

var selectorSamples = []struct {
	class  envelope.Class
	source string
	env    string
}{
	{envelope.Log, "a", str(4, "")},
	{envelope.ErrorLog, "", str(4, "")},
	{envelope.Counter, "a", str(5, str(1, "e"))},
	{envelope.Timer, "b", str(7, "")},
	{envelope.Gauge, "a", str(6, str(1, str(1, "cpu")))},
	{envelope.Gauge, "a", str(6, str(1, str(1, "cpu"))+str(1, str(1, "memory"))+str(1, str(1, "cpu")))},
	{envelope.Event, "a", str(10, "")},
	{envelope.None, "a", ""},
}

func TestSelectorMatches(t *testing.T) {
	for query, want := range map[string]string{
		"":                               "12345678",
		"type=log":                       "12",
		"source_id=a":                    "135678",
		"source_id=":                     "2",
		"name=e":                         "3",
		"name=":                          "4",
		"type=gauge&name=cpu":            "56",
		"type=gauge&name=memory&name=x":  "6",
		"type=gauge&name=cpu&exact=true": "5",
		"type=gauge&name=memory&name=cpu&exact=true": "6",
		"type=gauge&name=memory&exact=true":          "",
		"class=none&name=":                           "",
	} {
		s, err := envelope.ParseSelector(query)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i, e := range selectorSamples {
			if s.Matches(e.class, e.source, []byte(e.env)) {
				got += string(rune('1' + i))
			}
		}
		if got != want {
			t.Errorf("%s matches %s, want %s", query, got, want)
		}
	}
}
