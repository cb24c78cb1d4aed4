package auth

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth/jwks"
)

// Bounds of what is asked of UAA to verify tokens here.
const (
	keysTimeout  = 5 * time.Second // or --access-timeout, if that is less
	keysFor      = 24 * time.Hour  // they are used while UAA is down
	issuerEvery  = 10 * time.Second
	issuerWait   = time.Minute // from one that failed; until then nobody waits for another try
	refreshToken = "-r"        // at the end of its jti
)

// local verifies UAA's tokens by its keys.
type local struct {
	auth   *Auth
	keys   *jwks.KeySet
	issuer issuer
	// revoked has tokens that UAA has said no to, until they expire.
	revoked *cache
}

func newLocal(a *Auth) *local {
	l := &local{auth: a, revoked: newCache(a.cfg.CacheEntries)}
	within := min(keysTimeout, a.cfg.Timeout)
	l.keys = jwks.New(a.ctx, jwks.Config{
		Find: jwks.At(a.uaa.base + "/token_keys"), Client: a.uaa.client, Timeout: within, KeepFor: keysFor,
		Fetched: func(took time.Duration, err error) { a.noted(CallTokenKeys, took, err) },
	})
	l.issuer = issuer{configured: a.cfg.UAAIssuer, ask: func() (string, error) {
		ctx, cancel := context.WithTimeout(a.ctx, within)
		defer cancel()
		return a.askIssuer(ctx)
	}}
	return l
}

// looksLikeJWT tells it from an opaque token: three parts, the first of which
// begins as a JSON object in base64 does.
func looksLikeJWT(token string) bool {
	return strings.HasPrefix(token, "ey") && strings.Count(token, ".") == 2
}

// uaaClaims is what UAA's tokens say beside what every JWT does.
type uaaClaims struct {
	jwks.Claims

	UserID    string    `json:"user_id"`
	ClientID  string    `json:"client_id"`
	CID       string    `json:"cid"`
	Scope     *[]string `json:"scope"`
	Revocable bool      `json:"revocable"`
}

// Standard is for jwks.
func (c *uaaClaims) Standard() *jwks.Claims { return &c.Claims }

// verify returns who a token speaks for. known is false when only UAA can tell;
// else the error wraps ErrInvalidToken when the token is bad.
func (l *local) verify(ctx context.Context, token string) (id Identity, known bool, err error) {
	if !looksLikeJWT(token) {
		return l.result(resultOpaque, Identity{}, false, nil)
	}
	var c uaaClaims
	claims, err := l.claims(ctx, token, &c)
	var bad jwks.BadError
	switch {
	case errors.As(err, &bad):
		return l.result(resultOf(bad), Identity{}, true, fmt.Errorf("%w: %w", ErrInvalidToken, bad))
	case err != nil:
		return l.result(resultNoKeys, Identity{}, false, nil)
	case strings.HasSuffix(claims.ID, refreshToken), c.ClientID == "" && c.CID == "", c.Scope == nil:
		return l.result(resultNoAccessToken, Identity{}, true, ErrInvalidToken)
	case c.Revocable:
		return l.result(resultRevocable, Identity{}, false, nil)
	}
	if l.isRevoked(signedPart(token)) || l.isRevoked(token) {
		return l.result(resultRevoked, Identity{}, true, ErrInvalidToken)
	}
	if c.ClientID == "" {
		c.ClientID = c.CID
	}
	id = Identity{UserID: c.UserID, ClientID: c.ClientID, Scopes: *c.Scope, Expires: claims.Expiry.Time().Unix()}
	id.known = string(identityKey(id, claims.Audience))
	return l.result(resultAccepted, id, true, nil)
}

// identityKey names all of an identity that Cloud Controller's answers depend
// on, and not the token: it is as good for the next one.
func identityKey(id Identity, audience []string) []byte {
	scopes, audience := slices.Sorted(slices.Values(id.Scopes)), slices.Sorted(slices.Values(audience))
	k := keyOf(append(append([]string{id.UserID, id.ClientID, fmt.Sprint(len(scopes))}, scopes...), audience...)...)
	return k[:]
}

