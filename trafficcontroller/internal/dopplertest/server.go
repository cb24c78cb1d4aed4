package dopplertest

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// Server serves a Doppler on loopback. Its methods may be called concurrently.
type Server struct {
	listener net.Listener
	http     *http.Server
	wg       sync.WaitGroup

	// guarded by mu
	mu      sync.Mutex
	doppler *Doppler
	groups  map[string]*Group
	conns   map[*stream.Conn]chan struct{} // wakes whoever writes
	dials   []string                       // raw queries of Firehose members
	stopped bool
}

// Serve serves d at addr; ":0" chooses a port. Stop has to follow.
func Serve(d *Doppler, addr string) (*Server, error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve a Doppler: %w", err)
	}
	s := &Server{listener: l, doppler: d, groups: map[string]*Group{}, conns: map[*stream.Conn]chan struct{}{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+stream.PathTails, s.tails)
	mux.HandleFunc("GET "+stream.PathFirehose, s.firehose)
	mux.HandleFunc("GET "+stream.PathHistory+"{source...}", s.history)
	mux.HandleFunc("GET "+strings.TrimSuffix(stream.PathHistory, "/"), s.held)
	mux.HandleFunc("GET "+stream.PathSources, s.sources)
	mux.HandleFunc("GET "+stream.PathSubscriptions, s.subscriptions)
	s.http = &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	s.wg.Go(func() { _ = s.http.Serve(l) })
	return s, nil
}

// Addr is where it listens.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Emit appends envelopes to a source: n log lines with ids prefix0, prefix1...
func (s *Server) Emit(source, prefix string, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range n {
		s.doppler.Append(source, "", fmt.Sprint(prefix, i), time.Now().UnixNano())
	}
	s.wake()
}

// With lets f look at the Doppler and change it.
func (s *Server) With(f func(*Doppler)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.doppler)
	s.wake()
}

// Dials are the queries that members have come with.
func (s *Server) Dials() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.dials...)
}

// Unacked is the number of envelopes of a shard that are handed out and not
// acked.
func (s *Server) Unacked(shard string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.groups[shard]; g != nil {
		return g.Open()
	}
	return 0
}

func (s *Server) wake() {
	for _, w := range s.conns {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

// Break cuts every connection.
func (s *Server) Break() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.CloseNow()
	}
}

// Stop ends the server and waits. With fin it says so on the tail links first.
func (s *Server) Stop(fin bool) {
	s.mu.Lock()
	s.stopped = true
	if fin {
		msg, err := s.doppler.FinMessage()
		for c := range s.conns {
			if err == nil {
				_ = c.Send(context.Background(), msg)
			}
		}
	}
	for c := range s.conns {
		s.wg.Go(func() { _ = c.Close(stream.CloseGoingAway, "this Doppler is stopping") })
	}
	s.mu.Unlock()
	_ = s.http.Close()
	s.wg.Wait()
}

// speaker is one end of a connection, called with mu held.
type speaker interface {
	next() ([]byte, error)
	take(*streampb.Control)
	leave()
}

// serve runs a connection until it ends.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, begin func() (speaker, []byte, error)) {
	c, err := stream.Accept(w, r, stream.AcceptOptions{})
	if err != nil {
		return
	}
	wake := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	who, hello, err := begin()
	if err != nil || s.stopped {
		c.CloseNow()
		return
	}
	s.conns[c] = wake
	s.wg.Go(func() { s.read(c, who) })
	s.wg.Go(func() { s.write(c, who, wake, hello) })
}

func (s *Server) read(c *stream.Conn, who speaker) {
	defer c.CloseNow()
	defer func() {
		s.mu.Lock()
		delete(s.conns, c)
		who.leave()
		s.wake()
		s.mu.Unlock()
	}()
	for {
		b, err := c.Read(context.Background())
		if err != nil {
			return
		}
		msg, err := stream.DecodeControl(b.Bytes())
		b.Release()
		if err != nil {
			return
		}
		s.mu.Lock()
		who.take(msg)
		s.wake()
		s.mu.Unlock()
	}
}

