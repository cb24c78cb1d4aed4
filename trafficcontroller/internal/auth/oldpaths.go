package auth

import (
	"context"
	"net/http"
	"strings"
)

// Firehose decides about /firehose/{id} (protocol/03 section 4): the scope
// doppler.firehose, and nothing less.
func (a *Auth) Firehose(ctx context.Context, r *http.Request) Decision {
	return a.stats.decided(SurfaceFirehose, a.firehose(ctx, r))
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
	case !id.has(scopeFirehose):
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
	return a.stats.decided(SurfaceApp, a.appLogs(ctx, r, guid))
}

func (a *Auth) appLogs(ctx context.Context, r *http.Request, guid string) Decision {
	if a.cfg.Disabled {
		return allow(Identity{})
	}
	if !isGUID(guid) {
		return Decision{Reason: InvalidID, Status: http.StatusUnauthorized}
	}
	token := Token(r)
	if token == "" {
		return refuseApp(NoToken)
	}
	status, err := a.logAccess(ctx, token, guid)
	if err != nil {
		return refuseApp(refusal(ctx, err))
	}
	if why := statusReason(status); why != Allowed {
		return refuseApp(why)
	}
	return allow(claimedIdentity(token)) // Cloud Controller takes the token for good
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
