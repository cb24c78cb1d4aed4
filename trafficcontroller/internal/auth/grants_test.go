package auth

import (
	"strings"
	"testing"
)

func TestGrants(t *testing.T) {
	for _, c := range []struct {
		patterns string // with spaces between
		may, not string
	}{
		{"", "", "a * x"},
		{"a b", "a b", "A ab c a* *"},
		{"pay-*", "pay- pay-api", "pay PAY-api xpay-api"},
		{"x pay-* *", "anything pay x", ""},
	} {
		g := &Grants{}
		for p := range strings.FieldsSeq(c.patterns) {
			if err := g.grant(p); err != nil {
				t.Fatal(err)
			}
		}
		for id := range strings.FieldsSeq(c.may) {
			if !g.has(id) || g.reason(id) != Allowed {
				t.Errorf("%q do not allow %q", c.patterns, id)
			}
		}
		for id := range strings.FieldsSeq(c.not) {
			if g.has(id) || g.reason(id) != NotFound {
				t.Errorf("%q allow %q", c.patterns, id)
			}
		}
	}
	listed := &Grants{}
	listed.id("*")
	listed.id("pay-*")
	if listed.has("a") || listed.has("pay-api") || !listed.has("*") {
		t.Error("in a list of ids * is not itself")
	}
	for _, bad := range []string{"", "a*b", "**", "*a", strings.Repeat("x", 257)} {
		if err := new(Grants).grant(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}
