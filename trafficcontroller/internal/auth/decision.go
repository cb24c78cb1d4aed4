package auth

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
)

// Reason is why a request was decided as it was. The zero value refuses.
type Reason uint8

// Reasons, in the order of Stats.
const (
	Undecided Reason = iota
	Allowed
	NoToken      // no token, or a cookie that cannot be read
	InvalidToken // UAA or Cloud Controller does not accept it
	NoScope      // the token is good, its scopes are not enough
	InvalidID    // not shaped like the id of an app
	NotFound     // Cloud Controller does not show it to this token
	TooMany      // more sources than one request may name
	Outage       // no clear answer from UAA or Cloud Controller
	Gone         // the client left before there was an answer
	reasons
)

func (r Reason) String() string {
	return [...]string{
		"undecided", "allowed", "no_token", "invalid_token", "no_scope", "invalid_id", "not_found", "too_many", "outage", "gone",
	}[r]
}

// Decision is the answer to one request. The zero value refuses.
type Decision struct {
	Reason Reason
	// Identity is set as far as UAA was asked.
	Identity Identity
	// Status, Header and Body answer a request that was refused.
	Status int
	Header http.Header
	Body   string

	claim *claim // of one that allows, for Hold
}

// Allowed tells whether the request may go on.
func (d Decision) Allowed() bool { return d.Reason == Allowed }

// Write answers a request that was refused.
func (d Decision) Write(w http.ResponseWriter) {
	status := d.Status
	if d.Allowed() || status == 0 {
		status = http.StatusInternalServerError // nothing to refuse with: a fault of the caller
	}
	maps.Copy(w.Header(), d.Header)
	w.WriteHeader(status)
	if d.Body != "" {
		_, _ = io.WriteString(w, d.Body) // the client may be gone
	}
}

// Name is who asked, as far as that is known.
func (d Decision) Name() string { return d.Identity.Name() }

func allow(id Identity) Decision { return Decision{Reason: Allowed, Identity: id} }

// refusal is what an error of a question means.
func refusal(ctx context.Context, err error) Reason {
	switch {
	case errors.Is(err, ErrInvalidToken) && !errors.Is(err, errOwnClient):
		return InvalidToken
	case ctx.Err() != nil:
		return Gone
	default:
		return Outage
	}
}

// Surface is a part of the API with its own rules and answers.
type Surface uint8

// Surfaces, in the order of Stats.
const (
	SurfaceFirehose Surface = iota
	SurfaceApp
	SurfaceRead
	SurfaceLogCache
	surfaces
)

func (s Surface) String() string {
	return [...]string{"firehose", "app", "read", "log_cache"}[s]
}
