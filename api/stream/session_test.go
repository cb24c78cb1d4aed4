package stream

import (
	"strings"
	"testing"
)

func TestSession(t *testing.T) {
	for text, want := range map[string]Session{
		"":                             {},
		"a:0":                          {"a", 0},
		"Az-09_:7":                     {"Az-09_", 7},
		"x:18446744073709551615":       {"x", 1<<64 - 1},
		strings.Repeat("x", 64) + ":1": {strings.Repeat("x", 64), 1},
	} {
		got, err := ParseSession(text)
		if err != nil || got != want || got.String() != text {
			t.Errorf("%q: %v %v", text, got, err)
		}
	}
	for _, text := range []string{"a", ":1", "a:", "a:-1", "a:x", "a b:1", "a:1:2", "ä:1", "a:18446744073709551616", strings.Repeat("x", 65) + ":1"} {
		if got, err := ParseSession(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
	if a, b := NewSession(), NewSession(); a.ID == b.ID || a.ID == "" {
		t.Errorf("%v %v", a, b)
	}
}

// What a relay dials later is later, and a later turn of the reader is later
// than anything a relay dials for an earlier one.
func TestSessionAttempt(t *testing.T) {
	s := Session{ID: "a", Turn: 3}
	order := []Session{s.Attempt(0), s.Attempt(1), s.Attempt(1 << 19), s.Attempt(1 << 40), Session{"a", 4}.Attempt(0), Session{"a", 1<<64 - 1}.Attempt(0)}
	for i, later := range order[1:] {
		if later.Turn <= order[i].Turn || later.ID != "a" {
			t.Errorf("%v is not after %v", later, order[i])
		}
	}
}
