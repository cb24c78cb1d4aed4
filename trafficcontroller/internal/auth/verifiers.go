package auth

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/internal/mtls"
	"github.com/a1ea6966/loggregator/internal/tokens"
	"github.com/a1ea6966/loggregator/internal/watch"
)

// verifiers are all that know tokens: the file of static ones, an OpenID Connect
// provider, UAA. Each of them may be nil.
type verifiers struct {
	auth   *Auth
	static *watch.Value[static]
	oidc   *oidc
	uaa    Verifier
}

func newVerifiers(a *Auth, log *slog.Logger) (*verifiers, error) {
	v := &verifiers{auth: a}
	var err error
	if file := a.cfg.StaticTokens; file != "" {
		if v.static, err = watchStatic(file, log); err != nil {
			return nil, fmt.Errorf("static-tokens: %w", err)
		}
	}
	if issuer := a.cfg.OIDC.Issuer; issuer != "" {
		doc, err := trusting(issuer, a.cfg, log)
		if err != nil {
			return nil, fmt.Errorf("oidc-ca: %w", err)
		}
		if v.oidc, err = newOIDC(a, doc); err != nil {
			return nil, fmt.Errorf("oidc-grant: %w", err)
		}
	}
	if a.uaa != nil {
		v.uaa = uaaVerifier{a}
	}
	return v, nil
}

// Verify tells who a token speaks for, asking if need be. Who it is of is told
// also of a bad one, so far as an Identity with Grants is none of UAA's.
func (v *verifiers) Verify(ctx context.Context, token string) (Identity, error) {
	if id, mine, err := v.here(ctx, token); mine {
		return id, err
	}
	return v.uaa.Verify(ctx, token)
}

// VerifyLocally tells what can be told without asking UAA about the token.
func (v *verifiers) VerifyLocally(ctx context.Context, token string) (id Identity, known bool, err error) {
	if id, mine, err := v.here(ctx, token); mine {
		return id, true, err
	}
	if local, ok := v.uaa.(LocalVerifier); ok {
		return local.VerifyLocally(ctx, token)
	}
	return Identity{}, false, nil
}

// here tells about a token that is not UAA's.
func (v *verifiers) here(ctx context.Context, token string) (id Identity, mine bool, err error) {
	token = bare(token)
	switch {
	case v.static != nil && strings.HasPrefix(token, tokens.Prefix):
		id, err = v.fromFile(token)
	case v.oidc != nil && v.oidc.mine(token):
		id, err = v.oidc.verify(ctx, token)
	case v.uaa == nil:
		id, err = v.refuse(resultUnknown)
	default:
		return Identity{}, false, nil
	}
	if err != nil {
		id = Identity{Grants: nothing}
	}
	return id, true, err
}

func (v *verifiers) fromFile(token string) (Identity, error) {
	id, ok := v.static.Get()[tokens.Hash(token)]
	switch {
	case !ok:
		return v.refuse(resultUnknown)
	case id.Expires != 0 && !time.Now().Before(time.Unix(id.Expires, 0).Add(v.auth.cfg.TokenSkew)):
		return v.refuse(resultExpired)
	}
	v.auth.stats.local(resultAccepted)
	return id, nil
}

func (v *verifiers) refuse(why localResult) (Identity, error) {
	v.auth.stats.local(why)
	return Identity{}, ErrInvalidToken
}

// trusting is a service that sends on to others: each is known by the name that
// it is dialled by. The authority is read again for each connection, and
// --skip-cert-verify, which is about UAA and Cloud Controller, changes nothing.
func trusting(base string, cfg Config, log *slog.Logger) (*service, error) {
	if _, err := mtls.Trusting(cfg.OIDC.CA, "", log); err != nil {
		return nil, err
	}
	s := newService(base, nil, cfg.Timeout)
	t := s.client.Transport.(*http.Transport)
	t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, fmt.Errorf("dial: %w", err)
		}
		config, err := mtls.Trusting(cfg.OIDC.CA, host, log)
		if err != nil {
			return nil, err
		}
		d := tls.Dialer{NetDialer: &net.Dialer{Timeout: cfg.Timeout}, Config: config}
		return d.DialContext(ctx, network, addr)
	}
	return s, nil
}
