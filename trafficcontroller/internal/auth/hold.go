package auth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
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
	of       *heldToken // guarded by keeper.mu; nil once it is over
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
	switch {
	case !d.Allowed():
		return fmt.Errorf("the token is refused: %s", d.Reason)
	case d.Identity.Name() != h.name:
		return errOtherUser
	}
	h.keeper.mu.Lock()
	defer h.keeper.mu.Unlock()
	if h.of == nil {
		return errOver
	}
	due := h.of.checkAt
	h.keeper.drop(h)
	renewed := *h.claim
	renewed.authorization = authorization
	d.claim = &renewed
	h.keeper.put(h, d)
	// Or who sends tokens all the time would never be asked about.
	if due.Before(h.of.checkAt) {
		h.of.checkAt = due
		h.keeper.arm(h.of)
	}
	return nil
}

var errOver = errors.New("the stream is over")

// keeper asks again about the tokens of streams. Many streams of one token cost
// one question about it, and one for each thing that they read.
type keeper struct {
	auth  *Auth
	every time.Duration

	running sync.WaitGroup
	ended   [losses]atomic.Uint64
	renews  [2]atomic.Uint64 // refused, accepted

	mu      sync.Mutex
	tokens  map[key]*heldToken
	stopped bool
}

// heldToken is a token that streams hold. It is guarded by the keeper's mu.
type heldToken struct {
	key           key
	authorization string
	expires       int64 // Unix seconds; 0 if it is not known
	holds         map[*Hold]struct{}
	timer         *time.Timer
	checkAt       time.Time
	checking      bool
}

func newKeeper(a *Auth, every time.Duration) *keeper {
	return &keeper{auth: a, every: every, tokens: map[key]*heldToken{}}
}

// stop ends all questions and waits for them. Leave that is held stays.
func (k *keeper) stop() {
	k.mu.Lock()
	k.stopped = true
	for _, t := range k.tokens {
		t.timer.Stop()
	}
	k.mu.Unlock()
	k.running.Wait()
}

// spawn runs f unless the keeper is stopped.
func (k *keeper) spawn(f func()) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return false
	}
	k.running.Go(f)
	return true
}

func (k *keeper) add(h *Hold, d Decision) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.put(h, d)
}

// put makes a Hold one of its token's. mu is held.
func (k *keeper) put(h *Hold, d Decision) {
	id := keyOf("held", bare(d.claim.authorization))
	t := k.tokens[id]
	if t == nil {
		t = &heldToken{key: id, authorization: d.claim.authorization, holds: map[*Hold]struct{}{}}
		// Not all that came at once ask at once.
		t.checkAt = time.Now().Add(k.every/2 + rand.N(k.every/2+1))
		k.tokens[id] = t
	}
	t.knows(d.Identity)
	t.holds[h], h.of = struct{}{}, t
	k.arm(t)
}

// knows takes note of when the token expires.
func (t *heldToken) knows(id Identity) {
	if id.Expires != 0 {
		t.expires = id.Expires
	} else if at, ok := claimedExpiry(bare(t.authorization)); ok && t.expires == 0 {
		t.expires = at.Unix()
	}
}

// end is when a token that expires does: as late as it is taken elsewhere.
func (k *keeper) end(t *heldToken) time.Time {
	return time.Unix(t.expires, 0).Add(k.auth.cfg.TokenSkew)
}

// arm sets the time of the next look. mu is held.
func (k *keeper) arm(t *heldToken) {
	if t.timer != nil {
		t.timer.Stop()
	}
	if k.stopped {
		return
	}
	at := t.checkAt
	if end := k.end(t); t.expires != 0 && end.Before(at) {
		at = end
	}
	t.timer = time.AfterFunc(max(time.Until(at), 0), func() { k.spawn(func() { k.look(t) }) })
}

// drop takes a Hold from its token. mu is held.
func (k *keeper) drop(h *Hold) {
	t := h.of
	if t == nil {
		return
	}
	h.of = nil
	delete(t.holds, h)
	if len(t.holds) == 0 {
		t.timer.Stop()
		delete(k.tokens, t.key)
	}
}

