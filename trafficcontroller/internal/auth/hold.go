package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// Lost is why somebody may not go on reading.
type Lost uint8

// Why leave to read ends, in the order of Stats.
const (
	Expired   Lost = iota // the token
	Revoked               // likewise: its issuer does not accept it any more
	Withdrawn             // the token is good, but does not allow this any more
	losses
)

func (l Lost) String() string { return [...]string{"expired", "revoked", "withdrawn"}[l] }

// claim is what a request was decided by, to decide again.
type claim struct {
	authorization string // as it was sent
	what          key    // of what is to be read
	// bySources says that Cloud Controller was believed about a token that UAA
	// does not know (protocol/04, section 6).
	bySources bool
	decide    func(ctx context.Context, authorization string) Decision
}

// about remembers what a decision was about, if it allowed anything.
func (a *Auth) about(d Decision, authorization string, decide func(context.Context, *http.Request) Decision, what ...string) Decision {
	if !d.Allowed() || a.cfg.Disabled {
		return d
	}
	d.claim = &claim{authorization: authorization, what: keyOf(what...), decide: func(ctx context.Context, authorization string) Decision {
		return decide(ctx, &http.Request{Header: http.Header{"Authorization": {authorization}}, URL: &url.URL{}})
	}}
	return d
}

// Hold is somebody's leave to read for as long as a stream lives.
type Hold struct {
	// static
	keeper *keeper
	claim  *claim // with the first token
	name   string
	lost   func(Lost)

	renewing atomic.Bool

	// guarded by keeper.mu
	of   *heldToken // nil once it is over
	ends func()     // may be nil
}

// Hold watches over a decision that allowed a stream until Release: the token is
// asked about again, and what it allows, every --access-recheck, and when it
// expires. Questions without an answer change nothing. When leave ends, lost is
// called, once, by a goroutine of its own.
func (a *Auth) Hold(d Decision, lost func(Lost)) *Hold {
	h := &Hold{keeper: a.keeper, claim: d.claim, name: d.Identity.Name(), lost: lost}
	if d.claim != nil {
		h.keeper.add(h, d)
	}
	return h
}

// OnEnd has ends called when it is found out later when the token expires, by a
// goroutine of its own: about a tail's opaque token only Cloud Controller is asked
// at first.
func (h *Hold) OnEnd(ends func()) {
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	h.ends = ends
}

// Release ends it. It may be called more than once.
func (h *Hold) Release() {
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	h.keeper.drop(h)
}

// Left is how long the token is good for, 0 if there is no end to it. ok is false
// when leave has ended.
func (h *Hold) Left() (left time.Duration, ok bool) {
	if h.claim == nil {
		return 0, true
	}
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	if h.of == nil {
		return 0, false
	}
	if h.of.expires == 0 {
		return 0, true
	}
	return max(time.Until(time.Unix(h.of.expires, 0)), time.Millisecond), true
}

// Errors of Renew.
var (
	errRenewing  = errors.New("the token before it is still being checked")
	errOtherUser = errors.New("the token is of another user")
	errWhose     = errors.New("nobody can tell whether the token is of the same user")
)

// Renew puts another token of the same user in the place of the one before, if
// it allows the same. It does not wait: told is called by another goroutine, with
// why not, or nil.
func (h *Hold) Renew(authorization string, told func(error)) {
	if h.claim == nil {
		told(nil)
		return
	}
	if !h.renewing.CompareAndSwap(false, true) {
		told(errRenewing)
		return
	}
	ok := h.keeper.spawn(func() {
		err := h.renew(withScheme(authorization))
		h.renewing.Store(false)
		h.keeper.renewed(err)
		told(err)
	})
	if !ok {
		told(errStopped)
	}
}

var errStopped = errors.New("this Traffic Controller is stopping")

// withScheme is a token as a header has it.
func withScheme(token string) string { return "bearer " + bare(token) }

func (h *Hold) renew(authorization string) error {
	ctx, cancel := context.WithTimeout(h.keeper.auth.ctx, h.keeper.auth.cfg.Timeout)
	defer cancel()
	d := h.claim.decide(ctx, authorization)
	if !d.Allowed() {
		return fmt.Errorf("the token is refused: %s", d.Reason)
	}
	if err := h.sameUser(ctx, d, authorization); err != nil {
		return err
	}
	renewed := *h.claim
	renewed.authorization = authorization
	d.claim = &renewed
	return h.keeper.replace(h, d)
}

// sameUser asks UAA whose two tokens are when only Cloud Controller was asked about
// them. About a token that it does not know nobody can tell.
func (h *Hold) sameUser(ctx context.Context, d Decision, authorization string) error {
	was, is := h.name, d.Identity.Name()
	if h.claim.bySources && is == "" {
		return nil
	}
	for _, of := range []struct {
		name  *string
		token string
	}{{&was, h.token()}, {&is, authorization}} {
		if *of.name != "" {
			continue
		}
		id, err := h.keeper.auth.Fresh(ctx, bare(of.token))
		if err != nil {
			return errWhose
		}
		*of.name = id.Name()
	}
	if was != is {
		return errOtherUser
	}
	return nil
}

// token is the one it has now.
func (h *Hold) token() string {
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	if h.of == nil {
		return ""
	}
	return h.of.authorization
}

var errOver = errors.New("the stream is over")
