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
	if known && (err != nil || !isAfresh(ctx)) {
		return id, err
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
	var invalid bool
	err = a.call(CallCheckToken, a.uaa, r, token, func(resp *http.Response) (err error) {
		id, invalid, err = readCheck(resp)
		return err
	})
	if err == nil && invalid {
		err = ErrInvalidToken
		a.cache.forget(keyOf("check_token", token))
	}
	return id, err
}

// errOwnClient is an outage for us, and a token without scopes for the RLP
// gateway (protocol/04).
var errOwnClient = fmt.Errorf("it does not accept our own client id and secret: %w", ErrInvalidToken)

// readCheck reads UAA's answer; invalid is its word about the token.
func readCheck(resp *http.Response) (id Identity, invalid bool, err error) {
	body, err := readAll(resp)
	if err != nil {
		return Identity{}, false, err
	}
	var said struct {
		Scope    []string `json:"scope"`
		UserID   string   `json:"user_id"`
		ClientID string   `json:"client_id"`
		Exp      int64    `json:"exp"`
	}
	if json.Unmarshal(body, &said) != nil {
		return Identity{}, false, fmt.Errorf("status %d, and the answer is not the JSON expected", resp.StatusCode)
	}
	switch resp.StatusCode {
	case http.StatusOK:
		return Identity{UserID: said.UserID, ClientID: said.ClientID, Scopes: said.Scope, Expires: said.Exp}, false, nil
	case http.StatusBadRequest:
		return Identity{}, true, nil
	case http.StatusUnauthorized:
		return Identity{}, false, errOwnClient
	}
	return Identity{}, false, fmt.Errorf("status %d", resp.StatusCode)
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