// look ends leave that has expired, or asks again. A question may take its time:
// the token may expire meanwhile, but nobody asks the same.
func (k *keeper) look(t *heldToken) {
	k.mu.Lock()
	now := time.Now()
	over := t.expires != 0 && !now.Before(k.end(t))
	ask := !over && !t.checking && !now.Before(t.checkAt)
	holds := make([]*Hold, 0, len(t.holds))
	for h := range t.holds {
		holds = append(holds, h)
	}
	if ask {
		t.checking = true
	}
	if !over && len(holds) > 0 {
		if !now.Before(t.checkAt) {
			t.checkAt = now.Add(k.every - rand.N(k.every/8+1))
		}
		k.arm(t)
	}
	k.mu.Unlock()
	switch {
	case over:
		k.lose(t, holds, Expired)
	case ask:
		k.check(t, holds)
		k.mu.Lock()
		t.checking = false
		k.mu.Unlock()
	}
}

// lose tells the streams of a token that it is over, those that have not got
// another since.
func (k *keeper) lose(t *heldToken, holds []*Hold, why Lost) {
	for _, h := range holds {
		k.mu.Lock()
		mine := h.of == t
		if mine {
			k.drop(h)
		}
		k.mu.Unlock()
		if mine {
			k.ended[why].Add(1)
			k.spawn(func() { h.lost(why) })
		}
	}
}

// How many things of one token are asked about at a time, and how old an answer
// may be that somebody else has got.
const (
	checksAtATime = 16
	freshFor      = 4 * time.Second
)

// check asks about the token, and about all that its streams read.
func (k *keeper) check(t *heldToken, holds []*Hold) {
	ctx, cancel := context.WithTimeout(k.auth.ctx, k.auth.cfg.Timeout)
	defer cancel()
	id, err := k.auth.Fresh(ctx, bare(t.authorization))
	if invalid := isInvalid(err); invalid {
		k.lose(t, tokenHolds(holds), Revoked)
	} else if err == nil {
		k.mu.Lock()
		t.knows(id)
		if len(t.holds) > 0 {
			k.arm(t)
		}
		k.mu.Unlock()
	}
	var g errgroup.Group
	g.SetLimit(checksAtATime)
	for _, group := range byClaim(holds) {
		g.Go(func() error {
			ctx, cancel := context.WithTimeout(k.auth.ctx, k.auth.cfg.Timeout)
			defer cancel()
			if why, no := denied(group[0].claim.decide(notOlder(ctx, freshFor), t.authorization).Reason); no {
				k.lose(t, group, why)
			}
			return nil
		})
	}
	_ = g.Wait() // there is no error
}

// isInvalid tells a token that is known to be bad from one of which nobody can
// tell.
func isInvalid(err error) bool {
	return errors.Is(err, ErrInvalidToken) && !errors.Is(err, errOwnClient)
}

// tokenHolds are those that stand and fall with what UAA says of the token.
func tokenHolds(holds []*Hold) (of []*Hold) {
	for _, h := range holds {
		if !h.claim.bySources {
			of = append(of, h)
		}
	}
	return of
}

// byClaim puts together those that read the same.
func byClaim(holds []*Hold) map[key][]*Hold {
	groups := map[key][]*Hold{}
	for _, h := range holds {
		groups[h.claim.what] = append(groups[h.claim.what], h)
	}
	return groups
}

// denied tells a clear no, to the token or to what is read, from the lack of an
// answer.
func denied(why Reason) (l Lost, no bool) {
	switch why {
	case NoToken, InvalidToken:
		return Revoked, true
	case NoScope, InvalidID, NotFound:
		return Withdrawn, true
	}
	return 0, false
}

func (k *keeper) renewed(err error) {
	if err == nil {
		k.renews[1].Add(1)
	} else {
		k.renews[0].Add(1)
	}
}

// HoldStats is about streams that live.
type HoldStats struct {
	Tokens            int            // held now
	Ended             [losses]uint64 // by Lost
	Renewed, NotTaken uint64         // tokens in band
}

// HoldStats returns the counts so far.
func (a *Auth) HoldStats() HoldStats {
	k := a.keeper
	k.mu.Lock()
	s := HoldStats{Tokens: len(k.tokens), Renewed: k.renews[1].Load(), NotTaken: k.renews[0].Load()}
	k.mu.Unlock()
	for i := range s.Ended {
		s.Ended[i] = k.ended[i].Load()
	}
	return s
}

// Losses lists every Lost.
func Losses() []Lost { return []Lost{Expired, Revoked, Withdrawn} }

// notOlder is a context for questions whose answer may come from the cache only
// if it is not older than age.
func notOlder(ctx context.Context, age time.Duration) context.Context {
	return context.WithValue(ctx, ageKey{}, time.Now().Add(-age))
}

type ageKey struct{}

// oldest is the time that an answer has to be from.
func oldest(ctx context.Context) time.Time {
	at, _ := ctx.Value(ageKey{}).(time.Time)
	return at
}
