package auth

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"golang.org/x/sync/errgroup"
)

// MaxSources bounds the sources that somebody who is not an admin may name in
// one request: each may cost two questions.
const MaxSources = 1000

// Read decides about the RLP gateway's /v2/read (protocol/04 section 6), for
// the values of source_id. An admin may read everything, others what Cloud
// Controller shows them. Everything refused looks like something not there.
func (a *Auth) Read(ctx context.Context, r *http.Request, sourceIDs []string) Decision {
	decide := func(ctx context.Context, r *http.Request) Decision { return a.read(ctx, r, sourceIDs) }
	d := a.about(decide(ctx, r), r.Header.Get("Authorization"), decide, append([]string{"read"}, sourceIDs...)...)
	if d.claim != nil {
		d.claim.bySources = d.Identity.Name() == ""
	}
	return a.stats.decided(SurfaceRead, d)
}

func (a *Auth) read(ctx context.Context, r *http.Request, sourceIDs []string) Decision {
	if a.cfg.Disabled {
		return allow(Identity{})
	}
	authorization := r.Header.Get("Authorization")
	if authorization == "" {
		return refuseRead(NoToken)
	}
	id, err := a.verifier.Verify(ctx, strings.TrimSpace(strings.TrimPrefix(authorization, "bearer")))
	if err != nil && id.Grants == nil {
		id, err = a.writtenOtherwise(ctx, authorization, err)
	}
	switch {
	case err != nil && (id.Grants != nil || isToldHere(err) || !errors.Is(err, ErrInvalidToken)):
		return refuseRead(refusal(ctx, err))
	case err == nil && id.isAdmin():
		return allow(id)
	case len(sourceIDs) == 0 && err != nil:
		return refuseRead(refusal(ctx, err))
	case len(sourceIDs) == 0:
		return refuseRead(NoScope)
	}
	ctx = knownAs(ctx, id)
	// Even a token that UAA does not know: Cloud Controller decides.
	if why := eachSource(ctx, sourceIDs, func(source string) Reason { return a.readable(ctx, id, authorization, source) }); why != Allowed {
		return refuseRead(why)
	}
	return allow(id)
}

// writtenOtherwise looks at a token that was refused for how its scheme word is
// written, which Cloud Controller takes: it decides, but not about one that is
// refused by what is known here, and whose it is is known.
func (a *Auth) writtenOtherwise(ctx context.Context, authorization string, refused error) (Identity, error) {
	id, known, err := a.locally(ctx, bare(authorization))
	switch {
	case !known:
		return Identity{}, refused
	case err != nil:
		return Identity{}, toldHereError{err}
	}
	return id, refused
}

// eachSource returns the first reason that is not Allowed, in the order given.
func eachSource(ctx context.Context, sources []string, check func(source string) Reason) Reason {
	if len(sources) > MaxSources {
		return TooMany
	}
	sources = unique(sources)
	if isAgain(ctx) {
		return anySource(sources, check)
	}
	for _, source := range sources {
		if why := check(source); why != Allowed {
			return why
		}
	}
	return Allowed
}

// anySource asks about several sources at a time: a stream may be of many, and is
// to be ended soon by the one that is withdrawn. A clear no counts more than the
// lack of an answer about another source.
func anySource(sources []string, check func(source string) Reason) (first Reason) {
	reasons := make([]Reason, len(sources))
	var g errgroup.Group
	g.SetLimit(checksAtATime)
	for i, source := range sources {
		g.Go(func() error {
			reasons[i] = check(source)
			return nil
		})
	}
	_ = g.Wait() // there is no error
	first = Allowed
	for _, why := range reasons {
		if _, no := denied(why); no {
			return why
		}
		if first == Allowed {
			first = why
		}
	}
	return first
}

// unique leaves out what was there before.
func unique(list []string) []string {
	seen := make(map[string]bool, len(list))
	out := make([]string, 0, len(list))
	for _, s := range list {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// readable asks for log access, then for a service instance. The shape is
// looked at last, as protocol/04 has it; only what cannot be asked for goes
// unasked.
func (a *Auth) readable(ctx context.Context, id Identity, authorization, source string) Reason {
	if id.Grants != nil {
		return id.Grants.reason(source)
	}
	if !askable(source) {
		return InvalidID
	}
	why := a.either(ctx, authorization, source, a.logAccess, a.serviceInstance)
	if why == Allowed && !isGUID(source) {
		return InvalidID
	}
	return why
}

// either is Allowed if one of the questions, asked in turn, is answered 200.
func (a *Auth) either(ctx context.Context, authorization, source string, questions ...func(context.Context, string, string) (int, error)) Reason {
	why := NotFound
	for _, question := range questions {
		status, err := question(ctx, authorization, source)
		answer := statusReason(status)
		if err != nil {
			answer = refusal(ctx, err)
		}
		switch {
		case answer == Allowed || answer == Gone:
			return answer
		case why != Outage: // which may hide a yes, so it is the reason to tell
			why = answer
		}
	}
	return why
}

// statusReason is what a status of Cloud Controller means.
func statusReason(status int) Reason {
	switch status {
	case http.StatusOK:
		return Allowed
	case http.StatusUnauthorized:
		return InvalidToken
	case http.StatusForbidden, http.StatusNotFound:
		return NotFound
	}
	return Outage
}

func refuseRead(why Reason) Decision {
	return Decision{
		Reason: why, Status: http.StatusNotFound,
		Body:   `{"message":"resource not found","error":"not_found"}` + "\n\n",
		Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"}},
	}
}
