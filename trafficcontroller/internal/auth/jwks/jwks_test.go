package jwks

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const issuer = "https://uaa.example.com/oauth/token"

// pairs are made once: they are slow.
var pairs = sync.OnceValue(func() (p struct {
	rsa, otherRSA, small *rsa.PrivateKey
	ec, p384             *ecdsa.PrivateKey
}) {
	p.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	p.otherRSA, _ = rsa.GenerateKey(rand.Reader, 2048)
	p.small, _ = rsa.GenerateKey(rand.Reader, 1024)
	p.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p.p384, _ = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	return p
})

// publicPEM is what UAA puts beside each key.
func publicPEM(t testing.TB, key any) string {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// set encodes public keys by their kid, as UAA does.
func set(t testing.TB, keys map[string]any) string {
	list := []any{map[string]any{"kty": "MAC", "alg": "HS256", "kid": "mac", "value": "secret"}, "garbage"}
	for kid, key := range keys {
		data, err := (&jose.JSONWebKey{Key: key, KeyID: kid, Use: "sig"}).MarshalJSON()
		fields := map[string]any{}
		if err == nil {
			err = json.Unmarshal(data, &fields)
		}
		if err != nil {
			t.Fatal(err)
		}
		fields["value"] = publicPEM(t, key)
		list = append(list, fields)
	}
	body, _ := json.Marshal(map[string]any{"keys": list})
	return string(body)
}

// source is where keys are fetched from.
type source struct {
	asked  atomic.Int32
	status atomic.Int32
	takes  atomic.Int64 // nanoseconds
	body   atomic.Pointer[string]
}

func newSource(body string) *source {
	s := &source{}
	s.serve(200, body)
	return s
}

func (s *source) serve(status int, body string) {
	s.status.Store(int32(status))
	s.body.Store(&body)
}

func (s *source) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked.Add(1)
	select {
	case <-time.After(time.Duration(s.takes.Load())):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{StatusCode: int(s.status.Load()), Body: io.NopCloser(strings.NewReader(*s.body.Load())), Request: r}, nil
}

func newSet(t testing.TB, s *source) *KeySet {
	life, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	return New(life, Config{Find: At("https://uaa.example.com/token_keys"), Client: &http.Client{Transport: s}, Timeout: 3 * time.Second, KeepFor: 24 * time.Hour})
}

// good is what a good token says.
func good() map[string]any {
	now := time.Now().Unix()
	return map[string]any{"iss": issuer, "aud": []string{"cf", "doppler"}, "iat": now, "exp": now + 60, "user_id": "u"}
}

func with(name string, value any) map[string]any {
	c := good()
	if value == nil {
		delete(c, name)
	} else {
		c[name] = value
	}
	return c
}

func sign(t testing.TB, alg jose.SignatureAlgorithm, kid string, key, claims any) string {
	o := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		o.WithHeader("kid", kid)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	payload, _ := json.Marshal(claims)
	var token string
	if err == nil {
		var signed *jose.JSONWebSignature
		if signed, err = signer.Sign(payload); err == nil {
			token, err = signed.CompactSerialize()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func raw(header, payload string) string {
	e := base64.RawURLEncoding.EncodeToString
	return e([]byte(header)) + "." + e([]byte(payload)) + "."
}

func TestTokens(t *testing.T) {
	p := pairs()
	ks := newSet(t, newSource(set(t, map[string]any{
		"r": p.rsa.Public(), "e": p.ec.Public(), "small": p.small.Public(), "p384": p.p384.Public(),
	})))
	now := time.Now().Unix()
	rs := func(claims any) string { return sign(t, jose.RS256, "r", p.rsa, claims) }
	payload, _ := json.Marshal(good())
	valid := rs(good())
	dot := strings.LastIndex(valid, ".")
	embedded, _ := json.Marshal(map[string]any{"alg": "RS256", "kid": "x", "jku": "https://evil.example.com", "jwk": jose.JSONWebKey{Key: p.otherRSA.Public()}})
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: p.otherRSA}, (&jose.SignerOptions{EmbedJWK: true}).WithHeader("kid", "r"))
	if err != nil {
		t.Fatal(err)
	}
	ownKey, err := jwt.Signed(signer).Claims(good()).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name  string
		token string
		want  BadError // "" for good
	}{
		{"RS256", valid, ""},
		{"ES256", sign(t, jose.ES256, "e", p.ec, good()), ""},
		{"audience is text", rs(with("aud", "doppler")), ""},
		{"expired within the skew", rs(with("exp", now-540)), ""},
		{"issued within the skew", rs(with("iat", now+540)), ""},
		{"valid from within the skew", rs(with("nbf", now+540)), ""},
		{"no time of issue", rs(with("iat", nil)), ""},
		{"expired", rs(with("exp", now-660)), ErrExpired},
		{"no expiry", rs(with("exp", nil)), ErrExpired},
		{"expiry is null", rs(with("exp", json.RawMessage("null"))), ErrExpired},
		{"expiry is 0", rs(with("exp", 0)), ErrExpired},
		{"expiry is text", rs(with("exp", "tomorrow")), ErrMalformed},
		{"expiry is out of range", rs(with("exp", 1e300)), ErrMalformed},
		{"valid later", rs(with("nbf", now+660)), ErrNotYet},
		{"issued later", rs(with("iat", now+660)), ErrNotYet},
		{"another issuer", rs(with("iss", "https://evil.example.com")), ErrIssuer},
		{"no issuer", rs(with("iss", nil)), ErrIssuer},
		{"another audience", rs(with("aud", []string{"other"})), ErrAudience},
		{"no audience", rs(with("aud", nil)), ErrAudience},
		{"audience is a number", rs(with("aud", 7)), ErrMalformed},
		{"another key", sign(t, jose.RS256, "r", p.otherRSA, good()), ErrSignature},
		{"the key of the other algorithm", sign(t, jose.RS256, "e", p.rsa, good()), ErrUnknownKey},
		{"other claims", sign(t, jose.RS256, "r", p.rsa, with("user_id", "a"))[:dot] + valid[dot:], ErrSignature},
		{"no signature", valid[:dot+1], ErrSignature},
		{"line feed in it", valid[:9] + "\n" + valid[9:], ErrMalformed},
		{"line feed after it", valid + "\n", ErrMalformed},
		{"spare bits", valid[:len(valid)-1] + string(valid[len(valid)-1]+1), ErrMalformed},
		{"unknown kid", sign(t, jose.RS256, "x", p.rsa, good()), ErrUnknownKey},
		{"no kid", sign(t, jose.RS256, "", p.rsa, good()), ErrUnknownKey},
		{"RSA key too small", sign(t, jose.RS256, "small", p.small, good()), ErrUnknownKey},
		{"RS384", sign(t, jose.RS384, "r", p.rsa, good()), ErrAlgorithm},
		{"PS256", sign(t, jose.PS256, "r", p.rsa, good()), ErrAlgorithm},
		{"ES384", sign(t, jose.ES384, "p384", p.p384, good()), ErrAlgorithm},
		{"none", raw(`{"alg":"none","kid":"r"}`, string(payload)), ErrAlgorithm},
		{"None", raw(`{"alg":"None","kid":"r"}`, string(payload)), ErrAlgorithm},
		{"no alg", raw(`{"kid":"r"}`, string(payload)), ErrAlgorithm},
		{"HS256 with the public key", sign(t, jose.HS256, "r", []byte(publicPEM(t, p.rsa.Public())), good()), ErrAlgorithm},
		{"HS256 with a key of that kind", sign(t, jose.HS256, "mac", []byte("secret of at least thirty-two bytes"), good()), ErrAlgorithm},
		{"a key in its own header", ownKey, ErrSignature},
		{"a key and its address in the header", raw(string(embedded), string(payload)), ErrUnknownKey},
		{"critical header", raw(`{"alg":"RS256","kid":"r","crit":["x"],"x":1}`, string(payload)), ErrMalformed},
		{"alg twice", raw(`{"alg":"RS256","alg":"none","kid":"r"}`, string(payload)), ErrMalformed},
		{"claims are a list", rs([]string{"a"}), ErrMalformed},
		{"claims are null", rs(json.RawMessage("null")), ErrIssuer},
		{"empty", "", ErrMalformed},
		{"garbage", "ey.ey.ey", ErrMalformed},
		{"five parts", "a.b.c.d.e", ErrMalformed},
		{"a JSON object", `{"payload":"e30","signatures":[]}`, ErrMalformed},
		{"huge", "ey" + strings.Repeat("a", MaxToken) + ".e30.e30", ErrMalformed},
		{"huge and signed", rs(with("more", strings.Repeat("a", MaxToken))), ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			var into struct {
				UserID string `json:"user_id"`
			}
			c, err := ks.Verify(t.Context(), test.token, Expect{Issuer: issuer, Audiences: []string{"x", "doppler"}, Skew: 10 * time.Minute}, &into)
			if test.want == "" {
				if err != nil || c.Issuer != issuer || into.UserID != "u" {
					t.Errorf("%v %+v %+v", err, c, into)
				}
				return
			}
			if !errors.Is(err, ErrBad) || !errors.Is(err, test.want) || c.Issuer != "" {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
	if _, err := ks.Verify(t.Context(), rs(with("aud", nil)), Expect{Issuer: issuer}, nil); err != nil {
		t.Error("no audience is wanted:", err)
	}
	if _, err := ks.Verify(t.Context(), rs(with("iss", nil)), Expect{}, nil); !errors.Is(err, ErrIssuer) {
		t.Error("no issuer is no issuer:", err)
	}
}

// try verifies a good token of a key.
func (s *KeySet) try(t *testing.T, kid string, key crypto.Signer) error {
	t.Helper()
	_, err := s.Verify(t.Context(), sign(t, jose.RS256, kid, key, good()), Expect{Issuer: issuer}, nil)
	return err
}

func TestRotation(t *testing.T) {
	p := pairs()
	synctest.Test(t, func(t *testing.T) {
		src := newSource(set(t, map[string]any{"1": p.rsa.Public()}))
		ks := newSet(t, src)
		if err := ks.try(t, "1", p.rsa); err != nil {
			t.Fatal(err)
		}
		src.serve(200, set(t, map[string]any{"2": p.otherRSA.Public()}))
		time.Sleep(fetchEvery)
		if err := ks.try(t, "2", p.otherRSA); err != nil || src.asked.Load() != 2 {
			t.Errorf("new key: %v, asked %d times", err, src.asked.Load())
		}
		if err := ks.try(t, "1", p.rsa); !errors.Is(err, ErrUnknownKey) || src.asked.Load() != 2 {
			t.Errorf("old key: %v, asked %d times", err, src.asked.Load())
		}
		// A key that is taken away without another in its place is noticed too.
		src.serve(200, set(t, map[string]any{"3": p.rsa.Public()}))
		time.Sleep(refreshAfter)
		if err := ks.try(t, "2", p.otherRSA); !errors.Is(err, ErrUnknownKey) || src.asked.Load() != 3 {
			t.Errorf("key taken away: %v, asked %d times", err, src.asked.Load())
		}
	})
}

// TestNobodyMakesUsFlood sends tokens that name unknown keys, and others.
func TestNobodyMakesUsFlood(t *testing.T) {
	p := pairs()
	for name, status := range map[string]int{"keys are served": 200, "keys are not served": 500} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSource(set(t, map[string]any{"1": p.rsa.Public()}))
				src.status.Store(int32(status))
				src.takes.Store(int64(time.Second))
				ks := newSet(t, src)
				token := sign(t, jose.RS256, "x", p.rsa, good())
				var all sync.WaitGroup
				for i := range 60 {
					for range 20 {
						all.Go(func() {
							_, err := ks.Verify(t.Context(), token, Expect{Issuer: issuer}, nil)
							if err == nil || errors.Is(err, ErrBad) != (status == 200) {
								t.Errorf("second %d: %v", i, err)
							}
						})
					}
					time.Sleep(time.Second)
				}
				all.Wait()
				if n := src.asked.Load(); n < 5 || n > 12 {
					t.Errorf("asked %d times in a minute", n)
				}
			})
		})
	}
}

