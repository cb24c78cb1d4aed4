package auth

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/go-jose/go-jose/v4"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

// provider serves discovery and keys of an OpenID Connect provider, as broken as
// wanted.
type provider struct {
	url  atomic.Pointer[string]
	down atomic.Bool
	says atomic.Pointer[string] // in the place of its discovery document
}

func (p *provider) serve(w http.ResponseWriter, r *http.Request) {
	set, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signingKeys()[0].Public(), KeyID: "key-1", Use: "sig"}}})
	switch instead := p.says.Load(); {
	case p.down.Load():
		w.WriteHeader(http.StatusBadGateway)
	case r.URL.Path == "/keys":
		says(200, string(set))(w, r)
	case r.URL.Path != "/.well-known/openid-configuration":
		w.WriteHeader(http.StatusNotFound)
	case instead != nil:
		says(200, *instead)(w, r)
	default:
		says(200, fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, *p.url.Load(), *p.url.Load()+"/keys"))(w, r)
	}
}

// newProvider returns one, and the configuration for it alone.
func newProvider(t *testing.T) (*provider, Config) {
	t.Helper()
	p := &provider{}
	o, _ := newOutside(t)
	o.set(p.serve, says(500, ""))
	url := o.uaaServer.URL
	p.url.Store(&url)
	cfg := DefaultConfig()
	cfg.CacheFor = 0
	cfg.OIDC.Issuer, cfg.OIDC.CA = url, mtls.SetFiles(certificateDir(t)+"/uaa", mtls.NameOutside).CA
	cfg.OIDC.Audiences = []string{"loggregator"}
	cfg.OIDC.Grants = []string{"operators=*", "payments=pay-*,x", "payments=" + app}
	cfg.OIDC.SourcesClaim = "sources"
	return p, cfg
}

func (p *provider) token(t *testing.T, changed map[string]any) string {
	claims := map[string]any{"iss": *p.url.Load(), "aud": "loggregator", "sub": "alice", "user_id": nil, "client_id": nil, "scope": nil}
	for name, v := range changed {
		claims[name] = v
	}
	return "bearer " + token(t, claims)
}

func TestOIDC(t *testing.T) {
	p, cfg := newProvider(t)
	a := newAuth(t, cfg)
	for _, c := range []struct {
		name, source, allowed string
		others                Reason
		claims                map[string]any
	}{
		{"an operator", "anything", everyWay, NotFound, map[string]any{"groups": []string{"x", "operators"}}},
		{"of a group", "pay-api", sourceWay, NotFound, map[string]any{"groups": []string{"payments"}}},
		{"of a group, the second grant", app, sourceWay, NotFound, map[string]any{"groups": []string{"payments"}}},
		{"of a group, another's", "y", "meta", NotFound, map[string]any{"groups": []string{"payments"}}},
		{"groups as words", "x", sourceWay, NotFound, map[string]any{"groups": "openid payments"}},
		{"in no group", "x", "meta", NotFound, map[string]any{"groups": []string{}}},
		{"without groups", "x", "meta", NotFound, nil},
		{"a group like another", "x", "meta", NotFound, map[string]any{"groups": []string{"Payments", "payments "}}},
		{"scopes of UAA", "x", "meta", NotFound, map[string]any{"scope": []string{"doppler.firehose", "logs.admin"}}},
		{"sources", "y", sourceWay, NotFound, map[string]any{"sources": []string{"z", "y"}}},
		{"sources, another's", "x", "meta", NotFound, map[string]any{"sources": []string{"z", "y"}}},
		{"a star among sources", "x", "meta", NotFound, map[string]any{"sources": []string{"*", "x*"}}},
		{"one of two audiences", "x", sourceWay, NotFound, map[string]any{"aud": []string{"a", "loggregator"}, "groups": "payments"}},

		{"another audience", "x", "", InvalidToken, map[string]any{"aud": "other", "groups": "operators"}},
		{"no audience", "x", "", InvalidToken, map[string]any{"aud": nil, "groups": "operators"}},
		{"another issuer", "x", "", InvalidToken, map[string]any{"iss": "https://other", "groups": "operators"}},
		{"expired", "x", "", InvalidToken, map[string]any{"exp": 1_600_000_000, "groups": "operators"}},
		{"not yet", "x", "", InvalidToken, map[string]any{"nbf": 5_000_000_000, "exp": 6_000_000_000, "groups": "operators"}},
		{"without an end", "x", "", InvalidToken, map[string]any{"exp": nil, "groups": "operators"}},
		{"of nobody", "x", "", InvalidToken, map[string]any{"sub": nil, "groups": "operators"}},
		{"groups of the wrong kind", "x", "", InvalidToken, map[string]any{"groups": map[string]any{"operators": true}}},
		{"a list with no word", "x", "", InvalidToken, map[string]any{"groups": []any{"operators", 1}}},
		{"sources of the wrong kind", "x", "", InvalidToken, map[string]any{"groups": "operators", "sources": 7}},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkDecisions(t, c.source, decisions(t, a, p.token(t, c.claims), c.source), c.allowed, c.others)
		})
	}
	wrong := "bearer " + signed(t, signingKeys()[1], map[string]any{"iss": cfg.OIDC.Issuer, "aud": "loggregator", "sub": "a", "groups": "operators", "exp": 5_000_000_000})
	checkDecisions(t, "wrong key", decisions(t, a, wrong, "x"), "", InvalidToken)
	if d := a.Firehose(t.Context(), request(p.token(t, map[string]any{"groups": "operators"}))); d.Name() != "oidc:alice" || d.Identity.Expires == 0 {
		t.Errorf("%+v", d.Identity)
	}
}

