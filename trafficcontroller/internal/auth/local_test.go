package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
)

const testIssuer = "https://uaa.example.com/oauth/token"

var signingKeys = sync.OnceValue(func() (keys [2]*ecdsa.PrivateKey) {
	for i := range keys {
		keys[i], _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	return keys
})

// uaaOf serves the first key, an issuer, and check_token.
func uaaOf(check http.HandlerFunc) http.HandlerFunc {
	set, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signingKeys()[0].Public(), KeyID: "key-1", Use: "sig"}}})
	return func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/token_keys":
			says(200, string(set))(w, r)
		case "/.well-known/openid-configuration":
			says(200, fmt.Sprintf(`{"issuer":%q}`, testIssuer))(w, r)
		default:
			check(w, r)
		}
	}
}

// token signs claims: those of a good token, changed. A nil value takes one out.
func token(t testing.TB, changed map[string]any) string {
	now := time.Now().Unix()
	claims := map[string]any{
		"jti": "1", "iss": testIssuer, "aud": []string{"doppler"}, "iat": now, "exp": now + 60,
		"user_id": "alice", "client_id": "cf", "scope": []string{"doppler.firehose", "openid"},
	}
	maps.Copy(claims, changed)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return signed(t, signingKeys()[0], claims)
}

func signed(t testing.TB, key *ecdsa.PrivateKey, claims map[string]any) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", "key-1"))
	var s string
	if err == nil {
		s, err = josejwt.Signed(signer).Claims(claims).Serialize()
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// count tells how many requests have something in them.
func count(requests []string, what string) (n int) {
	for _, r := range requests {
		if strings.Contains(r, what) {
			n++
		}
	}
	return n
}

func localCounts(a *Auth) map[string]uint64 {
	counts := map[string]uint64{}
	for _, c := range a.Stats().Local {
		if c.Count != 0 {
			counts[c.Result] = c.Count
		}
	}
	return counts
}

func TestLocalTokens(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.TokenAudiences = []string{"doppler"}
	now := time.Now().Unix()
	for _, test := range []struct {
		name    string
		changed map[string]any
		result  string
		reason  Reason
		asks    bool // UAA about the token
	}{
		{"good", nil, "accepted", Allowed, false},
		{"of a client", map[string]any{"user_id": nil, "client_id": nil, "cid": "nozzle"}, "accepted", Allowed, false},
		{"lacks the scope", map[string]any{"scope": []string{"logs.admin"}}, "accepted", NoScope, false},
		{"no scopes at all", map[string]any{"scope": []string{}}, "accepted", NoScope, false},
		{"expired", map[string]any{"exp": now - 60}, "expired", InvalidToken, false},
		{"another issuer", map[string]any{"iss": "https://uaa.example.com"}, "issuer", InvalidToken, false},
		{"another audience", map[string]any{"aud": "cc"}, "audience", InvalidToken, false},
		{"scope is text", map[string]any{"scope": "doppler.firehose"}, "malformed", InvalidToken, false},
		{"refresh token", map[string]any{"jti": "1-r"}, "no_access_token", InvalidToken, false},
		{"id token: no client", map[string]any{"client_id": nil}, "no_access_token", InvalidToken, false},
		{"id token: no scope", map[string]any{"scope": nil}, "no_access_token", InvalidToken, false},
		{"revocable", map[string]any{"revocable": true}, "revocable", Allowed, true},
		{"revocable, refresh token", map[string]any{"revocable": true, "jti": "1-r"}, "no_access_token", InvalidToken, false},
		{"revocable and expired", map[string]any{"revocable": true, "exp": now - 60}, "expired", InvalidToken, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := newAuth(t, cfg)
			o.set(uaaOf(says(200, `{"scope":["doppler.firehose"],"user_id":"u","client_id":"c","aud":["doppler"]}`)), drop)
			d := a.Firehose(t.Context(), request("bearer "+token(t, test.changed)))
			asked := count(o.asked(), "/check_token") > 0
			if d.Reason != test.reason || asked != test.asks || localCounts(a)[test.result] != 1 {
				t.Errorf("%v, UAA was asked: %v, counted %v", d.Reason, asked, localCounts(a))
			}
			if test.result == "accepted" && (d.Reason == Allowed) && (d.Identity.Name() == "" || d.Identity.Expires != now+60 && d.Identity.Expires != now+61) {
				t.Errorf("%+v", d.Identity)
			}
		})
	}
}

