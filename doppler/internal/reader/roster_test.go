package reader

import (
	"math"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestRoster(t *testing.T) {
	r := &Roster{}
	if r.Names() != nil || r.Owner(0, envelope.Log, 0) != "" || r.End("a") != 0 {
		t.Error("something belongs to somebody before the first change")
	}
	r.Change(0, nil, 0)
	r.Change(100, []string{"b", "a"}, 0)
	r.Change(200, []string{"a"}, 0)
	r.Change(300, nil, 0)
	for name, end := range map[string]uint64{"": math.MaxUint64, "a": 300, "b": 200, "c": 0} {
		if got := r.End(name); got != end {
			t.Errorf("the end of %q is %d, want %d", name, got, end)
		}
	}
	for off := range uint64(400) {
		owner := r.Owner(off, envelope.Log, 0)
		for _, name := range []string{"", "a", "b"} {
			if owner == name && off >= r.End(name) {
				t.Errorf("%d belongs to %q, whose end is %d", off, name, r.End(name))
			}
		}
		if named := off >= 100 && off < 300; named != (owner != "") {
			t.Errorf("%d belongs to %q", off, owner)
		}
	}
	if a, b := r.Owner(100, envelope.Counter, 7), r.Owner(199, envelope.Counter, 7); a != b {
		t.Errorf("a metric goes to %q and %q", a, b)
	}
	// What nobody can read any more is forgotten, but for what is in force there.
	r.Change(500, []string{"d"}, 250)
	if len(*r.changes.Load()) != 3 || r.Owner(250, envelope.Log, 0) != "a" {
		t.Errorf("left are %v", *r.changes.Load())
	}
}
