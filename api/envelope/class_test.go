package envelope_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestMaskOf(t *testing.T) {
	for _, tc := range []struct {
		types string
		want  envelope.ClassMask
	}{
		{"", envelope.AllClasses},
		{"log", envelope.Mask(envelope.Log, envelope.ErrorLog)},
		{"counter", envelope.Mask(envelope.Counter)},
		{"gauge", envelope.Mask(envelope.Gauge, envelope.ContainerGauge)},
		{"timer", envelope.Mask(envelope.Timer, envelope.HTTPTimer)},
		{"event", envelope.Mask(envelope.Event)},
		{"event log event", envelope.Mask(envelope.Log, envelope.ErrorLog, envelope.Event)},
		{"log counter gauge timer event", envelope.AllClasses &^ envelope.Mask(envelope.None)},
	} {
		got, err := envelope.MaskOf(strings.Fields(tc.types)...)
		if err != nil || got != tc.want {
			t.Errorf("MaskOf(%s) = %b, %v, want %b", tc.types, got, err, tc.want)
		}
		if again, err := envelope.MaskOf(got.Types()...); err != nil || again != got {
			t.Errorf("%s: types %q are %b, %v", tc.types, got.Types(), again, err)
		}
	}
}

func TestMaskOfUnknownType(t *testing.T) {
	for _, name := range []string{"Log", "", "none", "metrics"} {
		_, err := envelope.MaskOf("log", name)
		if err == nil {
			t.Fatalf("%q was taken", name)
		}
		for _, want := range append(envelope.Types(), `"`+name+`"`) {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: the error does not say %s: %v", name, want, err)
			}
		}
	}
}

func TestClassMask(t *testing.T) {
	for c := range envelope.None + 1 {
		m := envelope.Mask(c)
		for d := range envelope.None + 1 {
			if m.Has(d) != (c == d) {
				t.Errorf("{%v} has %v: %v", c, d, m.Has(d))
			}
		}
		if !envelope.AllClasses.Has(c) {
			t.Errorf("AllClasses lacks %v", c)
		}
	}
	if envelope.AllClasses.Has(envelope.None + 1) {
		t.Error("AllClasses has a class that is none")
	}
	if types := envelope.Mask(envelope.Log, envelope.Counter).Types(); !slices.Equal(types, []string{"counter"}) {
		t.Errorf("half of log is a type: %q", types)
	}
}

// The numbers are on the wire.
func TestClassNumbers(t *testing.T) {
	want := []string{
		"log", "error-log", "container-gauge", "gauge", "http-timer", "timer", "counter", "event", "none", "class(9)",
	}
	for i, name := range want {
		if got := envelope.Class(i).String(); got != name {
			t.Errorf("class %d is %s, want %s", i, got, name)
		}
	}
	if envelope.NumClasses != 9 {
		t.Errorf("%d classes", envelope.NumClasses)
	}
}

func TestMaskOfClasses(t *testing.T) {
	for c := range envelope.Class(envelope.NumClasses) {
		m, err := envelope.MaskOfClasses(c.String())
		if err != nil || m != 1<<c {
			t.Errorf("MaskOfClasses(%q) = %b, %v", c.String(), m, err)
		}
	}
	if m, err := envelope.MaskOfClasses(envelope.AllClasses.Classes()...); err != nil || m != envelope.AllClasses {
		t.Errorf("all classes give %b, %v", m, err)
	}
	if m, err := envelope.MaskOfClasses(); err != nil || m != 0 {
		t.Errorf("no class gives %b, %v", m, err)
	}
	if _, err := envelope.MaskOfClasses("log", "logs"); err == nil || !strings.Contains(err.Error(), `"logs"`) {
		t.Errorf("an unknown class: %v", err)
	}
}
