package tokens

import (
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

func TestParse(t *testing.T) {
	h := Hash("lgr_x")
	for _, c := range []struct{ name, file, fault string }{
		{"empty", "", ""},
		{"none", "tokens: []\n", ""},
		{"good", "tokens:\n- name: a\n  sha256: " + h + "\n  sources: [x, 'y-*']\n  expires: 2031-01-02T03:04:05Z\n", ""},
		{"not YAML", "tokens: [", "not a file of tokens"},
		{"misspelt", "tokens:\n- name: a\n  sha256: " + h + "\n  sources: ['*']\n  expire: 2031-01-02T03:04:05Z\n", "expire not found"},
		{"a list", "- a\n", "not a file of tokens"},
		{"two documents", "tokens: []\n---\ntokens: []\n", "more than one document"},
		{"no name", "tokens:\n- sha256: " + h + "\n  sources: [x]\n", "name: has to have 1 to 128 bytes"},
		{"no hash", "tokens:\n- name: a\n  sources: [x]\n", "sha256: has to be 64 small hex digits"},
		{"capitals", "tokens:\n- name: a\n  sha256: " + strings.ToUpper(h) + "\n  sources: [x]\n", "sha256: has to be 64 small hex digits"},
		{"the token itself", "tokens:\n- name: a\n  sha256: lgr_x\n  sources: [x]\n", "sha256: has to be 64 small hex digits"},
		{"no sources", "tokens:\n- name: a\n  sha256: " + h + "\n", "sources: at least one"},
		{"a bad source", "tokens:\n- name: a\n  sha256: " + h + "\n  sources: ['*x']\n", "stands for the end"},
		{"name twice", "tokens:\n- {name: a, sha256: " + h + ", sources: [x]}\n- {name: a, sha256: " + Hash("b") + ", sources: [x]}\n", "name: is there already"},
		{"hash twice", "tokens:\n- {name: a, sha256: " + h + ", sources: [x]}\n- {name: b, sha256: " + h + ", sources: [x]}\n", "sha256: is there already"},
		{"a bad time", "tokens:\n- {name: a, sha256: " + h + ", sources: [x], expires: soon}\n", "not a file of tokens"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			if (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%v, want %q", err, c.fault)
			}
			if err != nil && strings.Contains(err.Error(), "lgr_x") {
				t.Error("the error shows a token")
			}
		})
	}
}

// TestRoundTrip has what is written be read again.
func TestRoundTrip(t *testing.T) {
	token := New()
	if again := New(); again == token || len(token) != len(Prefix)+43 {
		t.Errorf("%q, then %q", token, again)
	}
	for _, e := range []Entry{
		{Name: "a", SHA256: Hash(token), Sources: []string{All}},
		{Name: "b: c", SHA256: Hash(token), Sources: []string{"x,y", "z-*"}, Expires: time.Unix(2_000_000_000, 0).UTC()},
	} {
		text, err := yaml.Marshal(map[string]any{"tokens": []Entry{e}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := Parse(text)
		if err != nil || len(got) != 1 || got[0].Name != e.Name || got[0].SHA256 != e.SHA256 || !got[0].Expires.Equal(e.Expires) ||
			strings.Join(got[0].Sources, " ") != strings.Join(e.Sources, " ") {
			t.Errorf("%+v became %+v, %v", e, got, err)
		}
	}
}

func TestCheckSource(t *testing.T) {
	for _, good := range []string{"*", "a", "a*", "a,b", strings.Repeat("x", MaxSource)} {
		if err := CheckSource(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "a*b", "**", "*a", strings.Repeat("x", MaxSource+1)} {
		if CheckSource(bad) == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("tokens:\n- {name: a, sha256: " + Hash("b") + ", sources: [x, 'y*'], expires: 2031-01-02T03:04:05Z}\n"))
	f.Add([]byte("tokens: [{}]"))
	f.Add([]byte("tokens: &a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		entries, err := Parse(text)
		for _, e := range entries {
			if err != nil || e.Check() != nil {
				t.Fatalf("%+v, %v", e, err)
			}
		}
	})
}
