// Package api is what the Traffic Controller serves over HTTP: the paths, what
// they take, and every answer but the streams themselves.
package api

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync/atomic"

	"github.com/a1ea6966/loggregator/api/stream"
)

// Config is what New needs. Every field has to be set.
type Config struct {
	Name           string
	Version        string
	MaxConnections int
	MaxRecent      int // largest recent=
	SocketBuffer   int
	// Ready returns nil when streams can be served, else why not.
	Ready func() error
	// Firehose and Tail take over an accepted connection and return at once;
	// done has to be called when it is gone.
	Firehose func(conn *stream.Conn, q FirehoseQuery, done func()) error
	Tail     func(conn *stream.Conn, q TailQuery, done func()) error
	// From says where a request comes from.
	From func(*http.Request) Origin
	// Take counts a new stream of a user until release is called, or says which
	// limit keeps it out.
	Take func(r *http.Request, user string) (release func(), why string)
	// Access decides who may read what.
	Access Access
	// SetCookie makes a browser's cookie of a token.
	SetCookie http.Handler
	// Endpoint is where the world reaches this node, host or host:port; empty
	// for what the client says.
	Endpoint string
	// Subscriptions and Sources are views.
	Subscriptions, Sources http.HandlerFunc
	// Read is the stream of Server-Sent Events; RecentLogs and ContainerMetrics
	// are plain reads, of the app in the path value id.
	Read                         http.Handler
	RecentLogs, ContainerMetrics http.HandlerFunc
	// LogCache is all below /api/v1/.
	LogCache http.Handler
}

// Access tells whether a request may go on, and with whose leave. If not, it has
// answered.
type Access interface {
	Firehose(w http.ResponseWriter, r *http.Request) (leave Leave, ok bool)
	App(w http.ResponseWriter, r *http.Request, id string) (leave Leave, ok bool)
}

// Leave is what allows a stream.
type Leave interface {
	// Name is who asks; empty if that is not known.
	Name() string
}

// API answers requests. It is an http.Handler.
type API struct {
	cfg      Config
	log      *slog.Logger
	mux      *http.ServeMux
	open     atomic.Int64
	draining atomic.Bool
}

// New returns an API.
func New(cfg Config, log *slog.Logger) *API {
	a := &API{cfg: cfg, log: log, mux: http.NewServeMux()}
	// Clients of the old framing were never asked for their method.
	a.mux.HandleFunc("/firehose/{subscription}", a.firehose)
	a.mux.HandleFunc("/apps/{id}/stream", a.tail)
	a.mux.HandleFunc("GET /health", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	a.mux.HandleFunc("GET /ready", a.ready)
	a.mux.HandleFunc("/set-cookie", cfg.SetCookie.ServeHTTP)
	a.mux.HandleFunc("GET /v2/subscriptions", a.forAdmins(cfg.Subscriptions))
	a.mux.HandleFunc("GET /v2/sources", a.forAdmins(cfg.Sources))
	a.mux.HandleFunc("/apps/{id}/recentlogs", withID(cfg.RecentLogs))
	a.mux.HandleFunc("/apps/{id}/containermetrics", withID(cfg.ContainerMetrics))
	a.mux.Handle("/v2/read", cfg.Read)
	a.mux.Handle("/api/v1/", cfg.LogCache)
	a.mux.HandleFunc("GET /{$}", a.discover)
	a.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, fmt.Sprintf("there is nothing at %.200q; GET / lists what there is", r.URL.Path), http.StatusNotFound)
	})
	return a
}

// ServeHTTP answers a request.
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fault := queryFault(r); fault != "" {
		http.Error(w, fault, http.StatusBadRequest)
		return
	}
	if clean := cleanPath(r.URL.Path); clean != r.URL.Path && r.URL.RawPath == "" {
		u := url.URL{Path: clean, RawQuery: r.URL.RawQuery}
		w.Header().Set("Location", u.String())
		w.WriteHeader(http.StatusMovedPermanently) // as ever (protocol/03); net/http has come to say 307
		return
	}
	a.mux.ServeHTTP(w, r)
}

// maxParameters is how many a query may have: more are not parsed by net/url.
const maxParameters = 10_000

