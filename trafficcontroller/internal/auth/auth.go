// Package auth decides who may read what. It asks UAA about tokens and Cloud
// Controller about sources, and answers refused clients the way each of their
// generations is used to (protocol/03, 04 and 05).
//
// Only a clear yes gives access. Whatever is wrong with an answer, from a
// refused connection to one byte too few, is an outage, and an outage refuses.
package auth

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"sync"

	"golang.org/x/sync/singleflight"
)

// Auth decides. Its methods may be called from any number of goroutines.
type Auth struct {
	cfg                   Config
	log                   *slog.Logger
	uaa, inside, external *service // static after New; nil when access control is disabled
	verifier              Verifier

	cache  *cache
	flight singleflight.Group
	// slots holds a token for each question under way.
	slots chan struct{}
	// ctx is the life of questions, which may outlive the clients that ask.
	ctx    context.Context
	cancel context.CancelFunc
	close  sync.Once

	stats counters
}

// Identity is who a token speaks for.
type Identity struct {
	UserID, ClientID string
	Scopes           []string
	// Expires is in Unix seconds; 0 if the token does not say.
	Expires int64
}

// Name is the user, else the client of UAA; empty if neither is known.
func (i Identity) Name() string { return cmp.Or(i.UserID, i.ClientID) }

// Verifier checks a token, without its scheme word. The error wraps
// ErrInvalidToken when the token is known to be bad; any other error means that
// nobody could tell. It may be called from many goroutines.
type Verifier interface {
	Verify(ctx context.Context, token string) (Identity, error)
}

// New returns an Auth for a valid cfg; the error names the setting or file at
// fault. It connects to nothing. Close it when the last request is answered.
func New(cfg Config, log *slog.Logger) (*Auth, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("access control: %w", err)
	}
	a := &Auth{cfg: cfg, log: log, cache: newCache(cfg.CacheEntries), slots: make(chan struct{}, maxQuestions)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.verifier = uaaVerifier{a}
	if cfg.Disabled {
		return a, nil
	}
	var err error
	if a.uaa, a.inside, a.external, err = services(cfg, log); err != nil {
		a.cancel()
		return nil, fmt.Errorf("access control: %w", err)
	}
	return a, nil
}

// UseVerifier puts another Verifier in front of UAA's check_token, which next
// is. Call it before the first request.
func (a *Auth) UseVerifier(wrap func(next Verifier) Verifier) { a.verifier = wrap(a.verifier) }

// Close ends the questions under way and waits for them. Later questions are
// refused as outages.
func (a *Auth) Close() {
	a.close.Do(func() {
		a.cancel()
		for range cap(a.slots) {
			a.slots <- struct{}{}
		}
		for _, s := range []*service{a.uaa, a.inside, a.external} {
			if s != nil {
				s.client.CloseIdleConnections()
			}
		}
	})
}