func (s *Server) write(c *stream.Conn, who speaker, wake <-chan struct{}, msg []byte) {
	for {
		for msg != nil {
			if err := c.Send(context.Background(), msg); err != nil {
				return
			}
			s.mu.Lock()
			msg, _ = who.next()
			s.mu.Unlock()
		}
		select {
		case <-wake:
		case <-c.Done():
			return
		}
		s.mu.Lock()
		msg, _ = who.next()
		s.mu.Unlock()
	}
}

type linkSpeaker struct{ *Link }

func (l linkSpeaker) next() ([]byte, error)    { return l.Next(100) }
func (l linkSpeaker) take(c *streampb.Control) { l.Watch(c.GetWatch()) }
func (l linkSpeaker) leave()                   {}

func (s *Server) tails(w http.ResponseWriter, r *http.Request) {
	s.serve(w, r, func() (speaker, []byte, error) {
		hello, err := stream.AppendBatchMeta(nil, &streampb.Batch{Hello: s.doppler.Hello()})
		return linkSpeaker{s.doppler.NewLink()}, hello, err
	})
}

type memberSpeaker struct{ *Member }

func (m memberSpeaker) next() ([]byte, error)    { return m.Next(100) }
func (m memberSpeaker) take(c *streampb.Control) { m.Take(c) }
func (m memberSpeaker) leave()                   { m.Leave() }

func (s *Server) firehose(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	wanted, err := selectorsOf(q)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.serve(w, r, func() (speaker, []byte, error) {
		s.dials = append(s.dials, r.URL.RawQuery)
		shard := q.Get("shard_id")
		g := s.groups[shard]
		if g == nil {
			g = s.doppler.NewGroup(wanted, s.start(q.Get("cursor"), q.Get("start")))
			s.groups[shard] = g
		}
		m := g.Join(q.Get("ack") == "client")
		hello, err := m.Hello()
		return memberSpeaker{m}, hello, err
	})
}

// start finds where a new group begins.
func (s *Server) start(cursor, start string) uint64 {
	c, err := stream.DecodeCursor(cursor)
	for _, e := range c.GetEntries() {
		if e.GetDoppler() == s.doppler.Name && e.GetEpoch() == s.doppler.Epoch {
			return e.GetOffset()
		}
	}
	if start == "origin" || err == nil && len(c.GetEntries()) > 0 {
		return 0
	}
	return s.doppler.Head()
}

func (s *Server) history(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	body, err := s.doppler.History(r.PathValue("source"), r.URL.Query())
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, _ = w.Write(body)
}

func (s *Server) held(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	body, err := s.doppler.Held()
	s.mu.Unlock()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = w.Write(body)
}

// subscriptions answers in the shape of the view, with one row that everybody
// has: a group without members.
func (s *Server) subscriptions(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprint(w, `{"subscriptions":[{"kind":"link","lag":99}`)
	for shard, g := range s.groups {
		fmt.Fprintf(w, `,{"kind":"firehose","shard_id":%q,"filter":"all","lag":1,"accepted":%d,"in_flight":%d,"state":"lingers"}`,
			shard, s.doppler.Head(), g.Open())
	}
	fmt.Fprint(w, "]}")
}

// sources answers in the shape of the view, with what the log holds.
func (s *Server) sources(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := map[string]int{}
	for _, e := range s.doppler.Log {
		counts[e.Source]++
	}
	fmt.Fprintf(w, `{"doppler":%q,"epoch":%d,"head":%d,"sources":[`, s.doppler.Name, s.doppler.Epoch, s.doppler.Head())
	comma := ""
	for source, n := range counts {
		fmt.Fprintf(w, `%s{"source_id":%q,"envelopes":%d,"rate":%d}`, comma, source, n, n)
		comma = ","
	}
	fmt.Fprint(w, "]}")
}
