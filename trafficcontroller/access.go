package trafficcontroller

import (
	"net/http"

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

// Firehose tells whether a request may read everything.
func (a access) Firehose(w http.ResponseWriter, r *http.Request) (user string, ok bool) {
	d := a.Auth.Firehose(r.Context(), r)
	return d.Identity.Name(), decided(w, d)
}

// App tells whether a request may read an app.
func (a access) App(w http.ResponseWriter, r *http.Request, id string) (user string, ok bool) {
	d := a.Auth.App(r.Context(), r, id)
	return d.Identity.Name(), decided(w, d)
}

// Read tells whether a request may read these sources, or all if there is none.
func (a access) Read(w http.ResponseWriter, r *http.Request, sources []string) (user string, ok bool) {
	d := a.Auth.Read(r.Context(), r, sources)
	return d.Identity.Name(), decided(w, d)
}
