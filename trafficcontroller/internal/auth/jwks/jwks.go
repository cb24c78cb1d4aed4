// Package jwks verifies JWTs by the keys that their issuer publishes (RFC 7515,
// 7517 and 7519). Of what a token's header says only alg and kid are looked at.
package jwks

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"
)

// Config says where keys are.
type Config struct {
	// Find tells their URL before each fetch. It may ask for it.
	Find   func(ctx context.Context) (string, error)
	Client *http.Client
	// Timeout bounds one fetch.
	Timeout time.Duration
	// KeepFor is how long keys are used while none can be fetched.
	KeepFor time.Duration
	// Fetched, if set, is told of every fetch.
	Fetched func(took time.Duration, err error)
}

// Times and bounds of a KeySet.
const (
	refreshAfter = 10 * time.Minute
	fetchEvery   = 5 * time.Second // at most
	waitAfter    = time.Minute     // a fetch that failed is no sign any more
	maxBody      = 1 << 20
	maxKeys      = 100
	minRSABits   = 2048
)

// At is a Find for keys that are always at one URL.
func At(url string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return url, nil }
}

// KeySet is the keys of one issuer. They are fetched when a token needs them, at
// most once in 5 s however many do. Its methods may be called from any number of
// goroutines.
type KeySet struct {
	cfg    Config
	life   context.Context // of fetches, which may outlive who wants them
	flight singleflight.Group

	mu      sync.Mutex
	keys    map[string]any // by name; replaced, never changed
	fetched time.Time      // keys
	tried   time.Time      // the last fetch, which may have failed
	failed  bool           // it did
}

// New returns a KeySet whose fetches end with life. It fetches nothing yet.
func New(life context.Context, cfg Config) *KeySet { return &KeySet{cfg: cfg, life: life} }

// ErrNoKeys is why nobody can tell about a token: there are no keys, or they are
// too old.
var ErrNoKeys = errors.New("there are no keys to verify tokens with")

// name is what a key is found by: a key is good for one algorithm.
func name(alg, kid string) string { return alg + " " + kid }

// look returns the keys, fetched if there are none, if they are stale, or if
// wanted is not among them, and whether that is the last word: no fetch has
// failed since. It waits for a fetch, but not while one after another fails.
func (s *KeySet) look(ctx context.Context, wanted string) (keys map[string]any, last bool, err error) {
	for range 2 {
		v := s.view()
		_, has := v.keys[wanted]
		enough := has || wanted == "" && len(v.keys) > 0
		if !v.due(enough) {
			return v.keys, !v.failed, v.usable()
		}
		done := s.flight.DoChan("", func() (any, error) { s.fetchDue(enough); return nil, nil })
		if v.failed && v.quiet < waitAfter {
			return v.keys, false, v.usable()
		}
		select {
		case <-done:
		case <-ctx.Done():
			return nil, false, ctx.Err()
		}
	}
	v := s.view()
	return v.keys, !v.failed, v.usable()
}

// view is what a KeySet knows at one time.
type view struct {
	keys   map[string]any
	age    time.Duration // of the keys
	quiet  time.Duration // since the last fetch
	failed bool
	keep   time.Duration
}

func (s *KeySet) view() view {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	v := view{age: now.Sub(s.fetched), quiet: now.Sub(s.tried), failed: s.failed, keep: s.cfg.KeepFor}
	if v.age < v.keep {
		v.keys = s.keys
	}
	return v
}

// due tells whether it is time for a fetch.
func (v view) due(enough bool) bool {
	return v.quiet >= fetchEvery && (!enough || v.age >= refreshAfter)
}

func (v view) usable() error {
	if len(v.keys) == 0 {
		return ErrNoKeys
	}
	return nil
}

// fetchDue fetches unless somebody just has.
func (s *KeySet) fetchDue(enough bool) {
	if !s.view().due(enough) {
		return
	}
	start := time.Now()
	keys, err := s.fetch()
	if s.cfg.Fetched != nil {
		s.cfg.Fetched(time.Since(start), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tried, s.failed = time.Now(), err != nil
	if err == nil {
		s.keys, s.fetched = keys, s.tried
	}
}

func (s *KeySet) fetch() (map[string]any, error) {
	ctx, cancel := context.WithTimeout(s.life, s.cfg.Timeout)
	defer cancel()
	url, err := s.cfg.Find(ctx)
	if err != nil {
		return nil, fmt.Errorf("find keys: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	r.Header.Set("Accept", "application/json")
	resp, err := s.cfg.Client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetch keys: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("fetch keys: %w", err)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("fetch keys: status %d", resp.StatusCode)
	case len(body) > maxBody:
		return nil, fmt.Errorf("fetch keys: the answer is longer than %d bytes", maxBody)
	}
	return parse(body)
}

// parse reads a JWK set. Keys of no use here are left out.
func parse(body []byte) (map[string]any, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, errors.New("fetch keys: the answer is not a JWK set")
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("fetch keys: there are %d, the limit is %d", len(set.Keys), maxKeys)
	}
	keys := map[string]any{}
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if json.Unmarshal(raw, &k) != nil || k.KeyID == "" || k.Use != "" && k.Use != "sig" {
			continue
		}
		alg, key := usable(k.Public().Key)
		if alg != "" && (k.Algorithm == "" || k.Algorithm == string(alg)) {
			keys[name(string(alg), k.KeyID)] = key
		}
	}
	if len(keys) == 0 {
		return nil, errors.New("fetch keys: none is for RS256 or ES256")
	}
	return keys, nil
}

// usable returns the one algorithm that a key is good for; "" for none.
func usable(key any) (jose.SignatureAlgorithm, any) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() >= minRSABits {
			return jose.RS256, k
		}
	case *ecdsa.PublicKey:
		if k.Curve == elliptic.P256() {
			return jose.ES256, k
		}
	}
	return "", nil
}
