package auth

import (
	"context"
	"net/http"
	"strings"
)

// Firehose decides about /firehose/{id} (protocol/03 section 4): the scope
// doppler.firehose, and nothing less.
func (a *Auth) Firehose(ctx context.Context, r *http.Request) Decision {
	d := a.about(a.firehose(ctx, r), Token(r), a.firehose, "firehose")
	return a.stats.decided(SurfaceFirehose, d)
}

func (a *Auth) firehose(ctx context.Context, r *http.Request) Decision {
	if a.cfg.Disabled {
		return allow(Identity{})
	}
	token := Token(r)
	if token == "" {
		return refuseFirehose(NoToken, "authorization not provided")
	}
	id, err := a.verifier.Verify(ctx, strings.TrimPrefix(token, "bearer "))
	switch {
	case err != nil:
		return refuseFirehose(refusal(ctx, err), "invalid authorization")
	case !id.readsFirehose():
		return refuseFirehose(NoScope, "invalid authorization")
	}
	return allow(id)
}

func refuseFirehose(why Reason, text string) Decision {
	return Decision{
		Reason: why, Status: http.StatusUnauthorized, Body: "You are not authorized. " + text,
		Header: http.Header{"Www-Authenticate": {"Basic"}, "Content-Type": {"text/plain; charset=utf-8"}},
	}
}

// App decides about /apps/{guid}/stream, /recentlogs and /containermetrics
// (protocol/03 section 4).
func (a *Auth) App(ctx context.Context, r *http.Request, guid string) Decision {
	decide := func(ctx context.Context, r *http.Request) Decision { return a.appLogs(ctx, r, guid) }
	return a.stats.decided(SurfaceApp, a.about(decide(ctx, r), Token(r), decide, "app", guid))
}

func (a *Auth) appLogs(ctx context.Context, r *http.Request, guid string) Decision {
	if a.cfg.Disabled {
		return allow(Identity{})
	}
	token := Token(r)
	id, known, err := a.bearer(ctx, token)
	switch {
	case id.Grants == nil && !isGUID(guid):
		return Decision{Reason: whyNot(ctx, token, err), Status: http.StatusUnauthorized}
	case token == "":
		return refuseApp(NoToken)
	case err != nil:
		return refuseApp(refusal(ctx, err))
	case id.Grants != nil && !id.Grants.has(guid):
		return refuseApp(NotFound)
	case id.Grants != nil:
		return allow(id)
	}
	status, err := a.logAccess(knownAs(ctx, id), token, guid)
	if err != nil {
		return refuseApp(refusal(ctx, err))
	}
	if why := statusReason(status); why != Allowed {
		return refuseApp(why)
	}
	if !known {
		id = claimedIdentity(token) // Cloud Controller takes the token for good
	}
	return allow(id)
}

// whyNot is why a source that no app can be is refused: for the token, if there is
// something wrong with it.
func whyNot(ctx context.Context, token string, err error) Reason {
	switch {
	case token == "":
		return NoToken
	case err != nil:
		return refusal(ctx, err)
	}
	return InvalidID
}

// bearer is who sends a token, as far as that can be told without asking UAA about
// it. It has Grants when no other can speak for Cloud Controller's apps.
func (a *Auth) bearer(ctx context.Context, token string) (id Identity, known bool, err error) {
	switch {
	case token != "":
		return a.locally(ctx, bare(token))
	case a.inside == nil:
		return Identity{Grants: nothing}, false, nil
	}
	return Identity{}, false, nil
}

func refuseApp(why Reason) Decision {
	switch why {
	case NoToken, InvalidToken:
		return Decision{Reason: why, Status: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {"Basic"}}}
	case NotFound:
		return Decision{Reason: why, Status: http.StatusNotFound}
	}
	return Decision{Reason: why, Status: http.StatusInternalServerError}
}
