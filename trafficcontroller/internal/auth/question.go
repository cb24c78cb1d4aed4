package auth

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// maxQuestions bounds the questions under way: one of a client that left runs
// on, for others may have joined it, and UAA may take its time. Those about
// streams that live have as many places of their own, and wait for one: whoever
// asks to be let in cannot keep them from being asked.
const maxQuestions = 1024

var errBusy = fmt.Errorf("%d questions to UAA and Cloud Controller are under way, which is the limit", maxQuestions)

// ask returns the answer to the question k: from the cache, from somebody who
// asks the same just now, or by get. get runs under a context of its own, so a
// client that leaves takes the answer from nobody else. Its answer is kept
// until the time it returns; the zero time keeps nothing, nor does an error.
func ask[T any](ctx context.Context, a *Auth, k key, get func(context.Context) (T, time.Time, error)) (T, error) {
	var none T
	from := oldest(ctx)
	for {
		if v, ok := a.cache.get(k, from); ok {
			return v.(T), nil
		}
		done := a.flight.DoChan(string(k[:]), func() (any, error) { return asking(a, k, from, get) })
		select {
		case r := <-done:
			said, _ := r.Val.(answer[T])
			again := isAgain(ctx)
			switch {
			case r.Err == nil && said.began.Before(from): // somebody had asked before
			case again && errors.Is(r.Err, errBusy): // somebody for whom there was no place
			default:
				return said.value, r.Err
			}
		case <-ctx.Done():
			return none, errors.Join(errLeft, ctx.Err())
		}
	}
}

// answer is what a question is answered with, and a time that it was not asked
// before.
type answer[T any] struct {
	value T
	began time.Time
}

// asking asks, unless somebody has since from.
func asking[T any](a *Auth, k key, from time.Time, get func(context.Context) (T, time.Time, error)) (said answer[T], err error) {
	if v, ok := a.cache.get(k, from); ok {
		return answer[T]{v.(T), from}, nil
	}
	free, err := a.place(!from.IsZero())
	if err != nil {
		return said, err
	}
	defer free()
	ctx, cancel := context.WithTimeout(a.ctx, a.cfg.Timeout)
	defer cancel()
	said.began = time.Now()
	v, until, err := get(ctx)
	if err != nil {
		return answer[T]{}, err
	}
	if said.value = v; !until.IsZero() {
		a.cache.put(k, v, said.began, until)
	}
	return said, nil
}

// place takes one for a question; free gives it back.
func (a *Auth) place(again bool) (free func(), err error) {
	if again {
		select {
		case a.again <- struct{}{}:
			return func() { <-a.again }, nil
		case <-a.ctx.Done():
			return nil, a.ctx.Err()
		}
	}
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots }, nil
	default:
		return nil, errBusy
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