// queryFault refuses what is too long to be looked at.
func queryFault(r *http.Request) (fault string) {
	n := strings.Count(r.URL.RawQuery, "&") + 1
	if n > maxParameters && r.URL.Path != "/v2/read" { // which says so in its own form
		return fmt.Sprintf("the query has %d parameters, the limit is %d", n, maxParameters)
	}
	return ""
}

// cleanPath is a path without what net/http would redirect for.
func cleanPath(p string) string {
	if p == "" || p[0] != '/' {
		return p // "*", which is no path
	}
	clean := path.Clean(p)
	if strings.HasSuffix(p, "/") && clean != "/" {
		clean += "/"
	}
	return clean
}

// forAdmins serves only who may read everything.
func (a *API) forAdmins(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if _, ok := a.cfg.Access.Firehose(w, r); ok {
			next(w, r)
		}
	}
}

// Drain makes new streams be refused from now on.
func (a *API) Drain() { a.draining.Store(true) }

// Open is the number of open streams.
func (a *API) Open() int { return int(a.open.Load()) }

// notReady says why no stream can be served now.
func (a *API) notReady() error {
	if a.draining.Load() {
		return fmt.Errorf("this Traffic Controller is stopping")
	}
	return a.cfg.Ready()
}

func (a *API) ready(w http.ResponseWriter, _ *http.Request) {
	if err := a.notReady(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ready\n"))
}

// Why there is no room for one more stream.
var (
	ErrTooMany   = errors.New("too many connections")
	ErrOverLimit = errors.New("over a limit") // of the user, or the address
)

// Admit counts a new stream of a user until dismiss is called, or says why it
// cannot be served now.
func (a *API) Admit(r *http.Request, user string) (dismiss func(), err error) {
	if err := a.notReady(); err != nil {
		return nil, err
	}
	if n := a.open.Add(1); n > int64(a.cfg.MaxConnections) {
		a.open.Add(-1)
		return nil, fmt.Errorf("%w: the limit is %d", ErrTooMany, a.cfg.MaxConnections)
	}
	release, why := a.cfg.Take(r, user)
	if why != "" {
		a.open.Add(-1)
		return nil, fmt.Errorf("%w: %s", ErrOverLimit, why)
	}
	return func() {
		release()
		a.open.Add(-1)
	}, nil
}

// admit is Admit; it answers if there is no room.
func (a *API) admit(w http.ResponseWriter, r *http.Request, user string) (dismiss func(), ok bool) {
	dismiss, err := a.Admit(r, user)
	if err == nil {
		return dismiss, true
	}
	after, status := "1", http.StatusServiceUnavailable
	switch {
	case errors.Is(err, ErrTooMany):
		after = "5"
	case errors.Is(err, ErrOverLimit):
		after, status = "5", http.StatusTooManyRequests
	}
	w.Header().Set("Retry-After", after)
	http.Error(w, err.Error(), status)
	return nil, false
}

// IsOld tells one envelope per message from batches: the subprotocol decides
// the framing.
func IsOld(r *http.Request) bool {
	return !hasToken(r.Header, "Sec-WebSocket-Protocol", stream.Subprotocol)
}

// upgrade answers the handshake. An old client that sends none, or a bad one,
// gets the status and header it knows (protocol/03).
func (a *API) upgrade(w http.ResponseWriter, r *http.Request) (*stream.Conn, bool) {
	if fault := handshakeFault(r); IsOld(r) && fault != "" {
		w.Header().Set("Sec-Websocket-Version", "13")
		http.Error(w, "Bad Request: "+fault, http.StatusBadRequest)
		return nil, false
	}
	conn, err := stream.Accept(w, r, stream.AcceptOptions{
		Subprotocols: []string{stream.Subprotocol}, SocketBuffer: a.cfg.SocketBuffer,
	})
	if err != nil {
		a.log.Debug("handshake", "remote", r.RemoteAddr, "error", err)
		return nil, false
	}
	return conn, true
}

// handshakeFault says what a request lacks to become a WebSocket (RFC 6455,
// section 4.2.1).
func handshakeFault(r *http.Request) string {
	key, err := base64.StdEncoding.DecodeString(r.Header.Get("Sec-WebSocket-Key"))
	switch {
	case r.Method != http.MethodGet, !hasToken(r.Header, "Upgrade", "websocket"), !hasToken(r.Header, "Connection", "Upgrade"):
		return "this path is a WebSocket; connect with a WebSocket client (or, behind a proxy, pass the Upgrade and Connection headers on)"
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "the Sec-WebSocket-Version header has to be 13"
	case err != nil || len(key) != 16:
		return "the Sec-WebSocket-Key header has to be 16 bytes in base64"
	}
	return ""
}

// hasToken tells whether a comma-separated header has a token.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// noSuchPath answers an old client whose id has a slash in it: it never meant
// anything (protocol/03).
func noSuchPath(w http.ResponseWriter, r *http.Request, id string) bool {
	if !IsOld(r) || !strings.Contains(r.PathValue(id), "/") {
		return false
	}
	http.NotFound(w, r)
	return true
}

// withID serves a path that knows old clients only, but for such an id.
func withID(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if !noSuchPath(w, r, "id") {
			next(w, r)
		}
	}
}

