package auth

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

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
	// asking says that it is asked about, checking that what its streams read is.
	asking, checking bool
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

// replace gives a Hold another token.
func (k *keeper) replace(h *Hold, d Decision) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := h.of
	if before == nil {
		return errOver
	}
	if keyOf("held", d.claim.authorization) == before.key {
		before.knows(d.Identity)
		k.arm(before)
		return nil
	}
	due := before.checkAt
	if before.asking || before.checking {
		due = time.Now() // what is answered now is not about this one
	}
	k.drop(h)
	k.put(h, d)
	// Or who sends tokens all the time would never be asked about.
	if due.Before(h.of.checkAt) {
		h.of.checkAt = due
		k.arm(h.of)
	}
	return nil
}

// put makes a Hold one of its token's. mu is held.
func (k *keeper) put(h *Hold, d Decision) {
	id := keyOf("held", d.claim.authorization)
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
	if id.Expires != 0 || id.Grants != nil {
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
// the token may expire meanwhile, but nobody asks the same, and one about what a
// stream reads does not hold up the next about the token.
func (k *keeper) look(t *heldToken) {
	k.mu.Lock()
	now := time.Now()
	over, due := t.expires != 0 && !now.Before(k.end(t)), !now.Before(t.checkAt)
	ask, check := !over && due && !t.asking, !over && due && !t.checking
	t.asking, t.checking = t.asking || ask, t.checking || check
	holds := slices.Collect(maps.Keys(t.holds))
	if !over && len(holds) > 0 {
		if due {
			t.checkAt = now.Add(k.every - rand.N(k.every/8+1))
		}
		k.arm(t)
	}
	k.mu.Unlock()
	if over {
		k.lose(t, holds, Expired)
		return
	}
	asked := make(chan struct{})
	if check {
		k.spawn(func() { k.check(t, holds, asked) })
	}
	if ask {
		k.ask(t, holds)
	}
	close(asked)
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

// How many things of one token are asked about at a time, how old an answer may be
// that somebody else has got, and how long what a stream reads waits for what is
// said of the token.
const (
	checksAtATime = 16
	freshFor      = 4 * time.Second
	tokenFirst    = 5 * time.Second
)

// ask asks about the token.
func (k *keeper) ask(t *heldToken, holds []*Hold) {
	ctx, cancel := context.WithTimeout(k.auth.ctx, k.auth.cfg.Timeout)
	defer cancel()
	id, err := k.auth.Fresh(ctx, bare(t.authorization))
	if isInvalid(err) {
		k.lose(t, tokenHolds(holds), Revoked)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	t.asking = false
	if err == nil && len(t.holds) > 0 {
		k.found(t, id)
	}
}

// found takes note of what UAA says of a token. mu is held.
func (k *keeper) found(t *heldToken, id Identity) {
	before := t.expires
	t.knows(id)
	k.arm(t)
	if t.expires == before || k.stopped {
		return
	}
	for h := range t.holds {
		if h.ends != nil {
			k.running.Go(h.ends)
		}
	}
}

// check asks about all that its streams read, once the token was asked about or
// that has taken a while.
func (k *keeper) check(t *heldToken, holds []*Hold, asked <-chan struct{}) {
	wait := time.NewTimer(tokenFirst)
	defer wait.Stop()
	select {
	case <-asked:
	case <-wait.C:
	case <-k.auth.ctx.Done():
	}
	var g errgroup.Group
	g.SetLimit(checksAtATime)
	for _, group := range byClaim(holds) {
		g.Go(func() error {
			// Each question ends in its time; a stream may need many.
			ctx := notOlder(k.auth.ctx, freshFor)
			if why, no := denied(group[0].claim.decide(ctx, t.authorization).Reason); no {
				k.lose(t, group, why)
			}
			return nil
		})
	}
	_ = g.Wait() // there is no error
	k.mu.Lock()
	defer k.mu.Unlock()
	t.checking = false
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

// isAgain tells a question about a stream that lives from one to be let in.
func isAgain(ctx context.Context) bool { return !oldest(ctx).IsZero() }

// oldest is the time that an answer has to be from.
func oldest(ctx context.Context) time.Time {
	at, _ := ctx.Value(ageKey{}).(time.Time)
	return at
}
