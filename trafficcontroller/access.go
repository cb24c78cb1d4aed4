package trafficcontroller

import (
	"net/http"
	"strings"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth"
)

// access answers what auth refuses.
type access struct{ *auth.Auth }

func decided(w http.ResponseWriter, d auth.Decision) bool {
	if !d.Allowed() {
		d.Write(w)
	}
	return d.Allowed()
}

// isNew tells whether the old system did not know a request: batches, and the views.
func isNew(r *http.Request) bool { return !api.IsOld(r) || strings.HasPrefix(r.URL.Path, "/v2/") }

// told is a decision as the request's client understands it.
func told(r *http.Request, d auth.Decision) auth.Decision {
	if isNew(r) {
		return d.Plain()
	}
	return d
}

// Firehose tells whether a request may read everything.
func (a access) Firehose(w http.ResponseWriter, r *http.Request) (leave api.Leave, ok bool) {
	asked := r
	if isNew(r) {
		asked = auth.InAnyCase(r)
	}
	d := a.Auth.Firehose(r.Context(), asked)
	return d, decided(w, told(r, d))
}

// App tells whether a request may read an app.
func (a access) App(w http.ResponseWriter, r *http.Request, id string) (leave api.Leave, ok bool) {
	d := a.Auth.App(r.Context(), r, id)
	return d, decided(w, told(r, d))
}

// Recent is App for an answer that is no stream.
func (a access) Recent(w http.ResponseWriter, r *http.Request, id string) bool {
	return decided(w, a.Auth.App(r.Context(), r, id))
}

// Read tells whether a request may read these sources, or all if there is none.
func (a access) Read(w http.ResponseWriter, r *http.Request, sources []string) (leave any, ok bool) {
	d := a.Auth.Read(r.Context(), r, sources)
	return d, decided(w, d)
}

// closer is a connection that can be closed with a reason.
type closer interface {
	Close(code stream.CloseCode, reason string) error
}

// hold keeps the leave that a stream was allowed with, and closes the stream when
// it ends.
func (a access) hold(leave any, conn closer) *auth.Hold {
	d, _ := leave.(auth.Decision)
	return a.Hold(d, func(why auth.Lost) {
		said := leaveEnded(why)
		_ = conn.Close(said.Code, said.Reason) // the client may be gone
	})
}

// leaveEnded is what a client is told.
func leaveEnded(why auth.Lost) stream.CloseError {
	switch why {
	case auth.Expired:
		return stream.CloseError{Code: stream.CloseToken, Reason: "it has expired"}
	case auth.Revoked:
		return stream.CloseError{Code: stream.CloseToken, Reason: "it was revoked"}
	}
	return stream.CloseError{Code: stream.CloseWithdrawn, Reason: "you may not read this any more"}
}

// firstAccess is what a client is told after hello; nil if its token does not end.
func firstAccess(h *auth.Hold) *streampb.Access {
	if left, ok := h.Left(); ok && left > 0 {
		return &streampb.Access{ExpiresInMillis: left.Milliseconds()}
	}
	return nil
}

// renew checks a token that a client has sent, and tells it how that went.
func renew(h *auth.Hold, token string, tell func(*streampb.Access)) {
	h.Renew(token, func(err error) {
		left, _ := h.Left()
		a := &streampb.Access{ExpiresInMillis: left.Milliseconds()}
		if err != nil {
			a.Error = err.Error()
		}
		tell(a)
	})
}
