package edge

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Limits of a request's body: nothing that is served needs more.
const (
	maxBody     = 64 << 10 // bytes, as they are sent: nothing is ever decompressed
	bodyTimeout = 10 * time.Second
)

// Identify comes first: it says where a request comes from (From), and bounds how
// long its answer may take to be read.
func (e *Edge) Identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := connOf(r); c != nil && c.peer.IsValid() {
			r.RemoteAddr = c.peer.String()
		}
		client := e.client(r)
		a := newAnswer(w, e.cfg.AnswerTimeout)
		defer a.end()
		setHeaders(a.Header(), client.Scheme)
		next.ServeHTTP(a, r.WithContext(context.WithValue(r.Context(), clientKey{}, client)))
	})
}

// Receive refuses what can be no request of ours, and reads the body of what can.
// Until that is there the connection is pending. It comes after Identify, and after
// whatever logs and counts.
func (e *Edge) Receive(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 1 {
			e.refuse(HTTP2)
			refuseHTTP2(w)
			return
		}
		if status, fault := e.headFault(r); fault != "" {
			e.refuse(Head)
			closeAfter(w)
			http.Error(w, fault, status)
			return
		}
		if err := takeBody(w, r); err != nil {
			e.refuse(Body)
			closeAfter(w)
			answerBody(w, err)
			return
		}
		if c := connOf(r); c != nil {
			e.active(c)
		}
		next.ServeHTTP(w, r)
	})
}

// linger is how long a client that is refused may go on sending: a connection that
// is closed before is reset, which may overtake the answer.
const linger = time.Second

// closeAfter has the connection closed after the answer, though the body may never come.
func closeAfter(w http.ResponseWriter) {
	w.Header().Set("Connection", "close")
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(linger)) // in tests there may be none
}

// connOf is the connection of a request; in tests there may be none.
func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}

// setHeaders tells browsers to make nothing of an answer but what it is.
func setHeaders(h http.Header, scheme string) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if scheme == "https" {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// takeBody reads a body as a whole, within its limits of size and time.
func takeBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	if r.ContentLength > maxBody {
		return &http.MaxBytesError{Limit: maxBody}
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(bodyTimeout)) // in tests there may be none
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return fmt.Errorf("body: %w", err)
	}
	_ = control.SetReadDeadline(time.Time{})
	r.Body = io.NopCloser(bytes.NewReader(body))
	return nil
}

func answerBody(w http.ResponseWriter, err error) {
	var large *http.MaxBytesError
	var slow net.Error
	switch {
	case errors.As(err, &large):
		http.Error(w, fmt.Sprintf("the body is too large: the limit is %d bytes", maxBody), http.StatusRequestEntityTooLarge)
	case errors.As(err, &slow) && slow.Timeout():
		http.Error(w, fmt.Sprintf("the body is too slow: the limit is %v", bodyTimeout), http.StatusRequestTimeout)
	default:
		http.Error(w, "the body cannot be read", http.StatusBadRequest)
	}
}

// Check refuses requests that foreign pages send. It comes after Receive.
func (e *Edge) Check(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !e.originAllowed(r) {
			e.refuse(Origin)
			http.Error(w, fmt.Sprintf("pages of %.200q may not use this service with a cookie; its operator can allow them (--allowed-origin)",
				r.Header.Get("Origin")), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// What HTTP/2 calls its frames and errors (RFC 9113).
const (
	frameSettings    = 4
	frameGoAway      = 7
	http11Required   = 13
	http2HeaderBytes = 9
)

// refuseHTTP2 tells a client that began to speak HTTP/2, in its own words, to
// speak HTTP/1.1 instead, and closes.
func refuseHTTP2(w http.ResponseWriter) {
	nc, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, "this service speaks HTTP/1.1", http.StatusHTTPVersionNotSupported)
		return
	}
	defer nc.Close()
	const words = "this service speaks HTTP/1.1 only"
	payload := binary.BigEndian.AppendUint32(make([]byte, 4, 8+len(words)), http11Required)
	payload = append(payload, words...)
	answer := append(frame(frameSettings, 0), frame(frameGoAway, len(payload))...)
	_ = nc.SetDeadline(time.Now().Add(linger))
	if _, err := nc.Write(append(answer, payload...)); err != nil {
		return
	}
	if half, ok := nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, nc, maxBody)
	}
}

// frame is the header of a frame of stream 0.
func frame(kind byte, length int) []byte {
	head := make([]byte, http2HeaderBytes)
	head[0], head[1], head[2], head[3] = byte(length>>16), byte(length>>8), byte(length), kind
	return head
}
