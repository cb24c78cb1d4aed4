package fakecf

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// Forgeries says what is wrong with the tokens of each kind that Forge makes.
// Everything else about them is right.
var Forgeries = map[string]string{
	Sound:         "nothing but that UAA does not know it any more",
	"revocable":   "likewise, and it says that UAA has to be asked",
	"expired":     "it has expired",
	"endless":     "it never expires",
	"not-yet":     "it is valid from later on",
	"issued-late": "it was issued later on",
	"wrong-key":   "it is signed with another key of the same id",
	"own-key":     "likewise, and that key is in its header",
	"unknown-kid": "it is signed with another key, of an id that UAA does not have",
	"no-kid":      "it does not say which key",
	"alg-none":    "its algorithm is none",
	"alg-None":    "likewise, in other letters",
	"hs-for-rs":   "it is signed with HS256, by UAA's public key",
	"other-alg":   "it is signed with RS512",
	"tampered":    "its claims were changed after it was signed",
	"unsigned":    "its signature was taken away",
	"issuer":      "another UAA has issued it",
	"audience":    "it is for somebody else",
	"scope":       "it has no scope but openid",
	"refresh":     "it is a refresh token",
	"id":          "it is an id token",
	"long":        "it has 20 KiB",
}

// Sound is a forgery that only UAA and Cloud Controller can tell.
const Sound = "sound"

// Forge makes a token of a user that is wrong in one way, by a kind that
// Forgeries has. It is not in the State: check_token and Cloud Controller know
// nothing of it.
func (f *Fake) Forge(user, kind string) (string, error) {
	s := f.State()
	u := s.user(user)
	if u == nil {
		return "", fmt.Errorf("there is no user %q", user)
	}
	if _, ok := Forgeries[kind]; !ok {
		return "", fmt.Errorf("there is no forgery %q", kind)
	}
	token, err := f.forge(f.misclaims(u, kind), kind)
	if err != nil {
		return "", fmt.Errorf("forge token: %w", err)
	}
	return token, nil
}

// misclaims are the claims of a forgery.
func (f *Fake) misclaims(u *User, kind string) map[string]any {
	now := time.Now()
	c := f.claims(u, rand.Text(), now, now.Add(time.Hour))
	later, before := now.Add(time.Hour).Unix(), now.Add(-time.Hour).Unix()
	wrong := map[string]map[string]any{
		"revocable": {"revocable": true}, "expired": {"iat": before - 3600, "exp": before}, "endless": {"exp": nil},
		"not-yet": {"nbf": later, "exp": later + 3600}, "issued-late": {"iat": later, "exp": later + 3600},
		"issuer": {"iss": "https://uaa.example.com/oauth/token"}, "audience": {"aud": []string{"somebody-else"}},
		"scope": {"scope": []string{"openid"}}, "refresh": {"jti": rand.Text() + "-r"},
		"id": {"scope": []string{"openid"}, "azp": "cf", "nonce": rand.Text()}, "long": {"padding": strings.Repeat("x", 20<<10)},
	}
	maps.Copy(c, wrong[kind])
	return c
}

// forge signs claims, or does not.
func (f *Fake) forge(claims map[string]any, kind string) (string, error) {
	kid, key := f.keys.get()
	alg, with := jose.RS256, any(key)
	var o jose.SignerOptions
	switch kind {
	case "wrong-key", "own-key", "unknown-kid":
		other, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return "", err
		}
		with, o.EmbedJWK = other, kind == "own-key"
	case "other-alg":
		alg = jose.RS512
	case "hs-for-rs":
		public, err := publicPEM(key)
		if err != nil {
			return "", err
		}
		alg, with = jose.HS256, public
		o.WithHeader("kid", kid) // which go-jose leaves out here
	case "alg-none", "alg-None":
		return unsecured(strings.TrimPrefix(kind, "alg-"), kid, claims)
	}
	switch kind {
	case "unknown-kid":
		kid = "key-of-nobody"
	case "no-kid":
		kid = ""
	}
	token, err := signed(alg, with, kid, o, claims)
	if err != nil {
		return "", err
	}
	return cut(token, kind)
}

// signed is a JWT.
func signed(alg jose.SignatureAlgorithm, key any, kid string, o jose.SignerOptions, claims map[string]any) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, o.WithType("JWT"))
	if err != nil {
		return "", err
	}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

// unsecured is a JWT without a signature (RFC 7519, section 6).
func unsecured(alg, kid string, claims map[string]any) (string, error) {
	payload, err := json.Marshal(claims)
	header := fmt.Sprintf(`{"alg":%q,"kid":%q,"typ":"JWT"}`, alg, kid)
	return encode([]byte(header)) + "." + encode(payload) + ".", err
}

func encode(part []byte) string { return base64.RawURLEncoding.EncodeToString(part) }

// cut changes what is signed already.
func cut(token, kind string) (string, error) {
	part := strings.Split(token, ".")
	switch kind {
	case "unsigned":
		part[2] = ""
	case "tampered":
		claims, err := base64.RawURLEncoding.DecodeString(part[1])
		if err != nil {
			return "", err
		}
		part[1] = encode([]byte(strings.Replace(string(claims), "{", `{"more":1,`, 1)))
	}
	return strings.Join(part, "."), nil
}

// publicPEM is the public half of a key as /token_keys has it.
func publicPEM(key *rsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("write public key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
