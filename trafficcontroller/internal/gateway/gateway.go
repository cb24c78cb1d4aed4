// Package gateway serves streams as the RLP gateway does: /v2/read, envelopes
// as JSON in Server-Sent Events (protocol/04, section 6).
package gateway

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
)

// Config is what a Gateway needs. Every field has to be set.
type Config struct {
	// Allow tells whether the request may read these sources, all of them if
	// there is none, and with whose leave; if not, it has answered.
	Allow func(w http.ResponseWriter, r *http.Request, sources []string) (leave any, ok bool)
	// Admit counts a new stream of who has leave until dismiss is called, or says
	// why none can be served now; ErrOverLimit is told as such.
	Admit func(r *http.Request, leave any) (dismiss func(), err error)
	// Open has conn written to until it is closed; closed is called then.
	Open func(conn *Conn, q Query, closed func()) error

	Heartbeat     time.Duration // longest silence
	StreamTimeout time.Duration // after which a client has to come back
}

// What old gateways did (protocol/04).
const (
	DefaultHeartbeat     = 15 * time.Second
	DefaultStreamTimeout = 14 * time.Minute
)

// ErrOverLimit says that a user or an address has as many streams as it may.
var ErrOverLimit = errors.New("over a limit")

// Gateway answers requests. It is an http.Handler.
type Gateway struct{ cfg Config }

// New returns a Gateway.
func New(cfg Config) *Gateway { return &Gateway{cfg: cfg} }

// refusal is an answer that is no stream. Its body ends in two line feeds.
type refusal struct {
	status int
	body   string
}

// The refusals of protocol/04.
var (
	notAllowed     = refusal{http.StatusMethodNotAllowed, `{"message":"method not allowed","error":"method_not_allowed"}`}
	emptyQuery     = refusal{http.StatusBadRequest, `{"message":"query cannot be empty","error":"empty_query"}`}
	missingType    = refusal{http.StatusBadRequest, `{"message":"query must provide at least one envelope type","error":"missing_envelope_type"}`}
	unavailable    = refusal{http.StatusServiceUnavailable, `{"message":"streaming is temporarily unavailable","error":"streaming_unavailable"}`}
	tooManyStreams = refusal{http.StatusTooManyRequests, `{"message":"this user or address has as many streams as it may","error":"too_many_streams"}`}
	unsupported    = refusal{http.StatusInternalServerError, `{"message":"request does not support streaming","error":"streaming_unsupported"}`}
	tooManyParts   = refusal{http.StatusBadRequest, `{"message":"query selects in more than 10000 ways","error":"too_many_selectors"}`}
	tooLongValues  = refusal{http.StatusBadRequest, `{"message":"a value of the query has more than 1024 bytes","error":"value_too_long"}`}
)

func (f refusal) answer(w http.ResponseWriter) { http.Error(w, f.body+"\n", f.status) }

// ServeHTTP streams until the client leaves or has to come back.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	leave, ok := g.cfg.Allow(w, r, v["source_id"])
	if !ok {
		return
	}
	q, bad := parse(r, v)
	q.Leave = leave
	if bad != nil {
		bad.answer(w)
		return
	}
	dismiss, err := g.cfg.Admit(r, leave)
	if err != nil {
		w.Header().Set("Retry-After", "5")
		if errors.Is(err, ErrOverLimit) {
			tooManyStreams.answer(w)
		} else {
			unavailable.answer(w)
		}
		return
	}
	defer dismiss()
	c := newConn(w)
	if err := c.begin(); err != nil {
		unsupported.answer(w)
		return
	}
	closed := make(chan struct{})
	if err := g.cfg.Open(c, q, func() { close(closed) }); err != nil {
		c.CloseNow()
		return
	}
	g.watch(r.Context(), c)
	<-closed
	c.settle()
}

// watch gives signs of life, until the stream is over, or has to be.
func (g *Gateway) watch(ctx context.Context, c *Conn) {
	timeout := time.NewTimer(g.cfg.StreamTimeout)
	defer timeout.Stop()
	beat := time.NewTimer(g.cfg.Heartbeat)
	defer beat.Stop()
	for {
		select {
		case now := <-beat.C:
			beat.Reset(max(g.cfg.Heartbeat-c.beat(now, g.cfg.Heartbeat), time.Millisecond))
		case <-timeout.C:
			c.say("event: closing\ndata: closing due to stream timeout\n\n")
			_ = c.Close(stream.CloseNormal, "stream timeout")
		case <-ctx.Done():
			c.left()
			<-c.done
			return
		case <-c.done:
			return
		}
	}
}
