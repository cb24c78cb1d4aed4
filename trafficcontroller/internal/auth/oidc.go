package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth/jwks"
)

// OIDCConfig is about tokens of an OpenID Connect provider (OpenID Connect
// Discovery 1.0).
type OIDCConfig struct {
	Issuer string // https URL, as its tokens and its discovery document have it; empty for none
	CA     string // file; empty for the authorities that this host trusts
	// Audiences are those of which a token has to name one.
	Audiences []string
	// UserClaim names the reader, in views and limits.
	UserClaim string
	// GroupsClaim holds groups, or scopes: a list, or words.
	GroupsClaim string
	// Grants are GROUP=SOURCE[,SOURCE...], with sources as in the file of static
	// tokens.
	Grants []string
	// SourcesClaim, if set, holds the ids of sources that its bearer may read.
	SourcesClaim string
}

// oidc verifies the tokens of one provider.
type oidc struct {
	auth   *Auth
	cfg    OIDCConfig
	groups map[string]*Grants
	keys   *jwks.KeySet
	doc    *service
}

func newOIDC(a *Auth, doc *service) (*oidc, error) {
	o := &oidc{auth: a, cfg: a.cfg.OIDC, doc: doc}
	var err error
	if o.groups, err = parseGrants(o.cfg.Grants); err != nil {
		return nil, err
	}
	o.keys = jwks.New(a.ctx, jwks.Config{
		Find: o.find, Client: doc.client, Timeout: min(keysTimeout, a.cfg.Timeout), KeepFor: keysFor,
		Fetched: func(took time.Duration, err error) { a.noted(CallOIDCKeys, took, err) },
	})
	return o, nil
}

// parseGrants reads GROUP=SOURCE[,SOURCE...].
func parseGrants(specs []string) (map[string]*Grants, error) {
	groups := map[string]*Grants{}
	for _, spec := range specs {
		group, sources, ok := strings.Cut(spec, "=")
		if !ok || group == "" {
			return nil, fmt.Errorf("%.80q is not GROUP=SOURCE[,SOURCE...]", spec)
		}
		if groups[group] == nil {
			groups[group] = &Grants{}
		}
		for source := range strings.SplitSeq(sources, ",") {
			if err := groups[group].grant(source); err != nil {
				return nil, fmt.Errorf("group %.40q: %w", group, err)
			}
		}
	}
	return groups, nil
}

// find asks the provider where its keys are.
func (o *oidc) find(ctx context.Context) (string, error) {
	said, err := o.auth.discover(ctx, CallOIDCDiscovery, o.doc)
	if err != nil {
		return "", err
	}
	if said.Issuer != o.cfg.Issuer {
		return "", fmt.Errorf("it says that it is %.200q", said.Issuer)
	}
	if u, err := url.Parse(said.Keys); err != nil || u.Scheme != "https" || u.Host == "" {
		return "", errors.New("its jwks_uri is no https URL")
	}
	return said.Keys, nil
}

// mine tells whether a token says that it is of this provider.
func (o *oidc) mine(token string) bool {
	var c struct {
		Issuer string `json:"iss"`
	}
	return looksLikeJWT(token) && len(token) <= jwks.MaxToken && claims(token, &c) && c.Issuer == o.cfg.Issuer
}

// verify returns who a token speaks for, and what it may read.
func (o *oidc) verify(ctx context.Context, token string) (Identity, error) {
	want := jwks.Expect{Issuer: o.cfg.Issuer, Audiences: o.cfg.Audiences, Skew: o.auth.cfg.TokenSkew}
	var said map[string]json.RawMessage
	standard, err := o.keys.Verify(ctx, token, want, &said)
	var bad jwks.BadError
	if errors.As(err, &bad) {
		o.auth.stats.local(resultOf(bad))
		return Identity{}, fmt.Errorf("%w: %w", ErrInvalidToken, bad)
	}
	if err != nil {
		o.auth.stats.local(resultNoKeys)
		return Identity{}, err
	}
	user, named := text(said[o.cfg.UserClaim])
	groups, grouped := words(said[o.cfg.GroupsClaim])
	sources, listed := words(said[o.cfg.SourcesClaim])
	if !named || !grouped || !listed {
		o.auth.stats.local(resultMalformed)
		return Identity{}, fmt.Errorf("%w: %s names nobody, or %s or %s are no lists", ErrInvalidToken, o.cfg.UserClaim, o.cfg.GroupsClaim, o.cfg.SourcesClaim)
	}
	o.auth.stats.local(resultAccepted)
	return Identity{UserID: "oidc:" + user, Expires: standard.Expiry.Time().Unix(), Grants: o.granted(groups, sources)}, nil
}

// granted is what groups may read, and the sources listed.
func (o *oidc) granted(groups, sources []string) *Grants {
	g := &Grants{}
	for _, group := range groups {
		if of := o.groups[group]; of != nil {
			g.add(of)
		}
	}
	for _, source := range sources {
		g.id(source)
	}
	return g
}

// text reads a claim that has to be there.
func text(claim json.RawMessage) (s string, ok bool) {
	return s, json.Unmarshal(claim, &s) == nil && s != ""
}

// words reads a claim that is a list of strings, or one string of words as OAuth's
// scope is; none if it is not there.
func words(claim json.RawMessage) (list []string, ok bool) {
	var s string
	switch {
	case len(claim) == 0 || string(claim) == "null":
		return nil, true
	case json.Unmarshal(claim, &s) == nil:
		return strings.Fields(s), true
	}
	return list, json.Unmarshal(claim, &list) == nil
}

func (c *OIDCConfig) validate(f *daemon.Faults) {
	if c.Issuer == "" {
		c.validateUnused(f)
		return
	}
	checkURL(f, "oidc-issuer", c.Issuer, "https")
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		f.Addf("oidc-audience", `""`, "is needed: without it tokens for any other service of this provider would do")
	}
	if c.UserClaim == "" {
		f.Addf("oidc-user-claim", `""`, "has to have at least one byte")
	}
	if len(c.Grants) == 0 && c.SourcesClaim == "" {
		f.Addf("oidc-grant", `""`, "or --oidc-sources-claim is needed: otherwise nobody may read anything")
	}
	if _, err := parseGrants(c.Grants); err != nil {
		f.Addf("oidc-grant", strings.Join(c.Grants, " "), "%v", err)
	}
}

// validateUnused is for settings of a provider that is not there: whoever gives
// them believes that it is.
func (c *OIDCConfig) validateUnused(f *daemon.Faults) {
	for _, unused := range []struct{ flag, value string }{
		{"oidc-ca", c.CA}, {"oidc-audience", strings.Join(c.Audiences, " ")}, {"oidc-grant", strings.Join(c.Grants, " ")}, {"oidc-sources-claim", c.SourcesClaim},
	} {
		if unused.value != "" {
			f.Addf(unused.flag, unused.value, "means nothing without --oidc-issuer")
		}
	}
}
