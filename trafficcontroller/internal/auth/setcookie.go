package auth

import (
	"net/http"
	"strings"
)

// maxCookieForm is the size, in bytes, of the largest body of /set-cookie.
const maxCookieForm = 4096

// SetCookie serves /set-cookie (protocol/03 section 4): it makes a cookie for
// doppler.<systemDomain> of the form or query values CookieName and
// CookieValue, for pages of any origin. Any method will do.
func SetCookie(systemDomain string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
		h.Set("Access-Control-Allow-Credentials", "true")
		h.Set("Access-Control-Allow-Headers", "Content-Type")
		r.Body = http.MaxBytesReader(w, r.Body, maxCookieForm)
		cookie := &http.Cookie{Domain: "doppler." + systemDomain, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}
		if r.ParseForm() == nil {
			cookie.Name, cookie.Value = r.FormValue("CookieName"), cookieBytes(r.FormValue("CookieValue"))
		}
		line := cookie.String() // empty for a name that no cookie may have
		if line == "" || cookie.Value == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		h.Add("Set-Cookie", line)
	})
}

// cookieBytes leaves out what no cookie may hold, as net/http does, which would
// also write a line about it.
func cookieBytes(value string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f || strings.ContainsRune("\";\\", c) {
			return -1
		}
		return c
	}, value)
}