// TestWhatIsNotToldHere goes to UAA as ever.
func TestWhatIsNotToldHere(t *testing.T) {
	o, cfg := newOutside(t)
	yes := says(200, scope("doppler.firehose"))
	without := func(path string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == path {
				says(500, "{}")(w, r)
				return
			}
			uaaOf(yes)(w, r)
		}
	}
	off := func(c *Config) { c.LocalTokens = false }
	for name, test := range map[string]struct {
		token  string
		uaa    http.HandlerFunc
		change func(*Config)
		result string
	}{
		"opaque":          {"0123456789abcdef", uaaOf(yes), nil, "opaque"},
		"opaque, -r":      {"0123456789abcdef-r", uaaOf(yes), nil, "opaque"},
		"keys are away":   {token(t, nil), without("/token_keys"), nil, "no_keys"},
		"issuer is away":  {token(t, nil), without("/.well-known/openid-configuration"), nil, "no_keys"},
		"switched off":    {token(t, nil), uaaOf(yes), off, ""},
		"off and expired": {token(t, map[string]any{"exp": 1}), uaaOf(yes), off, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := cfg
			if test.change != nil {
				test.change(&cfg)
			}
			a := newAuth(t, cfg)
			o.set(test.uaa, drop)
			for range 3 {
				if d := a.Firehose(t.Context(), request("bearer "+test.token)); !d.Allowed() {
					t.Errorf("%+v", d)
				}
			}
			if asked := o.asked(); count(asked, "/check_token") != 3 || count(asked, "GET ") > 2 {
				t.Errorf("asked %q", asked)
			}
			if got := localCounts(a); test.result == "" && len(got) != 0 || test.result != "" && got[test.result] != 3 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

func TestKeysAreAskedForOnce(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	o.set(uaaOf(drop), drop)
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			if d := a.Firehose(t.Context(), request("bearer "+token(t, map[string]any{"user_id": fmt.Sprint(i)}))); !d.Allowed() || d.Identity.UserID != fmt.Sprint(i) {
				t.Errorf("%+v", d)
			}
		})
	}
	all.Wait()
	if asked := o.asked(); len(asked) != 2 {
		t.Errorf("asked %q", asked)
	}
	for _, c := range a.Stats().Calls {
		if (c.Call == CallTokenKeys || c.Call == CallIssuer) && (c.Count != 1 || c.Failed != 0) {
			t.Errorf("%v %+v", c.Call, c)
		}
	}
}

func TestIssuer(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.UAAIssuer = "https://elsewhere.example.com"
	a := newAuth(t, cfg)
	o.set(uaaOf(drop), drop)
	if d := a.Firehose(t.Context(), request("bearer "+token(t, nil))); d.Reason != InvalidToken {
		t.Errorf("another issuer than that configured: %+v", d)
	}
	if d := a.Firehose(t.Context(), request("bearer "+token(t, map[string]any{"iss": cfg.UAAIssuer}))); !d.Allowed() {
		t.Errorf("the issuer configured: %+v", d)
	}
	if asked := o.asked(); len(asked) != 1 {
		t.Errorf("asked %q", asked)
	}
}

// TestIssuerIsLearnedAgain when a good token names another.
func TestIssuerIsLearnedAgain(t *testing.T) {
	names, asked := []string{"old", "new"}, 0
	i := &issuer{ask: func() (string, error) { asked++; return names[asked-1], nil }}
	for range 3 {
		if name, err := i.get(t.Context(), true); err != nil || name != "old" || asked != 1 {
			t.Fatalf("%q %v, asked %d times", name, err, asked)
		}
	}
	i.tried = i.tried.Add(-issuerEvery)
	for _, again := range []bool{false, true, true} {
		name, err := i.get(t.Context(), again)
		if want := map[bool]string{false: "old", true: "new"}[again]; err != nil || name != want {
			t.Errorf("%q %v", name, err)
		}
	}
}

