// Package accesslog writes the security log that operators of the Traffic
// Controller know: one line of CEF for every request, before anything is
// decided about it (protocol/03).
package accesslog

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Log appends to one file. Its methods may be called from any number of
// goroutines.
type Log struct {
	// Escape is HTML, and From what the first header of X-Forwarded-For says, else
	// the peer, unless they are changed before the first request. From says where a
	// request came from; it is called concurrently.
	Escape Escape
	From   func(r *http.Request) (host, port string)

	path, host, port string
	log              *slog.Logger
	now              func() time.Time

	mu   sync.Mutex
	file appender // nil after Close
	torn bool     // the last line was written in part
	stats
}

// appender is an open log file.
type appender interface {
	Write([]byte) (int, error)
	Close() error
}

type stats struct {
	written, failed uint64
	told            time.Time // when a failure was last logged
}

// mode lets the operator's group read along: log shippers do.
const mode = 0o640

// Open opens path for appending, and makes it if need be. host and port are
// the address of this Traffic Controller that every line names. Failures to
// write are told to log.
func Open(path, host, port string, log *slog.Logger) (*Log, error) {
	file, err := open(path)
	if err != nil {
		return nil, err
	}
	return &Log{Escape: HTML, From: source, path: path, host: host, port: port, log: log, now: time.Now, file: file}, nil
}

func open(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, mode)
	if err != nil {
		return nil, fmt.Errorf("open access log: %w", err)
	}
	return file, nil
}

// Wrap returns a handler that writes a line and then calls next, with the
// ResponseWriter it got: what next can do with that, it still can.
func (l *Log) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		l.write(l.line(r))
		next.ServeHTTP(w, r)
	})
}

// Reopen opens the file anew, for whoever moved the old one away. On an error
// the old one stays.
func (l *Log) Reopen() error {
	file, err := open(l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		_ = file.Close()
		return fmt.Errorf("reopen access log: %w", os.ErrClosed)
	}
	old := l.file
	l.file, l.torn = file, false
	if err := old.Close(); err != nil {
		return fmt.Errorf("close the old access log: %w", err)
	}
	return nil
}

// Close closes the file. Lines of later requests count as failed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	file := l.file
	l.file = nil
	if err := file.Close(); err != nil {
		return fmt.Errorf("close access log: %w", err)
	}
	return nil
}

// Stats returns how many lines were written, and how many could not be.
func (l *Log) Stats() (written, failed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written, l.failed
}

// write appends a line in one call. A failure is counted and told, no more: a
// full disk must not stop the logs of others.
func (l *Log) write(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.torn {
		text = "\n" + text
	}
	if l.file == nil {
		l.fail(os.ErrClosed)
		return
	}
	n, err := l.file.Write([]byte(text + "\n"))
	if err != nil {
		l.torn = l.torn && n == 0 || n > 1
		l.fail(err)
		return
	}
	l.torn = false
	l.written++
}

// quietFor is how long one failure speaks for those that follow.
const quietFor = time.Minute

func (l *Log) fail(err error) {
	l.failed++
	if now := l.now(); now.Sub(l.told) >= quietFor {
		l.told = now
		l.log.Error("access log cannot be written", "path", l.path, "error", err, "lines_failed", l.failed)
	}
}

// line is the line of one request, without the end of line.
func (l *Log) line(r *http.Request) string {
	path, query := pathWithoutSecrets(r.URL.Path), WithoutSecrets(r.URL.RawQuery)
	if path == "/set-cookie" && query != "" {
		query = hidden
	}
	if query != "" {
		path += "?" + query
	}
	from, fromPort := l.From(r)
	e := l.Escape
	name := e.header(r.Method) + " " + e.header(path)
	var b strings.Builder
	fmt.Fprintf(&b, "CEF:0|cloud_foundry|loggregator_trafficcontroller|1.0|%s|%s|0|", name, name)
	fmt.Fprintf(&b, "rt=%s cs1Label=userAuthenticationMechanism cs1=oauth-access-token", strconv.FormatInt(l.now().UnixMilli(), 10))
	fmt.Fprintf(&b, " cs2Label=vcapRequestId cs2=%s", e.value(r.Header.Get("X-Vcap-Request-Id")))
	fmt.Fprintf(&b, " request=%s requestMethod=%s src=%s spt=%s", e.value(path), e.value(r.Method), e.value(from), e.value(fromPort))
	fmt.Fprintf(&b, " dst=%s dpt=%s", e.value(l.host), e.value(l.port))
	return b.String()
}

// source is where a request came from: the first hop that proxies name, else
// the peer. What cannot be taken apart is empty.
func source(r *http.Request) (host, port string) {
	addr := r.RemoteAddr
	if forwarded := r.Header.Get("X-Forwarded-For"); forwarded != "" {
		addr, _, _ = strings.Cut(forwarded, ",")
		addr = strings.TrimSpace(addr)
		if !strings.Contains(addr, ":") {
			return addr, ""
		}
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", ""
	}
	return host, port
}
