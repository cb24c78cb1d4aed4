package auth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxQuestions bounds the questions under way: one of a client that left runs
// on, for others may have joined it, and UAA may take its time.
const maxQuestions = 1024

var errBusy = fmt.Errorf("%d questions to UAA and Cloud Controller are under way, which is the limit", maxQuestions)

// ask returns the answer to the question k: from the cache, from somebody who
// asks the same just now, or by get. get runs under a context of its own, so a
// client that leaves takes the answer from nobody else. Its answer is kept
// until the time it returns; the zero time keeps nothing, nor does an error.
func ask[T any](ctx context.Context, a *Auth, k key, get func(context.Context) (T, time.Time, error)) (T, error) {
	var none T
	if v, ok := a.cache.get(k, oldest(ctx)); ok {
		return v.(T), nil
	}
	from := oldest(ctx)
	done := a.flight.DoChan(string(k[:]), func() (any, error) {
		if v, ok := a.cache.get(k, from); ok { // answered since the look above
			return v, nil
		}
		select {
		case a.slots <- struct{}{}:
		default:
			return none, errBusy
		}
		defer func() { <-a.slots }()
		ctx, cancel := context.WithTimeout(a.ctx, a.cfg.Timeout)
		defer cancel()
		v, until, err := get(ctx)
		if err == nil && !until.IsZero() {
			a.cache.put(k, v, until)
		}
		return v, err
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return none, errors.Join(errLeft, ctx.Err())
	}
}

var errLeft = errors.New("the client left")

// keepUntil is how long a yes to this token may be believed. expires is in
// Unix seconds, 0 if unknown.
func (a *Auth) keepUntil(token string, expires int64) time.Time {
	if a.cfg.CacheFor == 0 {
		return time.Time{}
	}
	until := time.Now().Add(a.cfg.CacheFor)
	if at := time.Unix(expires, 0); expires != 0 && at.Before(until) {
		until = at
	}
	if at, ok := claimedExpiry(token); ok && at.Before(until) {
		until = at
	}
	return until
}