func TestAppIsDecidedHereFirst(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = time.Minute
	a := newAuth(t, cfg)
	o.set(uaaOf(drop), says(200, ""))
	for name, bad := range map[string]string{
		"expired": token(t, map[string]any{"exp": 1}), "another key": signed(t, signingKeys()[1], map[string]any{"iss": testIssuer}),
	} {
		if d := a.App(t.Context(), request("bearer "+bad), app); d.Reason != InvalidToken || d.Status != 401 {
			t.Errorf("%s: %+v", name, d)
		}
	}
	if n := count(o.asked(), "/log_access/"); n != 0 {
		t.Error("Cloud Controller was asked about bad tokens", n)
	}
	for i := range 20 {
		d := a.App(t.Context(), request("bearer "+token(t, map[string]any{"jti": fmt.Sprint(i)})), app)
		if !d.Allowed() || d.Identity.UserID != "alice" || d.Identity.Expires == 0 {
			t.Errorf("%+v", d)
		}
	}
	if asked := o.asked(); count(asked, "/log_access/") != 1 {
		t.Errorf("asked about one user and app: %q", asked)
	}
	// All that makes another identity, or another app, is another question.
	o.set(uaaOf(drop), says(404, ""))
	for name, changed := range map[string]map[string]any{
		"user": {"user_id": "bob"}, "client": {"client_id": "other"}, "scopes": {"scope": []string{"openid"}}, "audience": {"aud": "cc"},
		"scope as audience": {"scope": []string{"doppler.firehose"}, "aud": []string{"openid", "doppler"}},
	} {
		if d := a.App(t.Context(), request("bearer "+token(t, changed)), app); d.Reason != NotFound {
			t.Errorf("another %s: %+v", name, d)
		}
	}
	if d := a.App(t.Context(), request("bearer "+token(t, nil)), other); d.Reason != NotFound {
		t.Errorf("another app: %+v", d)
	}
}

