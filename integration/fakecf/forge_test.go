package fakecf

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// judge says what is wrong with a forgery of alice's, in the first of these
// ways that it finds.
func judge(f *Fake, token string) string {
	kid, key := f.keys.get()
	part := strings.Split(token, ".")
	var header struct {
		Alg, Kid string
		JWK      *jose.JSONWebKey
	}
	var c struct {
		jwt.Claims
		Scope     []string
		Nonce     string
		Revocable bool
	}
	if read(part[0], &header) != nil || read(part[1], &c) != nil {
		return "no JWT"
	}
	for _, look := range []struct {
		fault string
		has   bool
	}{
		{"none", strings.EqualFold(header.Alg, "none") && part[2] == ""},
		{"unsigned", part[2] == ""},
		{"long", len(token) > 20<<10},
		{"own key", header.JWK != nil},
		{"no kid", header.Kid == ""},
		{"kid", header.Kid != kid},
		{"HS256", fits(token, jose.HS256, key)},
		{"RS512", fits(token, jose.RS512, key)},
		{"signature", !fits(token, jose.RS256, key)},
		{"endless", c.Expiry == nil},
		{"expired", time.Until(c.Expiry.Time()) < 0},
		{"not yet", c.NotBefore != nil && time.Until(c.NotBefore.Time()) > 0},
		{"issued late", time.Until(c.IssuedAt.Time()) > 0},
		{"issuer", c.Issuer != f.issuer()},
		{"audience", !slices.Contains(c.Audience, "cf")},
		{"nonce", c.Nonce != ""},
		{"scope", slices.Equal(c.Scope, []string{"openid"})},
		{"refresh", strings.HasSuffix(c.ID, "-r")},
		{"revocable", c.Revocable},
	} {
		if look.has {
			return look.fault
		}
	}
	return "nothing"
}

func read(part string, into any) error {
	text, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// fits tells whether a token is signed by a key.
func fits(token string, alg jose.SignatureAlgorithm, key *rsa.PrivateKey) bool {
	with := any(key.Public())
	if alg == jose.HS256 {
		with, _ = publicPEM(key)
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{alg})
	return err == nil && parsed.Claims(with) == nil
}

func TestForge(t *testing.T) {
	c := start(t, testState())
	want := map[string]string{
		Sound: "nothing", "revocable": "revocable", "expired": "expired", "endless": "endless", "not-yet": "not yet", "issued-late": "issued late",
		"wrong-key": "signature", "own-key": "own key", "unknown-kid": "kid", "no-kid": "no kid", "alg-none": "none", "alg-None": "none",
		"hs-for-rs": "HS256", "other-alg": "RS512", "tampered": "signature", "unsigned": "unsigned", "issuer": "issuer", "audience": "audience",
		"scope": "scope", "refresh": "refresh", "id": "nonce", "long": "long",
	}
	before := len(c.State().Tokens)
	for kind := range Forgeries {
		_, body := c.must("POST", c.Ready.Control, "/forged", "", fmt.Sprintf(`{"user":"alice","kind":%q}`, kind))
		var said struct{ Token string }
		if err := json.Unmarshal([]byte(body), &said); err != nil {
			t.Fatal(err, body)
		}
		if got := judge(c.Fake, said.Token); got != want[kind] {
			t.Errorf("%s: wrong is %s, not %s: %s", kind, got, want[kind], said.Token)
		}
		if status, _ := c.must("POST", c.Ready.UAA, "/check_token", "", "token="+said.Token); status != http.StatusBadRequest {
			t.Errorf("%s: check_token says %d", kind, status)
		}
		if status, _ := c.must("GET", c.Ready.CC, "/internal/v4/log_access/a1", said.Token, ""); status != http.StatusUnauthorized {
			t.Errorf("%s: Cloud Controller says %d", kind, status)
		}
	}
	if n := len(c.State().Tokens); n != before || len(want) != len(Forgeries) {
		t.Errorf("%d tokens are known, %d were; %d kinds of %d are looked at", n, before, len(want), len(Forgeries))
	}
	for _, bad := range [][2]string{{"mallory", Sound}, {"alice", "gold"}} {
		if _, err := c.Forge(bad[0], bad[1]); err == nil {
			t.Error("forged", bad)
		}
	}
}