func (a *API) firehose(w http.ResponseWriter, r *http.Request) {
	if noSuchPath(w, r, "subscription") {
		return
	}
	leave, ok := a.cfg.Access.Firehose(w, r)
	if !ok {
		return
	}
	parse := parseFirehose
	if IsOld(r) {
		parse = parseOldFirehose
	}
	q, err := parse(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q.Client = a.ClientOf(r)
	q.User, q.Leave = leave.Name(), leave
	dismiss, ok := a.admit(w, r, q.User)
	if !ok {
		return
	}
	conn, ok := a.upgrade(w, r)
	if !ok {
		dismiss()
		return
	}
	if err := a.cfg.Firehose(conn, q, dismiss); err != nil {
		dismiss()
		_ = conn.Close(stream.CloseGoingAway, err.Error())
	}
}

func (a *API) tail(w http.ResponseWriter, r *http.Request) {
	if noSuchPath(w, r, "id") {
		return
	}
	leave, ok := a.cfg.Access.App(w, r, r.PathValue("id"))
	if !ok {
		return
	}
	parse := a.parseTail
	if IsOld(r) {
		parse = parseOldTail
	}
	q, err := parse(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	q.Client = a.ClientOf(r)
	q.User, q.Leave = leave.Name(), leave
	dismiss, ok := a.admit(w, r, q.User)
	if !ok {
		return
	}
	conn, ok := a.upgrade(w, r)
	if !ok {
		dismiss()
		return
	}
	if err := a.cfg.Tail(conn, q, dismiss); err != nil {
		dismiss()
		_ = conn.Close(stream.CloseGoingAway, err.Error())
	}
}

// discover tells a client what is where.
func (a *API) discover(w http.ResponseWriter, r *http.Request) {
	scheme, ws := "http", "ws"
	if a.cfg.From(r).Scheme == "https" {
		scheme, ws = "https", "wss"
	}
	host := r.Host
	if a.cfg.Endpoint != "" {
		// A load balancer in front of it speaks TLS.
		scheme, ws, host = "https", "wss", a.cfg.Endpoint
	}
	link := func(scheme, path string) map[string]string {
		return map[string]string{"href": scheme + "://" + host + path}
	}
	w.Header().Set("Content-Type", "application/json")
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	_ = enc.Encode(map[string]any{
		"name": a.cfg.Name, "version": a.cfg.Version, "subprotocols": []string{stream.Subprotocol},
		"links": map[string]any{
			"self": link(scheme, "/"), "logging": link(ws, ""), "log_stream": link(scheme, ""), "log_cache": link(scheme, ""),
			"firehose": link(ws, "/firehose/{subscription}"), "stream": link(ws, "/apps/{source_id}/stream"),
			"recentlogs": link(scheme, "/apps/{source_id}/recentlogs"), "containermetrics": link(scheme, "/apps/{source_id}/containermetrics"),
			"read": link(scheme, "/v2/read"), "subscriptions": link(scheme, "/v2/subscriptions"), "sources": link(scheme, "/v2/sources"),
			"health": link(scheme, "/health"), "ready": link(scheme, "/ready"),
		},
	})
}
