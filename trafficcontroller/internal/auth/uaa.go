package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth/jwks"
)

// ErrInvalidToken is what a Verifier returns for a token that is known to be
// bad.
var ErrInvalidToken = errors.New("the token is not valid")

// uaaVerifier asks UAA's check_token (protocol/05 section 8).
type uaaVerifier struct{ a *Auth }

// Verify tells by UAA's keys, or asks UAA, or recalls what it said. The error
// wraps ErrInvalidToken when the token is bad by what it says, or UAA answered
// so, in JSON.
func (u uaaVerifier) Verify(ctx context.Context, token string) (Identity, error) {
	id, known, err := u.VerifyLocally(ctx, token)
	if known && err != nil {
		return id, toldHereError{err}
	}
	if known && !isAfresh(ctx) {
		return id, nil
	}
	asked, err := u.check(ctx, token)
	if isInvalid(err) && u.a.local != nil {
		u.a.local.deny(token, known)
	}
	return asked, err
}

// VerifyLocally tells by UAA's keys, if it can.
func (u uaaVerifier) VerifyLocally(ctx context.Context, token string) (id Identity, known bool, err error) {
	if u.a.local == nil {
		return Identity{}, false, nil
	}
	return u.a.local.verify(ctx, token)
}

// check asks UAA, or recalls what it said.
func (u uaaVerifier) check(ctx context.Context, token string) (Identity, error) {
	return ask(ctx, u.a, keyOf("check_token", token), func(ctx context.Context) (Identity, time.Time, error) {
		id, err := u.a.checkToken(ctx, token)
		return id, u.a.keepUntil(token, id.Expires), err
	})
}

func (a *Auth) checkToken(ctx context.Context, token string) (Identity, error) {
	form := url.Values{"token": {token}}.Encode()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, a.uaa.base+"/check_token", strings.NewReader(form))
	if err != nil {
		return Identity{}, fmt.Errorf("ask %s: %w", CallCheckToken, err)
	}
	r.SetBasicAuth(a.cfg.UAAClient, a.cfg.UAASecret)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	// Never sent: it lets net/http ask again when a kept connection turns out
	// to be closed.
	r.Header["X-Idempotency-Key"] = nil
	var id Identity
	var bad error
	err = a.call(CallCheckToken, a.uaa, r, token, func(resp *http.Response) (err error) {
		id, bad, err = a.readCheck(resp)
		return err
	})
	if err == nil && bad != nil {
		a.cache.forget(keyOf("check_token", token))
		return Identity{}, bad
	}
	return id, err
}

// toldHereError is an error about a token that is bad by what is known or wanted here:
// nobody else is asked for another opinion.
type toldHereError struct{ error }

func (e toldHereError) Unwrap() error { return e.error }

func isToldHere(err error) bool { return errors.As(err, new(toldHereError)) }

// errOwnClient is an outage for us, and a token without scopes for the RLP
// gateway (protocol/04).
var errOwnClient = fmt.Errorf("it does not accept our own client id and secret: %w", ErrInvalidToken)

// checked is UAA's answer.
type checked struct {
	Scope    []string      `json:"scope"`
	UserID   string        `json:"user_id"`
	ClientID string        `json:"client_id"`
	Exp      int64         `json:"exp"`
	ID       string        `json:"jti"`
	Audience jwks.Audience `json:"aud"`
}

// readCheck reads UAA's answer; bad wraps ErrInvalidToken when the token is bad by
// its word, or not one that is taken here.
func (a *Auth) readCheck(resp *http.Response) (id Identity, bad, err error) {
	body, err := readAll(resp)
	if err != nil {
		return Identity{}, nil, err
	}
	var said checked
	if json.Unmarshal(body, &said) != nil {
		return Identity{}, nil, fmt.Errorf("status %d, and the answer is not the JSON expected", resp.StatusCode)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return Identity{UserID: said.UserID, ClientID: said.ClientID, Scopes: said.Scope, Expires: said.Exp}, a.wants(&said), nil
	case http.StatusBadRequest:
		return Identity{}, ErrInvalidToken, nil
	case http.StatusUnauthorized:
		return Identity{}, nil, errOwnClient
	}
	return Identity{}, nil, fmt.Errorf("status %d", resp.StatusCode)
}

// wants holds a token that UAA says is good to what is wanted of those that are
// verified here.
func (a *Auth) wants(said *checked) error {
	of := a.cfg.TokenAudiences
	switch {
	case strings.HasSuffix(said.ID, refreshToken):
		return toldHereError{fmt.Errorf("%w: it is a refresh token", ErrInvalidToken)}
	case len(of) > 0 && !slices.ContainsFunc(said.Audience, func(aud string) bool { return slices.Contains(of, aud) }):
		return toldHereError{fmt.Errorf("%w: it is for %q, none of --token-audience", ErrInvalidToken, said.Audience)}
	}
	return nil
}

// has tells whether the token has one of the scopes.
func (i Identity) has(scopes ...string) bool {
	return slices.ContainsFunc(i.Scopes, func(s string) bool { return slices.Contains(scopes, s) })
}

// isAdmin tells whether every source may be read, except on the old paths.
func (i Identity) isAdmin() bool {
	if i.Grants != nil {
		return i.Grants.all
	}
	return i.has(scopeFirehose, scopeAdmin)
}

func (i Identity) readsFirehose() bool {
	if i.Grants != nil {
		return i.Grants.all
	}
	return i.has(scopeFirehose)
}

const (
	scopeFirehose = "doppler.firehose"
	scopeAdmin    = "logs.admin"
)