// TestOIDCOutage has the provider give no answer of use: nobody is let in, and
// nobody is told that the token is bad.
func TestOIDCOutage(t *testing.T) {
	for name, instead := range map[string]string{
		"down": "", "another issuer": `{"issuer":"https://other","jwks_uri":"URL/keys"}`, "no keys": `{"issuer":"URL"}`,
		"keys without TLS": `{"issuer":"URL","jwks_uri":"http://127.0.0.1/keys"}`, "garbage": `<html>`,
	} {
		t.Run(name, func(t *testing.T) {
			p, cfg := newProvider(t)
			if instead == "" {
				p.down.Store(true)
			} else {
				text := replaceURL(instead, cfg.OIDC.Issuer)
				p.says.Store(&text)
			}
			a := newAuth(t, cfg)
			checkDecisions(t, name, decisions(t, a, p.token(t, map[string]any{"groups": "operators"}), "x"), "", Outage)
		})
	}
}

// TestOIDCBesideUAA has each token looked at by who has issued it.
func TestOIDCBesideUAA(t *testing.T) {
	p, provider := newProvider(t)
	o, cfg := newOutside(t)
	o.set(uaaOf(says(500, "not asked")), says(404, ""))
	cfg.OIDC = provider.OIDC
	a := newAuth(t, cfg)
	if d := a.Firehose(t.Context(), request("bearer "+token(t, nil))); !d.Allowed() || d.Name() != "alice" {
		t.Errorf("UAA's: %+v", d)
	}
	ours := request(p.token(t, map[string]any{"groups": "operators", "scope": nil}))
	if d := a.Firehose(t.Context(), ours); !d.Allowed() || d.Name() != "oidc:alice" {
		t.Errorf("the provider's: %+v", d)
	}
	if d := a.App(t.Context(), request(p.token(t, map[string]any{"groups": "payments"})), "x"); !d.Allowed() {
		t.Errorf("no app's id: %+v", d)
	}
	if d := a.App(t.Context(), request("bearer "+token(t, nil)), "x"); d.Reason != InvalidID {
		t.Errorf("UAA's, and no app's id: %+v", d)
	}
	if n := count(o.asked(), "log_access"); n != 0 {
		t.Errorf("Cloud Controller was asked %d times", n)
	}
}

func replaceURL(text, url string) string { return strings.ReplaceAll(text, "URL", url) }
