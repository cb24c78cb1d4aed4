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
	uaa, inside, external *service // static after New; nil when access control is disabled, or does without
	verifier              Verifier
	local                 *local // nil unless tokens are verified here

	cache  *cache
	flight singleflight.Group
	// slots holds a token for each question under way, again for each of those
	// about streams that live.
	slots, again chan struct{}
	// ctx is the life of questions, which may outlive the clients that ask.
	ctx    context.Context
	cancel context.CancelFunc
	close  sync.Once

	keeper *keeper // of streams that live

	stats counters
}

// Identity is who a token speaks for.
type Identity struct {
	UserID, ClientID string
	Scopes           []string
	// Expires is in Unix seconds; 0 if the token does not say.
	Expires int64

	// Grants is what it may read; nil for what Cloud Controller says.
	Grants *Grants

	known string // of one verified here: see identityKey
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
	a := &Auth{cfg: cfg, log: log, cache: newCache(cfg.CacheEntries), slots: make(chan struct{}, maxQuestions), again: make(chan struct{}, maxQuestions)}
	a.ctx, a.cancel = context.WithCancel(context.Background())
	a.keeper = newKeeper(a, cfg.Recheck)
	if cfg.Disabled {
		return a, nil
	}
	if err := a.connect(log); err != nil {
		a.cancel()
		return nil, fmt.Errorf("access control: %w", err)
	}
	return a, nil
}

// connect makes what asks others.
func (a *Auth) connect(log *slog.Logger) (err error) {
	if a.cfg.platform() {
		if a.uaa, a.inside, a.external, err = services(a.cfg, log); err != nil {
			return err
		}
		if a.cfg.LocalTokens {
			a.local = newLocal(a)
		}
	}
	a.verifier, err = newVerifiers(a, log)
	return err
}

// Close ends the questions under way and waits for them. Later questions are
// refused as outages.
func (a *Auth) Close() {
	a.close.Do(func() {
		a.cancel()
		a.keeper.stop()
		for range maxQuestions {
			a.slots <- struct{}{}
			a.again <- struct{}{}
		}
		for _, s := range a.services() {
			if s != nil {
				s.client.CloseIdleConnections()
			}
		}
	})
}

// services are all that questions go to.
func (a *Auth) services() []*service {
	all := []*service{a.uaa, a.inside, a.external}
	if v, ok := a.verifier.(*verifiers); ok && v.oidc != nil {
		all = append(all, v.oidc.doc)
	}
	return all
}
