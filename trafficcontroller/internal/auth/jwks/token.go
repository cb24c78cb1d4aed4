package jwks

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// MaxToken bounds a token, in bytes.
const MaxToken = 16 << 10

// ErrBad is what every BadError is.
var ErrBad = errors.New("the token is bad")

// BadError is why a token is known to be bad. It never shows the token.
type BadError string

// Why tokens are bad.
const (
	ErrMalformed  BadError = "malformed" // too long, no JWT, written in an odd way, or claims of the wrong kind
	ErrAlgorithm  BadError = "algorithm"
	ErrUnknownKey BadError = "unknown_key"
	ErrSignature  BadError = "signature"
	ErrIssuer     BadError = "issuer"
	ErrAudience   BadError = "audience"
	ErrExpired    BadError = "expired" // or without an end
	ErrNotYet     BadError = "not_yet" // valid, or issued
)

// Bads lists them.
func Bads() []BadError {
	return []BadError{ErrMalformed, ErrAlgorithm, ErrUnknownKey, ErrSignature, ErrIssuer, ErrAudience, ErrExpired, ErrNotYet}
}

func (b BadError) Error() string { return "the token is bad: " + string(b) }

// Is tells that every BadError is ErrBad.
func (b BadError) Is(target error) bool { return target == ErrBad }

// Claims is what every JWT says.
type Claims = jwt.Claims

// Audience is one of the claims: a string, or several.
type Audience = jwt.Audience

// Expect is what the claims of a good token have to say.
type Expect struct {
	Issuer string
	// Audiences are those of which the token has to name one; none for any.
	Audiences []string
	// Skew is how far the issuer's clock may be off.
	Skew time.Duration
}

// algorithms that are accepted. None of them is symmetric.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256}

// HasClaims is what claims may be decoded into that has the standard ones among
// its own, so that they are decoded once.
type HasClaims interface{ Standard() *Claims }

// Verify checks a token in compact form, and decodes its claims into into as well,
// unless that is nil. The error is a BadError, which wraps ErrBad, when the token is known to be
// bad; any other means that nobody could tell. It may wait for keys.
func (s *KeySet) Verify(ctx context.Context, token string, want Expect, into any) (Claims, error) {
	if len(token) > MaxToken {
		return Claims{}, ErrMalformed
	}
	// Without keys nothing is said of any token: its issuer may sign in a way
	// that is not known here.
	if _, _, err := s.look(ctx, ""); err != nil {
		return Claims{}, err
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	if err != nil || len(parsed.Headers) != 1 || !plain(token) {
		return Claims{}, malformed(err)
	}
	key, err := s.key(ctx, parsed.Headers[0])
	if err != nil {
		return Claims{}, err
	}
	return claims(parsed, key, want, into)
}

// plain tells whether a token that can be decoded is written as its issuer writes
// it. Decoders of base64 pass over line feeds, and over spare bits at the end, so
// one token could be written in many ways, and one that was revoked would come
// back as another.
func plain(token string) bool {
	if strings.ContainsAny(token, "\r\n") {
		return false
	}
	for part := range strings.SplitSeq(token, ".") {
		end := part[len(part)-len(part)%4:]
		if _, err := base64.RawURLEncoding.Strict().DecodeString(end); err != nil {
			return false
		}
	}
	return true
}

// malformed tells what is wrong with a token that cannot be parsed.
func malformed(err error) BadError {
	var alg *jose.ErrUnexpectedSignatureAlgorithm
	if errors.As(err, &alg) {
		return ErrAlgorithm
	}
	return ErrMalformed
}

// key finds the key that a header names.
func (s *KeySet) key(ctx context.Context, h jose.Header) (any, error) {
	if h.KeyID == "" {
		return nil, ErrUnknownKey
	}
	wanted := name(h.Algorithm, h.KeyID)
	keys, last, err := s.look(ctx, wanted)
	if err != nil {
		return nil, err
	}
	key, ok := keys[wanted]
	switch {
	case ok:
		return key, nil
	case last:
		return nil, ErrUnknownKey
	}
	return nil, fmt.Errorf("%w: the one named is not known, and none can be fetched", ErrNoKeys)
}

func claims(parsed *jwt.JSONWebToken, key any, want Expect, into any) (Claims, error) {
	var c Claims
	var err error
	switch own, ok := into.(HasClaims); {
	case ok:
		err = parsed.Claims(key, into)
		c = *own.Standard()
	case into == nil:
		err = parsed.Claims(key, &c)
	default:
		err = parsed.Claims(key, &c, into)
	}
	if errors.Is(err, jose.ErrCryptoFailure) {
		return Claims{}, ErrSignature
	}
	if err != nil {
		return Claims{}, ErrMalformed
	}
	if bad := want.fault(c, time.Now()); bad != "" {
		return Claims{}, bad
	}
	return c, nil
}

// fault is what is wrong with claims; "" for nothing.
func (e Expect) fault(c Claims, now time.Time) BadError {
	switch {
	case c.Issuer != e.Issuer || c.Issuer == "":
		return ErrIssuer
	case len(e.Audiences) > 0 && !slices.ContainsFunc(c.Audience, func(a string) bool { return slices.Contains(e.Audiences, a) }):
		return ErrAudience
	case c.Expiry == nil || !now.Before(c.Expiry.Time().Add(e.Skew)):
		return ErrExpired
	case c.NotBefore != nil && now.Add(e.Skew).Before(c.NotBefore.Time()), c.IssuedAt != nil && now.Add(e.Skew).Before(c.IssuedAt.Time()):
		return ErrNotYet
	}
	return ""
}
