package auth

import (
	"net/http"
	"strconv"
	"time"
)

// retryAfter is when to come back after an outage.
const retryAfter = 5 * time.Second

// Plain is a refusal as new requests are answered, by why: in the status, in
// headers (RFC 6750), and in words. Old requests get what they know instead.
func (d Decision) Plain() Decision {
	if d.Allowed() {
		return d
	}
	p := plain(d.Reason)
	d.Status, d.Body, d.Header = p.status, p.words+"\n", http.Header{
		"Content-Type": {"text/plain; charset=utf-8"}, "X-Content-Type-Options": {"nosniff"},
	}
	if p.challenge != "" {
		d.Header.Set("WWW-Authenticate", p.challenge)
	}
	if p.status == http.StatusServiceUnavailable {
		d.Header.Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	return d
}

// refused is how a reason is told.
type refused struct {
	status           int
	challenge, words string
}

func plain(why Reason) refused {
	switch why {
	case NoToken:
		return refused{http.StatusUnauthorized, "Bearer", "a token is needed: send it as \"Authorization: bearer TOKEN\""}
	case InvalidToken:
		return refused{http.StatusUnauthorized, `Bearer error="invalid_token"`, "the token is not valid, or not any more: get a new one"}
	case NoScope:
		return refused{
			http.StatusForbidden, `Bearer error="insufficient_scope", scope="` + scopeFirehose + `"`,
			"the token is good, but does not allow this: it takes the scope " + scopeFirehose + ", or a grant of all sources",
		}
	case InvalidID, NotFound:
		return refused{http.StatusNotFound, "", "there is no such app, or it is not for this token to read"}
	case TooMany:
		return refused{http.StatusTooManyRequests, "", "too many sources are named: the limit is " + strconv.Itoa(MaxSources)}
	}
	return refused{http.StatusServiceUnavailable, "", "it cannot be told now who may read this, for UAA or Cloud Controller gives no clear answer: come back in a while"}
}
