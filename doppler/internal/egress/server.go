// Package egress serves a Doppler's readers: members of subscription groups
// over WebSocket and gRPC, tail links over WebSocket, bounded reads of history
// over plain HTTP.
//
// The cursors themselves are the state machines of package reader; this
// package gives them connections, time and goroutines. A session has two: one
// reads what the client says, or waits for its end, one writes batches. One waker per server tells
// idle sessions that the ring has grown for them.
package egress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// Config is what New needs. Every field has to be set.
type Config struct {
	Doppler          string // name, unique among the Dopplers of a platform
	Epoch            uint64
	Linger           time.Duration // how long a group without members keeps its mark
	WindowBytes      int           // per member, granted and not in its client's socket
	AckTimeout       time.Duration
	StuckTimeout     time.Duration // a socket that takes nothing for so long is closed
	SlowCall         slow.Policy   // of calls over gRPC
	Heartbeat        time.Duration
	MaxWatches       int // per tail link
	MaxSubscriptions int // connections of members and links
	SocketBuffer     int // bytes, per direction
	// RecentAge hides what has an older timestamp from reads of the past, but
	// not from readers that come back; 0 for nothing.
	RecentAge time.Duration
	// RecentLogs and HeldBytes are told as what may be held.
	RecentLogs int
	HeldBytes  int64
}

// Recent is the store of what the ring no longer holds.
type Recent interface {
	// Read visits the kept envelopes of source whose class is in mask and
	// whose offset is in [from, to), the newest limit of them, oldest first.
	// totals is how many envelopes of each class the source has had. env is
	// valid during the visit.
	Read(source string, mask envelope.ClassMask, from, to uint64, limit int, totals [envelope.NumClasses]uint64,
		visit func(offset uint64, class envelope.Class, env []byte))
	// EachSource visits every source of which something is kept, with how many
	// envelopes and the timestamps of the oldest and the newest of them.
	EachSource(totals func(source string) [envelope.NumClasses]uint64,
		visit func(source string, envelopes int, oldest, newest int64))
}

// Server serves the readers of one ring.
type Server struct {
	// static after New
	cfg    Config
	log    *ring.Ring
	recent Recent
	logger *slog.Logger
	began  time.Time
	pings  *stream.KeepAlive
	reads  chan struct{} // bounds concurrent history reads

	resumes resumes

	accepted func() (accepted, dropped uint64)

	sent     [NumFramings]atomic.Uint64 // envelopes written to readers
	refused  [NumRefusals]atomic.Uint64 // calls
	cuts     [NumFramings][slow.NumCuts]atomic.Uint64
	readers  atomic.Uint64 // members and links that ever began to read
	sessions sync.WaitGroup
	draining atomic.Bool
	stopped  atomic.Bool // every connection is closed
	finished atomic.Bool // drained: sessions say fin when they are done
	counting atomic.Pointer[[]*group]

	// guarded by mu
	mu        sync.Mutex
	groups    map[string]*group
	rosters   map[string]*roster
	seats     map[string]*seat // of sessions
	links     map[*linkSession]struct{}
	conns     int
	nextConn  uint64
	gone      reader.Account // of groups that are no more
	goneLinks uint64         // dropped on links that are no more

	rates  rates
	ages   ages
	closed slow.Closed[Subscription]
}

// New returns a server for log. counters reports the envelopes the Doppler has
// accepted and dropped at ingress, for heartbeats.
func New(log *ring.Ring, recent Recent, cfg Config, logger *slog.Logger, counters func() (accepted, dropped uint64)) *Server {
	return &Server{
		cfg: cfg, log: log, recent: recent, logger: logger, began: time.Now(), accepted: counters,
		pings:  stream.NewKeepAlive(),
		reads:  make(chan struct{}, maxHistoryReads),
		groups: map[string]*group{}, rosters: map[string]*roster{}, seats: map[string]*seat{}, links: map[*linkSession]struct{}{},
	}
}

// BeforeEvict has to be the ring's hook of that name. It takes no lock that is
// held while the ring is called.
func (s *Server) BeforeEvict(c ring.Chunk) {
	if list := s.counting.Load(); list != nil {
		for _, g := range *list {
			g.state.BeforeEvict(c)
		}
	}
}

// listCounting publishes the groups that count what is evicted. mu is held.
func (s *Server) listCounting() {
	var list []*group
	for _, g := range s.groups {
		if g.countsNames {
			list = append(list, g)
		}
	}
	s.counting.Store(&list)
}

// connections is how many readers there are.
func (s *Server) connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// maxParameters is how many net/url reads.
const maxParameters = 10_000