// TestOutage lives on old keys, for a day, and does not wait for what fails.
func TestOutage(t *testing.T) {
	p := pairs()
	for name, status := range map[string]int{"500": 500, "not JSON": 200, "no keys": 201, "hangs": 0, "too long": 202} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := newSource(set(t, map[string]any{"1": p.rsa.Public()}))
				ks := newSet(t, src)
				if err := ks.try(t, "1", p.rsa); err != nil {
					t.Fatal(err)
				}
				switch status {
				case 0:
					src.takes.Store(int64(time.Hour))
				case 200:
					src.serve(200, `{"keys":`)
				case 201:
					src.serve(200, `{"keys":[]}`)
				case 202:
					src.serve(200, set(t, map[string]any{"2": p.rsa.Public()})+strings.Repeat(" ", maxBody))
				default:
					src.serve(status, "")
				}
				time.Sleep(refreshAfter)
				start := time.Now()
				if err := ks.try(t, "1", p.rsa); err != nil || time.Since(start) > ks.cfg.Timeout {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				time.Sleep(fetchEvery)
				start = time.Now()
				if err := ks.try(t, "1", p.rsa); err != nil || time.Since(start) != 0 {
					t.Errorf("again: %v after %v", err, time.Since(start))
				}
				if err := ks.try(t, "2", p.otherRSA); !errors.Is(err, ErrNoKeys) || errors.Is(err, ErrBad) {
					t.Errorf("unknown key: %v", err)
				}
				time.Sleep(24 * time.Hour)
				if err := ks.try(t, "1", p.rsa); !errors.Is(err, ErrNoKeys) || errors.Is(err, ErrBad) {
					t.Errorf("after a day: %v", err)
				}
				src.takes.Store(0)
				src.serve(200, set(t, map[string]any{"1": p.rsa.Public()}))
				time.Sleep(waitAfter)
				if err := ks.try(t, "1", p.rsa); err != nil {
					t.Error("afterwards:", err)
				}
			})
		})
	}
}

func TestWithoutKeysNothingIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []error
		ks := newSet(t, newSource(`{"keys":[{"kty":"MAC","alg":"HS256","kid":"mac","value":"secret"}]}`))
		ks.cfg.Fetched = func(_ time.Duration, err error) { told = append(told, err) }
		token := sign(t, jose.HS256, "mac", []byte("secret of at least thirty-two bytes"), good())
		if _, err := ks.Verify(t.Context(), token, Expect{Issuer: issuer}, nil); !errors.Is(err, ErrNoKeys) || errors.Is(err, ErrBad) {
			t.Error(err)
		}
		if len(told) != 1 || told[0] == nil {
			t.Error("told", told)
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		time.Sleep(time.Hour)
		if _, err := ks.Verify(ctx, token, Expect{Issuer: issuer}, nil); !errors.Is(err, context.Canceled) {
			t.Error("who left is told", err)
		}
	})
}

// FuzzToken has anything verified: nothing but what the key has signed is good.
func FuzzToken(f *testing.F) {
	p := pairs()
	ks := newSet(f, newSource(set(f, map[string]any{"r": p.rsa.Public(), "e": p.ec.Public()})))
	claims := map[string]any{"iss": issuer, "exp": int64(1) << 40, "aud": "cf"}
	payload, _ := json.Marshal(claims)
	signed := []string{sign(f, jose.RS256, "r", p.rsa, claims), sign(f, jose.ES256, "e", p.ec, claims)}
	seeds := append([]string{
		"", "..", "ey.ey.ey", raw(`{"alg":"none"}`, `{}`), raw(`{"alg":"RS256","kid":"r"}`, `{"exp":1}`),
		raw(`{"alg":"RS256","kid":"r","crit":["b64"],"b64":false}`, `{"exp":1}`), `{"payload":"","signatures":[]}`,
		sign(f, jose.HS256, "r", []byte(publicPEM(f, p.rsa.Public())), claims), sign(f, jose.RS256, "r", p.otherRSA, claims),
	}, signed...)
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, token string) {
		c, err := ks.Verify(t.Context(), token, Expect{Issuer: issuer}, nil)
		if err != nil {
			if !errors.Is(err, ErrBad) || c.Issuer != "" {
				t.Errorf("%v %+v", err, c)
			}
			return
		}
		// Base64 can be written in several ways, so the text may differ.
		_, rest, _ := strings.Cut(token, ".")
		said, _, _ := strings.Cut(rest, ".")
		if got, err := base64.RawURLEncoding.DecodeString(said); err != nil || !bytes.Equal(got, payload) {
			t.Errorf("verified %q", token)
		}
	})
}
