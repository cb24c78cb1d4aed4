package fakecf

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Request is one that UAA or Cloud Controller got.
type Request struct {
	Server        string     `json:"server"` // uaa, cc or external
	Method        string     `json:"method"`
	Path          string     `json:"path"` // with its query, as sent
	Authorization string     `json:"authorization,omitempty"`
	ContentType   string     `json:"content_type,omitempty"`
	Body          string     `json:"body,omitempty"`
	Form          url.Values `json:"form,omitempty"`
}

// Bounds of what is noted.
const (
	maxRequests = 10_000
	maxBody     = 1 << 20
)

// Requests returns what came since the last Forget, oldest first.
func (f *Fake) Requests() []Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.requests)
}

// Forget forgets the requests so far.
func (f *Fake) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.requests = nil
}

// noted notes each request, and answers it by the State's Answers or by next.
func (f *Fake) noted(server string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
		if err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
			return
		}
		note := Request{
			Server: server, Method: r.Method, Path: r.RequestURI, Authorization: r.Header.Get("Authorization"),
			ContentType: r.Header.Get("Content-Type"), Body: string(body),
		}
		token := bare(note.Authorization)
		if strings.HasPrefix(note.ContentType, "application/x-www-form-urlencoded") {
			if note.Form, err = url.ParseQuery(note.Body); err == nil && note.Form.Has("token") {
				token = note.Form.Get("token")
			}
		}
		f.mu.Lock()
		f.requests = append(f.requests, note)
		f.requests = f.requests[max(0, len(f.requests)-maxRequests):]
		answer, instead := f.state.answer(server, r.URL.Path, token)
		f.mu.Unlock()
		if instead {
			answer.give(w, r)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	})
}

func bare(authorization string) string {
	scheme, token, ok := strings.Cut(authorization, " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(token)
	}
	return authorization
}

// blanks are what makes an answer huge: JSON takes them anywhere.
const blanks = 32 << 20

// give answers a request in its way.
func (a Answer) give(w http.ResponseWriter, r *http.Request) {
	status := a.Status
	if status == 0 {
		status = http.StatusOK
	}
	switch a.How {
	case Hang:
		<-r.Context().Done()
		hangUp(w, "") // or net/http would end the answer well
	case Drop:
		hangUp(w, "")
	case Garbage:
		hangUp(w, "\x16\x03\x01 this is no HTTP\r\n\r\n")
	case Truncate:
		w.Header().Set("Content-Length", fmt.Sprint(len(a.Body)+1))
		fallthrough
	default:
		w.WriteHeader(status)
		_, _ = io.WriteString(w, a.Body)
	}
	switch a.How {
	case Huge:
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for range blanks / len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	case Stall:
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		hangUp(w, "")
	}
}

// hangUp writes to the bare connection and closes it.
func hangUp(w http.ResponseWriter, text string) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return // HTTP/2, which these servers do not offer
	}
	_, _ = io.WriteString(conn, text)
	_ = conn.Close()
}