// Handler serves the paths of api/stream. A query that cannot be read whole is
// refused: what is left of it would select more than was asked for.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+stream.PathFirehose, s.serveFirehose)
	mux.HandleFunc("GET "+stream.PathTails, s.serveTails)
	mux.HandleFunc("GET "+stream.PathHistory+"{source_id...}", s.serveHistory)
	mux.HandleFunc("GET "+strings.TrimSuffix(stream.PathHistory, "/"), s.serveHeld)
	mux.HandleFunc("GET "+stream.PathSources, s.ServeSources)
	mux.HandleFunc("GET "+stream.PathSubscriptions, s.ServeSubscriptions)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := url.ParseQuery(r.URL.RawQuery); err != nil {
			http.Error(w, fmt.Sprintf("the query cannot be read (it may have %d parameters): %v", maxParameters, err), http.StatusBadRequest)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Run wakes readers, keeps connections alive and lets go of what has expired,
// until ctx ends. Then it closes every session and waits for it.
func (s *Server) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { s.pings.Run(ctx) })
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for running := true; running; {
		select {
		case <-s.log.Notify():
			s.wake()
			s.log.EvictAhead()
		case now := <-tick.C:
			s.ages.note(now, s.log)
			s.expire(now)
		case <-ctx.Done():
			running = false
		}
	}
	s.draining.Store(true)
	s.stopped.Store(true)
	s.closeSessions()
	s.sessions.Wait()
	wg.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, g := range s.groups {
		g.state.Close()
		delete(s.groups, key)
	}
	return nil
}

// wake wakes the idle readers for which the ring has grown.
func (s *Server) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if g.idle.Load() > 0 {
			g.appended()
		}
	}
	for l := range s.links {
		if l.idle.Load() {
			l.appended()
		}
	}
}

// expire takes back leases and lets go of groups that lingered long enough.
func (s *Server) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, g := range s.groups {
		if g.expire(now, s.cfg.Linger) {
			if g.roster != nil {
				s.ended(g)
			}
			s.addGone(g)
			delete(s.groups, key)
			if g.countsNames {
				s.listCounting()
			}
		}
	}
}

// addGone keeps the totals of a group that goes. mu is held.
func (s *Server) addGone(g *group) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a := g.state.Account()
	g.state.Close()
	s.gone.Acked += a.Acked
	s.gone.Dropped += a.Dropped
}

// Drain serves until every reader, lingering groups too, has everything that
// was appended, or ctx ends; a reader may still come back for what it left.
// While the epoch is young it waits for those who have yet to find it. Then
// readers that have it all are told fin, and every connection is closed with
// "going away". Appends must have ended.
func (s *Server) Drain(ctx context.Context) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	var q quiet
	for !s.over(&q) {
		select {
		case <-poll.C:
			s.expire(time.Now())
			s.wake()
			continue
		case <-ctx.Done():
		}
		break
	}
	s.draining.Store(true)
	s.finished.Store(true)
	s.wakeAll()
	done := make(chan struct{})
	go func() { s.sessions.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * time.Second):
		s.closeSessions()
		<-done
	}
}

// settle is how long nothing may happen in a young epoch that is drained until
// nobody else is waited for.
const settle = time.Second

// quiet is since when a drain has had nothing to do.
type quiet struct {
	since   time.Time
	readers uint64 // that had come by then
}

// over tells whether everything is served to everybody. Those who were there
// before a young epoch may not know of it yet, and would not hear of what it
// took with it.
func (s *Server) over(q *quiet) bool {
	drained, readers := s.drained(), s.readers.Load()
	if !drained || readers != q.readers || q.since.IsZero() {
		*q = quiet{time.Now(), readers}
	}
	if s.log.Head() == 0 || !s.young() {
		return drained
	}
	return drained && readers > 0 && time.Since(q.since) >= settle
}

func (s *Server) drained() bool {
	if s.resumes.goOn(time.Now()) {
		return false // who has not caught up yet would miss it
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		if !g.drained() {
			return false
		}
	}
	for l := range s.links {
		if !l.drained() {
			return false
		}
	}
	return true
}

// wakeAll makes every session look around.
func (s *Server) wakeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, g := range s.groups {
		g.wakeAll()
	}
	for l := range s.links {
		l.wake.signal()
	}
}

// closeSessions breaks every connection.
func (s *Server) closeSessions() {
	s.mu.Lock()
	var stops []func()
	for _, g := range s.groups {
		stops = append(stops, g.stops()...)
	}
	for l := range s.links {
		stops = append(stops, func() { _ = l.conn.Close(stream.CloseGoingAway, "this Doppler is stopping") })
	}
	s.mu.Unlock()
	var wg sync.WaitGroup
	for _, stop := range stops {
		wg.Go(stop)
	}
	wg.Wait()
}

