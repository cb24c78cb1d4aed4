// Package nozzletest has a Firehose to test nozzles with: a Traffic Controller
// and its Dopplers in one, on a loopback port, that speaks the real protocol
// and does what a test tells it to: push envelopes, tell gaps, cut
// connections, restart. It shares nothing with the servers' code but the wire.
//
// It hands out what has been pushed from the first envelope on, whether a
// nozzle was connected then or not, and never forgets anything.
package nozzletest

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Server is a Firehose. All methods may be called concurrently; none blocks
// unless it says so.
type Server struct {
	http  *httptest.Server
	conns sync.WaitGroup

	// guarded by mu
	mu        sync.Mutex
	changed   chan struct{} // closed and replaced with every change
	dopplers  []*Doppler
	groups    map[string]*group
	live      map[*conn]bool
	requests  []Request
	refusals  []refusal
	batchSize int
	heartbeat time.Duration
	spread    time.Duration
	silent    bool
	closed    bool
	acked     int
	gaps      int // told gaps that were acked
}

// Request is what a nozzle asked for.
type Request struct {
	// Path is the path as it was sent, still escaped.
	Path   string
	Query  url.Values
	Header http.Header
}

type refusal struct {
	status int
	body   string
}

// NewServer starts a Firehose of one Doppler, named "doppler-0", with epoch 1.
// Like httptest.NewServer it panics when there is no loopback port to be had.
func NewServer() *Server { return start(httptest.NewServer) }

// NewTLSServer is NewServer with TLS; TLS tells how to trust it.
func NewTLSServer() *Server { return start(httptest.NewTLSServer) }

func start(listen func(http.Handler) *httptest.Server) *Server {
	s := &Server{
		changed: make(chan struct{}), groups: map[string]*group{}, live: map[*conn]bool{},
		batchSize: 256, heartbeat: 5 * time.Second,
	}
	s.Doppler("doppler-0")
	s.http = listen(http.HandlerFunc(s.serve))
	return s
}

// Addr is the address for nozzle.Config.
func (s *Server) Addr() string { return strings.Replace(s.http.URL, "http", "ws", 1) }

// TLS is a client configuration that trusts the server; nil without TLS.
func (s *Server) TLS() *tls.Config {
	if t, ok := s.http.Client().Transport.(*http.Transport); ok && s.http.TLS != nil {
		return t.TLSClientConfig.Clone()
	}
	return nil
}

// CA is the certificate that TLS trusts, in PEM; nil without TLS.
func (s *Server) CA() []byte {
	cert := s.http.Certificate()
	if cert == nil {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

// Close ends all connections and waits until nothing of the server runs.
func (s *Server) Close() {
	s.change(func() { s.closed = true })
	s.end(func(c *conn) { _ = c.Close(stream.CloseGoingAway, "the test is over") })
	s.http.Close()
	s.conns.Wait()
}

// SetBatchSize sets how many envelopes a batch holds at most: 256 unless set.
func (s *Server) SetBatchSize(n int) { s.change(func() { s.batchSize = max(n, 1) }) }

// SetHeartbeat sets the time between heartbeats for connections to come: 5 s
// unless set.
func (s *Server) SetHeartbeat(d time.Duration) { s.change(func() { s.heartbeat = d }) }

// SetSpread sets over what time clients of connections to come are to come back
// after a loss: 0, the default, is at once.
func (s *Server) SetSpread(d time.Duration) { s.change(func() { s.spread = d }) }

// SetSilent stops everything the server sends, heartbeats too, as a dead
// network path does, or lets it go on.
func (s *Server) SetSilent(silent bool) { s.change(func() { s.silent = silent }) }

// Refuse answers the next n handshakes with an HTTP status.
func (s *Server) Refuse(n, status int, body string) {
	s.change(func() {
		for range n {
			s.refusals = append(s.refusals, refusal{status, body})
		}
	})
}

// Cut breaks all connections without a word.
func (s *Server) Cut() { s.end(func(c *conn) { c.CloseNow() }) }

// Disconnect closes all connections with a code.
func (s *Server) Disconnect(code stream.CloseCode, reason string) {
	s.end(func(c *conn) { _ = c.Close(code, reason) })
}

// end ends all connections and waits until what they had leased is free. It
// blocks for as long as end does.
func (s *Server) end(how func(*conn)) {
	s.mu.Lock()
	var all []*conn
	for c := range s.live {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		how(c)
		<-c.left
	}
}

// Send sends bytes as one message over all connections, whatever they are.
func (s *Server) Send(message []byte) {
	s.change(func() {
		for c := range s.live {
			c.extra = append(c.extra, message)
		}
	})
}

// Redeliver hands everything that is leased and not acked out again, as a
// Doppler does after its ack timeout.
func (s *Server) Redeliver() {
	s.change(func() {
		for _, g := range s.groups {
			g.takeBack(func(*lease) bool { return true })
		}
	})
}

// Connections returns the number of connections now.
func (s *Server) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.live)
}

// Requests returns every handshake so far, refused ones too.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// Acked returns how many envelopes have been acked, each counted once per
// subscription, and AckedGaps the same of gaps that have offsets.
func (s *Server) Acked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// AckedGaps returns how many gaps with offsets have been acked.
func (s *Server) AckedGaps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gaps
}

// WaitAcked blocks until n envelopes have been acked or ctx ends.
func (s *Server) WaitAcked(ctx context.Context, n int) error {
	return s.wait(ctx, func() error {
		if s.acked < n {
			return fmt.Errorf("%d of %d envelopes are acked", s.acked, n)
		}
		return nil
	})
}

// WaitConnections blocks until n connections are open or ctx ends.
func (s *Server) WaitConnections(ctx context.Context, n int) error {
	return s.wait(ctx, func() error {
		if len(s.live) != n {
			return fmt.Errorf("%d of %d connections are open", len(s.live), n)
		}
		return nil
	})
}

// wait blocks until missing returns nil; it is called with mu held.
func (s *Server) wait(ctx context.Context, missing func() error) error {
	for {
		s.mu.Lock()
		err, changed := missing(), s.changed
		s.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

// change does something with mu held and wakes whoever waits.
func (s *Server) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	s.wake()
}

// wake wakes all; mu is held.
func (s *Server) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Push lets the first Doppler take in envelopes; see Doppler.Push.
func (s *Server) Push(envelopes ...*loggregatorv2.Envelope) { s.dopplers[0].Push(envelopes...) }

// Gap lets the first Doppler lose envelopes; see Doppler.Gap.
func (s *Server) Gap(count uint64, reason streampb.Gap_Reason) { s.dopplers[0].Gap(count, reason) }

// Doppler returns the Doppler of a name, which joins if there is none yet.
func (s *Server) Doppler(name string) *Doppler {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, d := range s.dopplers {
		if d.name == name {
			return d
		}
	}
	d := &Doppler{server: s, name: name, epoch: &epoch{number: 1}}
	s.dopplers = append(s.dopplers, d)
	s.wake()
	return d
}
