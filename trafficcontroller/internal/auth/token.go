package auth

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Token is the token of a request on the old paths, with its scheme word if it
// has one: the Authorization header, else the cookie "authorization",
// query-unescaped. "" if there is none, or the cookie cannot be read or has
// control characters.
func Token(r *http.Request) string {
	if token := r.Header.Get("Authorization"); token != "" {
		return token
	}
	cookie, err := r.Cookie("authorization")
	if err != nil {
		return ""
	}
	token, err := url.QueryUnescape(cookie.Value)
	if err != nil || !sendable(token) {
		return ""
	}
	return token
}

// bare is a token without its scheme word in any case, as Log Cache reads it.
func bare(token string) string {
	token = strings.TrimSpace(token)
	if len(token) >= len("bearer") && strings.EqualFold(token[:len("bearer")], "bearer") {
		token = strings.TrimSpace(token[len("bearer"):])
	}
	return token
}

// InAnyCase is a request whose scheme word may be written in any case, as RFC 9110
// (11.1) has it: the old Firehose takes "bearer " only.
func InAnyCase(r *http.Request) *http.Request {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || scheme == "bearer" || !strings.EqualFold(scheme, "bearer") {
		return r
	}
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "bearer "+token)
	return r
}

// sendable tells whether a token can be passed on as a header: one from a
// cookie may hold anything.
func sendable(token string) bool {
	return !strings.ContainsFunc(token, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

var guid = regexp.MustCompile(`^[[:xdigit:]]{8}(-[[:xdigit:]]{4}){3}-[[:xdigit:]]{12}$`)

// isGUID tells whether id has the shape of an app's id, in any case.
func isGUID(id string) bool { return len(id) == 36 && guid.MatchString(id) }

// maxIDBytes bounds an id that Cloud Controller is asked about.
const maxIDBytes = 256

// askable tells whether an id can be part of a path to ask for, and mean
// nothing but itself there.
func askable(id string) bool {
	return id != "" && id != "." && id != ".." && len(id) <= maxIDBytes
}

// claims reads the payload of a token that looks like a JWT. Nothing is
// verified.
func claims(token string, into any) bool {
	_, rest, _ := strings.Cut(token, ".")
	payload, _, ok := strings.Cut(rest, ".")
	if !ok {
		return false
	}
	data, err := base64.RawURLEncoding.DecodeString(payload)
	return err == nil && json.Unmarshal(data, into) == nil
}

// claimedExpiry is the exp of a token: it can only make a yes be believed for
// less long.
func claimedExpiry(token string) (time.Time, bool) {
	var c struct {
		Exp *float64 `json:"exp"`
	}
	if !claims(token, &c) || c.Exp == nil || *c.Exp > 1e12 || *c.Exp < 0 {
		return time.Time{}, false
	}
	return time.Unix(int64(*c.Exp), 0), true
}

// claimedIdentity is who a token says it speaks for, as far as it can be read. It
// is for views, and for tokens that somebody has verified.
func claimedIdentity(token string) Identity {
	var c struct {
		UserID   string `json:"user_id"`
		ClientID string `json:"client_id"`
	}
	if !claims(token, &c) {
		return Identity{}
	}
	return Identity{UserID: c.UserID, ClientID: c.ClientID}
}