// claims verifies a token. A good one of another issuer makes UAA be asked who
// it is again: its name may have changed.
func (l *local) claims(ctx context.Context, token string, into any) (claims jwks.Claims, err error) {
	want := jwks.Expect{Audiences: l.auth.cfg.TokenAudiences, Skew: l.auth.cfg.TokenSkew}
	for again := range 2 {
		before := want.Issuer
		if want.Issuer, err = l.issuer.get(ctx, again == 1); err != nil {
			return claims, err
		}
		if want.Issuer == before {
			return claims, jwks.ErrIssuer
		}
		claims, err = l.keys.Verify(ctx, token, want, into)
		if !errors.Is(err, jwks.ErrIssuer) {
			return claims, err
		}
	}
	return claims, err
}

// signedPart is a JWT without its signature. There may be more than one that is
// good for it: those of ES256 can be altered.
func signedPart(token string) string { return token[:strings.LastIndexByte(token, '.')] }

// deny remembers that UAA has said no to a token, as long as that can be of use. A
// verified one is denied whatever its signature. Of any other that could be made up
// to have somebody else's denied.
func (l *local) deny(token string, verified bool) {
	at, ok := claimedExpiry(token)
	if !ok || !looksLikeJWT(token) || len(token) > jwks.MaxToken {
		return
	}
	what := token
	if verified {
		what = signedPart(token)
	}
	l.revoked.put(keyOf(what), nil, time.Now(), at.Add(l.auth.cfg.TokenSkew))
}

func (l *local) isRevoked(what string) bool {
	_, said := l.revoked.get(keyOf(what), time.Time{})
	return said
}

// issuer is the name of UAA in its tokens: configured, or what it says.
type issuer struct {
	configured string
	ask        func() (string, error)
	flight     singleflight.Group

	mu    sync.Mutex
	name  string
	tried time.Time
}

var errNoIssuer = errors.New("UAA has not said yet who it is")

// get returns it. UAA is asked if it has not said yet, or again if that is
// wanted, at most every 10 s. It waits for the answer, but not for another try
// soon after one that failed.
func (i *issuer) get(ctx context.Context, again bool) (string, error) {
	if i.configured != "" {
		return i.configured, nil
	}
	name, due, waits := i.look(again)
	if due {
		done := i.flight.DoChan("", func() (any, error) { i.learn(again); return nil, nil })
		if waits {
			select {
			case <-done:
			case <-ctx.Done():
				return "", ctx.Err()
			}
			name, _, _ = i.look(false)
		}
	}
	if name == "" {
		return "", errNoIssuer
	}
	return name, nil
}

func (i *issuer) look(again bool) (name string, due, waits bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	since := time.Since(i.tried)
	return i.name, (i.name == "" || again) && since >= issuerEvery, i.name != "" || since >= issuerWait
}

// learn asks, unless somebody just has.
func (i *issuer) learn(again bool) {
	if _, due, _ := i.look(again); !due {
		return
	}
	name, err := i.ask()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.tried = time.Now(); err == nil {
		i.name = name
	}
}

func (a *Auth) askIssuer(ctx context.Context) (name string, err error) {
	said, err := a.discover(ctx, CallIssuer, a.uaa)
	return said.Issuer, err
}

// localResult is how the verification of a token here ended.
type localResult uint8

const (
	resultAccepted localResult = iota
	resultMalformed
	resultAlgorithm
	resultUnknownKey
	resultSignature
	resultIssuer
	resultAudience
	resultExpired
	resultNotYet
	resultNoAccessToken // it is for something else
	resultRevoked       // as UAA has said before
	resultUnknown       // none in the file, or of a kind that nothing here knows
	// UAA decides about these.
	resultOpaque
	resultRevocable
	resultNoKeys
	localResults
)

func (r localResult) String() string {
	return [...]string{
		"accepted", "malformed", "algorithm", "unknown_key", "signature", "issuer", "audience", "expired", "not_yet", "no_access_token",
		"revoked", "unknown", "opaque", "revocable", "no_keys",
	}[r]
}

// resultOf is the result of the same name.
func resultOf(bad jwks.BadError) localResult {
	for r := range localResults {
		if r.String() == string(bad) {
			return r
		}
	}
	return resultMalformed
}

// result counts one.
func (l *local) result(r localResult, id Identity, known bool, err error) (Identity, bool, error) {
	l.auth.stats.local(r)
	return id, known, err
}
