package auth

import (
	"context"
	"errors"
	"time"
)

// locally tells who a token speaks for, when that can be told without asking UAA
// about it: see local.verify.
func (a *Auth) locally(ctx context.Context, token string) (id Identity, known bool, err error) {
	if v, ok := a.verifier.(LocalVerifier); ok {
		return v.VerifyLocally(ctx, token)
	}
	return Identity{}, false, nil
}

// LocalVerifier is a Verifier that can tell about some tokens by itself. known
// is false for the others.
type LocalVerifier interface {
	VerifyLocally(ctx context.Context, token string) (id Identity, known bool, err error)
}

// Fresh asks about a token, without its scheme word, past everything that is
// remembered, and whatever can be told without asking. The error wraps
// ErrInvalidToken only when the token is known to be bad.
func (a *Auth) Fresh(ctx context.Context, token string) (Identity, error) {
	if a.cfg.Disabled {
		return Identity{}, nil
	}
	id, err := a.verifier.Verify(context.WithValue(notOlder(ctx, 0), afresh{}, true), token)
	if errors.Is(err, errOwnClient) {
		return Identity{}, errors.New(err.Error()) // our fault, not the token's
	}
	return id, err
}

// afresh marks a context.
type afresh struct{}

func isAfresh(ctx context.Context) bool { return ctx.Value(afresh{}) != nil }

// known marks a context with whom Cloud Controller's answers are kept for.
type known struct{}

// knownAs has Cloud Controller's answers kept for an identity, if it was
// verified here, and not for its token.
func knownAs(ctx context.Context, id Identity) context.Context {
	if id.known == "" {
		return ctx
	}
	return context.WithValue(ctx, known{}, id.known)
}

// noted counts a question that was asked elsewhere.
func (a *Auth) noted(which Call, took time.Duration, err error) {
	a.stats.called(which, took, err != nil)
	if err != nil && !errors.Is(err, context.Canceled) {
		a.stats.calls[which].gate.warn(a.log, err)
	}
}