func TestOneTokenOfAUserIsRefused(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	bad := token(t, map[string]any{"jti": "bad"})
	var asked atomic.Int32
	o.set(uaaOf(drop), func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if strings.HasSuffix(r.Header.Get("Authorization"), bad) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	if d := a.App(t.Context(), request("bearer "+bad), app); d.Reason != InvalidToken || asked.Load() != 2 {
		t.Errorf("%+v, asked %d times", d, asked.Load())
	}
	if d := a.App(t.Context(), request("bearer "+token(t, nil)), app); !d.Allowed() {
		t.Errorf("%+v", d)
	}
}

func TestManySourcesOfOneUser(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = time.Minute
	a := newAuth(t, cfg)
	o.set(uaaOf(drop), says(200, ""))
	for i := range 5 {
		r := request("bearer " + token(t, map[string]any{"jti": fmt.Sprint(i), "scope": []string{"cloud_controller.read"}}))
		_, read := a.LogCacheQuery(t.Context(), r, []string{app})
		if d := a.Read(t.Context(), r, []string{app}); !d.Allowed() || !a.LogCache(t.Context(), r, app).Allowed() || len(read) != 1 {
			t.Errorf("%+v, reads %v", d, read)
		}
	}
	asked := o.asked()
	if count(asked, "/log_access/") != 1 || count(asked, "GET /v3/apps/"+app) != 1 {
		t.Errorf("asked %q", asked)
	}
}

func TestFresh(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = time.Minute
	a := newAuth(t, cfg)
	good, opaque := token(t, nil), "0123456789abcdef"
	o.set(uaaOf(says(200, scope("doppler.firehose"))), drop)
	for _, tok := range []string{good, opaque} {
		if !a.Firehose(t.Context(), request("bearer "+tok)).Allowed() {
			t.Fatal("refused")
		}
		before := count(o.asked(), "/check_token")
		if id, err := a.Fresh(t.Context(), tok); err != nil || id.UserID != "u" || count(o.asked(), "/check_token") != before+1 {
			t.Errorf("%+v %v, asked %q", id, err, o.asked())
		}
	}
	o.set(uaaOf(drop), drop)
	if _, err := a.Fresh(t.Context(), token(t, map[string]any{"exp": 1})); !errors.Is(err, ErrInvalidToken) || len(o.asked()) != 0 {
		t.Errorf("expired: %v, asked %q", err, o.asked())
	}
	for name, check := range map[string]http.HandlerFunc{"outage": drop, "our own secret is wrong": says(401, "{}")} {
		o.set(uaaOf(check), drop)
		if _, err := a.Fresh(t.Context(), good); err == nil || errors.Is(err, ErrInvalidToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// What UAA has taken back stays so here, also for what was remembered.
	o.set(uaaOf(says(400, "{}")), says(200, ""))
	for _, tok := range []string{good, opaque} {
		if _, err := a.Fresh(t.Context(), tok); !errors.Is(err, ErrInvalidToken) {
			t.Errorf("revoked: %v", err)
		}
	}
	o.set(uaaOf(drop), says(200, ""))
	if d := a.Firehose(t.Context(), request("bearer "+good)); d.Reason != InvalidToken || len(o.asked()) != 0 {
		t.Errorf("%+v, asked %q", d, o.asked())
	}
	if d := a.App(t.Context(), request("bearer "+good), app); d.Reason != InvalidToken || len(o.asked()) != 0 {
		t.Errorf("%+v, asked %q", d, o.asked())
	}
	if d := a.Firehose(t.Context(), request("bearer "+good[:len(good)-9]+"AAAAAAAAA")); d.Reason != InvalidToken || localCounts(a)["signature"] != 1 {
		t.Errorf("with a wrong signature: %+v, %v", d, localCounts(a))
	}
	if d := a.Firehose(t.Context(), request("bearer "+resigned(t, good))); d.Reason != InvalidToken || len(o.asked()) != 0 {
		t.Errorf("with its other signature: %+v, asked %q", d, o.asked())
	}
	if d := a.Firehose(t.Context(), request("bearer "+opaque)); d.Allowed() {
		t.Errorf("%+v", d)
	}
	if localCounts(a)["revoked"] == 0 {
		t.Error(localCounts(a))
	}
	if d := a.Firehose(t.Context(), request("bearer "+token(t, map[string]any{"jti": "2"}))); !d.Allowed() {
		t.Errorf("another token of the same user: %+v", d)
	}
}

// resigned is an ES256 token with the other signature that is good for it: of (r, s)
// also (r, -s) is one.
func resigned(t *testing.T, token string) string {
	t.Helper()
	signature, err := base64.RawURLEncoding.DecodeString(token[len(signedPart(token))+1:])
	if err != nil || len(signature) != 64 {
		t.Fatalf("a signature of %d bytes: %v", len(signature), err)
	}
	s := new(big.Int).SetBytes(signature[32:])
	s.Sub(elliptic.P256().Params().N, s).FillBytes(signature[32:])
	return signedPart(token) + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// TestMadeUpTokenDeniesNoOther has UAA asked, for want of keys, about a token that
// says what a good one does.
func TestMadeUpTokenDeniesNoOther(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	good := token(t, nil)
	o.set(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/check_token" {
			says(400, "{}")(w, r)
			return
		}
		drop(w, r)
	}, drop)
	madeUp := signedPart(good) + "." + base64.RawURLEncoding.EncodeToString(make([]byte, 64))
	if d := a.Firehose(t.Context(), request("bearer "+madeUp)); d.Reason != InvalidToken || count(o.asked(), "/check_token") != 1 {
		t.Fatalf("%+v, asked %q", d, o.asked())
	}
	if a.local.isRevoked(signedPart(good)) || a.local.isRevoked(good) || !a.local.isRevoked(madeUp) {
		t.Error("the wrong token is denied")
	}
}