// admit counts a new connection or answers why not.
func (s *Server) admit(w http.ResponseWriter) (id uint64, ok bool) {
	id, err := s.count()
	if err == nil {
		return id, true
	}
	later := "5"
	if errors.Is(err, errStopping) {
		later = "1"
	}
	w.Header().Set("Retry-After", later)
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
	return 0, false
}

var errStopping = errors.New("this Doppler is stopping")

// count counts a new connection or says why there may not be one.
func (s *Server) count() (id uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining.Load() {
		return 0, errStopping
	}
	if s.conns >= s.cfg.MaxSubscriptions {
		return 0, fmt.Errorf("too many subscriptions: the limit is %d", s.cfg.MaxSubscriptions)
	}
	s.conns++
	s.nextConn++
	s.sessions.Add(1) // until started or dismissed, so that stopping waits
	return s.nextConn, nil
}

// start runs an admitted session's two goroutines. A server that has stopped
// meanwhile has not seen the connection: it is closed here.
func (s *Server) start(conn *stream.Conn, read, write func()) {
	s.pings.Add(conn)
	s.sessions.Add(2)
	go read()
	go write()
	if s.stopped.Load() {
		conn.CloseNow()
	}
	s.sessions.Done()
}

// refuse undoes admit for a connection that did not come about.
func (s *Server) refuse() {
	s.dismiss()
	s.sessions.Done()
}

func (s *Server) dismiss() {
	s.mu.Lock()
	s.conns--
	s.mu.Unlock()
}

// young tells whether the epoch is so new that a reader unknown to it may
// have been there before.
func (s *Server) young() bool { return time.Since(s.began) < s.cfg.Linger }

func (s *Server) accept(w http.ResponseWriter, r *http.Request) (*stream.Conn, error) {
	return stream.Accept(w, r, stream.AcceptOptions{SocketBuffer: s.cfg.SocketBuffer, ReadLimit: maxControlBytes})
}

// maxControlBytes bounds a client message: a Watch of some 10,000 sources.
const maxControlBytes = 4 << 20

// Stats are the server's totals since its start.
type Stats struct {
	Sent          uint64              // envelopes written to readers
	SentBy        [NumFramings]uint64 // the same, by framing
	Dropped       uint64              // envelopes told as gaps
	Refused       [NumRefusals]uint64 // calls over gRPC
	Cuts          [NumFramings][slow.NumCuts]uint64
	Subscriptions int
	Groups        int
}

// Stats may be called at any time.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{Subscriptions: s.conns, Groups: len(s.groups), Dropped: s.gone.Dropped + s.goneLinks}
	for by := range s.sent {
		st.SentBy[by] = s.sent[by].Load()
		st.Sent += st.SentBy[by]
	}
	for why := range s.refused {
		st.Refused[why] = s.refused[why].Load()
	}
	for by := range s.cuts {
		for why := range s.cuts[by] {
			st.Cuts[by][why] = s.cuts[by][why].Load()
		}
	}
	for _, g := range s.groups {
		st.Dropped += g.account().Dropped
	}
	for l := range s.links {
		st.Dropped += l.droppedCount()
	}
	return st
}

// closeReason puts an error in words for a close frame and its code.
func closeReason(err error) (stream.CloseCode, string) {
	var bad *clientError
	if errors.As(err, &bad) {
		return stream.CloseBadMessage, bad.Error()
	}
	return stream.CloseGoingAway, "connection ended"
}

// endOf is how a connection ended whose last read failed with err.
func endOf(conn *stream.Conn, err error) stream.CloseError {
	var bad *clientError
	if errors.As(err, &bad) {
		return stream.CloseError{Code: stream.CloseBadMessage, Reason: bad.Error()}
	}
	return stream.CloseOf(conn.Said(), err)
}

// hangUp ends a connection that cannot be written to any more.
func (s *Server) hangUp(conn *stream.Conn, err error, lag func(time.Time) slow.Lag) {
	if errors.Is(err, stream.ErrStuck) {
		s.cuts[ByWebSocket][slow.Stuck].Add(1)
		_ = conn.Close(stream.CloseStuck, slow.StuckReason(s.cfg.StuckTimeout, lag(time.Now())))
		return
	}
	conn.CloseNow()
}

// clientError is what a client did wrong.
type clientError struct{ what string }

func (e *clientError) Error() string { return e.what }
