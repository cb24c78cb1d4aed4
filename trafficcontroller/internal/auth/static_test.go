package auth

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/internal/tokens"
)

// staticAuth has a file of tokens: everything, team (x and pay-*), and one that has
// expired.
func staticAuth(t *testing.T, cfg Config) (a *Auth, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "tokens.yml")
	writeTokens(t, file, "lgr_all", "lgr_team", "lgr_old")
	cfg.StaticTokens = file
	return newAuth(t, cfg), file
}

// writeTokens puts those of the tokens into the file that are named.
func writeTokens(t *testing.T, file string, all ...string) {
	t.Helper()
	sources := map[string]string{"lgr_all": "['*']", "lgr_team": "[x, 'pay-*', " + app + "]", "lgr_old": "['*'], expires: 2020-01-02T03:04:05Z"}
	text := "tokens:\n"
	for _, token := range all {
		text += fmt.Sprintf("- {name: %s, sha256: %s, sources: %s}\n", token[4:], tokens.Hash(token), sources[token])
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// decisions is what one token gets everywhere.
func decisions(t *testing.T, a *Auth, authorization, source string) map[string]Decision {
	r, ctx := request(authorization), t.Context()
	all := map[string]Decision{
		"firehose": a.Firehose(ctx, r), "app": a.App(ctx, r, source), "read": a.Read(ctx, r, []string{source}),
		"read all": a.Read(ctx, r, nil), "log cache": a.LogCache(ctx, r, source),
	}
	query, read := a.LogCacheQuery(ctx, r, []string{source})
	all["query"] = query
	if query.Allowed() != (len(read[source]) == 1) {
		t.Errorf("%q: the query reads %v", authorization, read)
	}
	meta, seen := a.LogCacheMeta(ctx, r)
	if seen.Has(source) && !meta.Allowed() {
		t.Errorf("%q: meta is refused, and shows %q", authorization, source)
	}
	all["meta"], all["in meta"] = meta, meta
	if meta.Allowed() && !seen.Has(source) {
		all["in meta"] = Decision{Reason: NotFound}
	}
	return all
}

// checkDecisions wants every way named to be allowed, and the others refused so.
func checkDecisions(t *testing.T, what string, got map[string]Decision, allowed string, others Reason) {
	t.Helper()
	want := map[string]bool{}
	for _, way := range strings.Split(allowed, ", ") {
		want[way] = true
	}
	for way, d := range got {
		why := others
		if others == NotFound && (way == "firehose" || way == "read all") {
			why = NoScope
		}
		if want[way] {
			why = Allowed
		}
		if d.Reason != why {
			t.Errorf("%s: %s: %s, want %s", what, way, d.Reason, why)
		}
		if plain := d.Plain(); !d.Allowed() && way != "in meta" && (d.Status < 400 || plain.Status < 400) {
			t.Errorf("%s: %s: answered %d, %d to new requests", what, way, d.Status, plain.Status)
		}
	}
}

const (
	everyWay  = "firehose, app, read, read all, log cache, query, meta, in meta"
	sourceWay = "app, read, log cache, query, meta, in meta"
)

func TestStaticTokens(t *testing.T) {
	o, platform := newOutside(t)
	o.set(says(500, "not asked"), says(500, "not asked"))
	for name, cfg := range map[string]Config{"alone": DefaultConfig(), "beside UAA": platform} {
		t.Run(name, func(t *testing.T) {
			a, _ := staticAuth(t, cfg)
			for _, c := range []struct {
				authorization, source, allowed string
				others                         Reason
			}{
				{"bearer lgr_all", "anything", everyWay, NotFound},
				{"Bearer lgr_all", app, everyWay, NotFound},
				{"lgr_all", app, everyWay, NotFound},
				{"bearer lgr_team", "x", sourceWay, NotFound},
				{"bearer lgr_team", "pay-api", sourceWay, NotFound},
				{"bearer lgr_team", app, sourceWay, NotFound},
				{"bearer lgr_team", "y", "meta", NotFound},
				{"bearer lgr_team", other, "meta", NotFound},
				{"bearer lgr_team", "X", "meta", NotFound},
				{"bearer lgr_old", "x", "", InvalidToken},
				{"bearer lgr_other", "x", "", InvalidToken},
				{"bearer lgr_", app, "", InvalidToken},
				{"bearer LGR_ALL", app, "", InvalidToken},
			} {
				if c.authorization == "bearer LGR_ALL" && name != "alone" {
					continue // UAA's, for all that is known
				}
				checkDecisions(t, fmt.Sprintf("%q for %q", c.authorization, c.source), decisions(t, a, c.authorization, c.source), c.allowed, c.others)
			}
			if asked := o.asked(); len(asked) != 0 {
				t.Errorf("asked %q", asked)
			}
		})
	}
}

// TestWithoutPlatform shows what requests without a token of any use get where
// there is no UAA.
func TestWithoutPlatform(t *testing.T) {
	a, _ := staticAuth(t, DefaultConfig())
	for authorization, why := range map[string]Reason{
		"": NoToken, "bearer x": InvalidToken, "bearer": InvalidToken, "bearer " + token(t, nil): InvalidToken, "Basic YTpi": InvalidToken,
	} {
		for _, source := range []string{app, "x"} {
			for way, d := range decisions(t, a, authorization, source) {
				if d.Reason != why {
					t.Errorf("%.20q for %q: %s: %s, want %s", authorization, source, way, d.Reason, why)
				}
			}
		}
	}
	r := request("")
	r.AddCookie(&http.Cookie{Name: "authorization", Value: "bearer+lgr_all"})
	if d := a.Firehose(t.Context(), r); !d.Allowed() {
		t.Errorf("a cookie: %+v", d)
	}
}

// TestStaticTokensChange takes a token out of the file while a stream holds it.
func TestStaticTokensChange(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Recheck = time.Second
	a, file := staticAuth(t, cfg)
	lost := make(chan Lost, 2)
	for _, token := range []string{"lgr_team", "lgr_all"} {
		d := a.App(t.Context(), request("bearer "+token), "x")
		if !d.Allowed() || d.Name() != "static:"+token[4:] {
			t.Fatalf("%+v", d)
		}
		h := a.Hold(d, func(l Lost) { lost <- l })
		t.Cleanup(h.Release)
	}
	writeTokens(t, file, "lgr_all")
	select {
	case l := <-lost:
		if l != Revoked {
			t.Error(l)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it is held though it is gone from the file")
	}
	if d := a.App(t.Context(), request("bearer lgr_team"), "x"); d.Reason != InvalidToken {
		t.Errorf("%+v", d)
	}
	if a.HoldStats().Tokens != 1 {
		t.Error("the other stream was ended, too")
	}
}

func TestBadStaticFile(t *testing.T) {
	cfg := DefaultConfig()
	cfg.StaticTokens = filepath.Join(t.TempDir(), "none")
	if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "static-tokens") {
		t.Errorf("without the file: %v", err)
	}
	if err := os.WriteFile(cfg.StaticTokens, []byte(strings.Repeat("#", maxTokensFile+1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("a huge file: %v", err)
	}
}
