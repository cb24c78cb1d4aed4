package auth

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejwt "github.com/go-jose/go-jose/v4/jwt"
)

// connects is how many tokens BenchmarkConnect has at most, each of a user of its
// own.
const connects = 200_000

var benchKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// benchTokens are kept, for signing them takes longest of all.
var benchTokens []string

// tokensOf returns n tokens as UAA signs them.
func tokensOf(b *testing.B, n int) []string {
	key, err := benchKey()
	if err != nil {
		b.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "key-1"))
	if err != nil {
		b.Fatal(err)
	}
	now := time.Now().Unix()
	for i := len(benchTokens); i < n; i++ {
		id := fmt.Sprintf("%08x-58cc-4372-a567-0e02b2c3d479", i)
		token, err := josejwt.Signed(signer).Claims(map[string]any{
			"jti": id, "sub": id, "user_id": id, "origin": "uaa", "user_name": "user" + id, "email": id + "@example.com", "auth_time": now,
			"rev_sig": "b76d98e9", "client_id": "cf", "cid": "cf", "azp": "cf", "grant_type": "password", "zid": "uaa", "iss": testIssuer,
			"scope": []string{"openid", "routing.router_groups.read", "cloud_controller.read", "password.write", "cloud_controller.write", scopeFirehose},
			"aud":   []string{"cf", "openid", "routing.router_groups", "cloud_controller", "password", "doppler"}, "iat": now, "exp": now + 12*3600,
		}).Serialize()
		if err != nil {
			b.Fatal(err)
		}
		benchTokens = append(benchTokens, token)
	}
	return benchTokens
}

// processorTime is what this process has used, on all processors. Other work on
// the machine does not count.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkConnect decides about requests with tokens of as many users. Those
// about an app are one question each to Cloud Controller, over TLS, to a server in
// this process; "app again" has its answers at hand. With -benchtime 200000x it
// signs as many tokens first, which takes minutes.
func BenchmarkConnect(b *testing.B) {
	key, err := benchKey()
	if err != nil {
		b.Fatal(err)
	}
	set, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "key-1", Use: "sig"}}})
	firehose := func(a *Auth, r *http.Request) Decision { return a.Firehose(b.Context(), r) }
	oneApp := func(a *Auth, r *http.Request) Decision { return a.App(b.Context(), r, app) }
	for _, bench := range []struct {
		name   string
		decide func(*Auth, *http.Request) Decision
		again  bool
	}{
		{"firehose", firehose, false}, {"app", oneApp, false}, {"app again", oneApp, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			o, cfg := newOutside(b)
			cfg.CacheFor, cfg.CacheEntries = 5*time.Minute, connects
			a, err := New(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				b.Fatal(err)
			}
			defer a.Close()
			o.quiet = true
			o.set(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/token_keys" {
					says(200, string(set))(w, r)
					return
				}
				says(200, fmt.Sprintf(`{"issuer":%q}`, testIssuer))(w, r)
			}, says(200, ""))
			tokens := tokensOf(b, min(b.N, connects))
			of := func(i int) *http.Request { return request("bearer " + tokens[i%len(tokens)]) }
			for i := 0; bench.again && i < len(tokens); i++ {
				bench.decide(a, of(i))
			}
			before := a.Stats().Calls[CallLogAccess].Count
			b.ReportAllocs()
			cpu := processorTime(b)
			b.ResetTimer()
			for i := range b.N {
				if d := bench.decide(a, of(i)); !d.Allowed() {
					b.Fatalf("%+v", d)
				}
			}
			b.StopTimer()
			b.ReportMetric(float64((processorTime(b)-cpu).Microseconds())/float64(b.N), "cpu-us/op")
			for _, c := range a.Stats().Calls {
				if c.Call == CallCheckToken && c.Count != 0 || (c.Call == CallTokenKeys || c.Call == CallIssuer) && c.Count > 2 {
					b.Errorf("%v was asked %d times", c.Call, c.Count)
				}
			}
			b.ReportMetric(float64(a.Stats().Calls[CallLogAccess].Count-before)/float64(b.N), "cc-questions/op")
		})
	}
}
