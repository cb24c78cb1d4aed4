package edge

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// impatient is an edge whose answers have little time.
func impatient(t *testing.T) *Edge {
	return made(t, func(c *Config) { c.AnswerTimeout = 300 * time.Millisecond })
}

// TestAnswerTimeout: a client that does not read an answer is cut, and the handler
// ends.
func TestAnswerTimeout(t *testing.T) {
	ended := make(chan error, 1)
	addr := served(t, impatient(t), func(w http.ResponseWriter, _ *http.Request) {
		_, err := w.Write(make([]byte, 4<<10))
		for range 8 {
			if err == nil {
				_, err = w.Write(make([]byte, 4<<10))
			}
		}
		if a, ok := w.(*answer); ok && err == nil {
			a.written = 0 // as if nothing more was allowed for
			_, err = a.ResponseWriter.Write(make([]byte, 64<<20))
		}
		ended <- err
	})
	_, _ = io.WriteString(dial(t, addr), get)
	if err := <-ended; err == nil {
		t.Error("a client that reads nothing got it all")
	}
}

// flood sends requests and reads nothing, and tells whether the server has closed
// the connection before its deadline.
func flood(nc net.Conn, request string) (closed bool) {
	_ = nc.(*net.TCPConn).SetReadBuffer(4 << 10)
	many := strings.Repeat(request, 1000)
	for {
		if _, err := io.WriteString(nc, many); err != nil {
			return !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

// TestPipelining: who sends requests and reads none of the answers is cut, however
// small each of them is, and whoever gives it.
func TestPipelining(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"served":         func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok")) },
		"without a body": func(http.ResponseWriter, *http.Request) {},
		"refused":        func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) },
		"redirected":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/", http.StatusMovedPermanently) },
		"deadline of its own": func(w http.ResponseWriter, _ *http.Request) {
			_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !flood(dial(t, served(t, impatient(t), serve)), get) {
				t.Error("the server waits for ever")
			}
		})
	}
}

// TestAnswerTimeoutEnds: the deadline of one answer is none of a stream's, nor of
// what comes later over the same connection.
func TestAnswerTimeoutEnds(t *testing.T) {
	const long = 500 * time.Millisecond // over the answer timeout
	addr := served(t, impatient(t), func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		switch r.URL.Path {
		case "/own":
			_ = control.Flush()
			for range 2 {
				time.Sleep(long)
				_ = control.SetWriteDeadline(time.Now().Add(time.Minute))
				_, _ = w.Write([]byte("part"))
				_ = control.Flush()
			}
		case "/slow":
			time.Sleep(long) // is asking somebody
			_, _ = w.Write([]byte("ok"))
		case "/silent":
			time.Sleep(long)
		case "/take":
			nc, _, err := control.Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			time.Sleep(long)
			_, _ = io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ntaken")
		}
	})
	nc := dial(t, addr)
	for _, c := range []struct{ path, want string }{
		{"/", ""}, {"/slow", "ok"}, {"/silent", ""}, {"/own", "partpart"}, {"/", ""}, {"/take", "taken"},
	} {
		time.Sleep(long) // idle
		if status, body := ask(t, nc, "GET "+c.path+" HTTP/1.1\r\nHost: tc\r\n\r\n"); status != http.StatusOK || body != c.want {
			t.Errorf("%s: %d %q", c.path, status, body)
		}
	}
}
