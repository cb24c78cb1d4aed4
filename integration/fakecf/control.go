package fakecf

import (
	"encoding/json"
	"io"
	"net/http"
	"time"
)

// maxState bounds a body of the control endpoint.
const maxState = 64 << 20

// control serves what a test in another process needs:
//
//	GET, PUT /state         what UAA and Cloud Controller know
//	PUT      /answers       the Answers alone
//	POST     /tokens        {"user":,"kind":"jwt"|"opaque","seconds":} gives {"token":}
//	POST     /forged        {"user":,"kind": as Forgeries has it} gives {"token":}
//	POST     /keys          a new signing key
//	GET, DELETE /requests   what they were asked
func (f *Fake) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, f.State()) })
	mux.HandleFunc("PUT /state", taking(func(w http.ResponseWriter, body []byte) error {
		s, err := ParseState(body)
		if err == nil {
			f.SetState(s)
		}
		return err
	}))
	mux.HandleFunc("PUT /answers", taking(func(w http.ResponseWriter, body []byte) error {
		var s State
		err := json.Unmarshal(body, &s.Answers)
		if err == nil {
			err = s.validate()
		}
		if err == nil {
			f.Change(func(now *State) { now.Answers = s.Answers })
		}
		return err
	}))
	mux.HandleFunc("POST /tokens", taking(func(w http.ResponseWriter, body []byte) error {
		var ask struct {
			User, Kind string
			Seconds    int
		}
		err := json.Unmarshal(body, &ask)
		var token string
		if err == nil {
			token, err = f.Issue(ask.User, ask.Kind, time.Duration(ask.Seconds)*time.Second)
		}
		if err == nil {
			writeJSON(w, http.StatusOK, map[string]string{"token": token})
		}
		return err
	}))
	mux.HandleFunc("POST /forged", taking(func(w http.ResponseWriter, body []byte) error {
		var ask struct{ User, Kind string }
		err := json.Unmarshal(body, &ask)
		var token string
		if err == nil {
			token, err = f.Forge(ask.User, ask.Kind)
		}
		if err == nil {
			writeJSON(w, http.StatusOK, map[string]string{"token": token})
		}
		return err
	}))
	mux.HandleFunc("POST /keys", taking(func(http.ResponseWriter, []byte) error { return f.RotateKeys() }))
	mux.HandleFunc("GET /requests", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, append([]Request{}, f.Requests()...))
	})
	mux.HandleFunc("DELETE /requests", func(http.ResponseWriter, *http.Request) { f.Forget() })
	return mux
}

// taking answers 400 with the error of what takes the body.
func taking(take func(http.ResponseWriter, []byte) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxState))
		if err == nil {
			err = take(w, body)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	}
}
