package nozzle

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

const (
	// Waiting between dials: from shortest, twice as long each time, to
	// longest, each give or take a third.
	shortestWait = 100 * time.Millisecond
	longestWait  = 10 * time.Second
	// stableAfter is how long a connection must have lived for the waiting
	// to begin anew.
	stableAfter = 5 * time.Second
	// defaultHeartbeat is expected until a server has said what to expect.
	defaultHeartbeat = 5 * time.Second
	// defaultReadAhead is the default of Config.ReadAhead.
	defaultReadAhead = 1 << 20

	userAgent = "loggregator-nozzle/1"
)

// errClosed is an end that is not the network's.
var errClosed = errors.New("by its owner")

// link is one connection.
type link struct {
	*Stream
	conn    *stream.Conn
	idle    *stream.IdleWatch
	number  int
	greeted bool
	spread  time.Duration
	// answers is what the server says of the token; of capacity 1, and only the
	// newest.
	answers chan *streampb.Access
}

// run connects again and again. Its error is the stream's.
func (s *Stream) run(ctx context.Context) error {
	var f failures
	for number := 1; ; number++ {
		opened := time.Now()
		greeted, spread, err := s.connect(ctx, number)
		if s.quitting() {
			return &Error{Code: CodeClosed, Err: errClosed}
		}
		if greeted {
			f.connected(time.Since(opened))
		}
		failure, permanent := classify(err)
		if failure.Code == CodeUnauthenticated && s.cfg.Header != nil && !f.refused {
			f.refused, permanent = true, false // what Header returned may have run out just then
		}
		if permanent {
			return failure
		}
		wait, ok := f.add(&s.cfg)
		if !ok {
			return &Error{Code: CodeUnavailable, Status: failure.Status, Err: fmt.Errorf("failure %d in a row: %w", f.inRow, failure.Err)}
		}
		asked := retryAfter(err)
		wait = max(wait, asked+stream.SpreadWait(asked/4)) + stream.SpreadWait(spread)
		s.fails(failure)
		s.notify(Notice{Kind: Disconnected, Err: failure, Attempt: f.inRow, Wait: wait})
		if !s.sleep(ctx, wait) {
			return &Error{Code: CodeClosed, Err: errClosed}
		}
	}
}

// failures counts what goes wrong, to know how long to wait and when to give
// up.
type failures struct {
	inRow   int // since a server said hello
	since   time.Time
	waits   int // since a connection was stable
	refused bool
}

// connected says that the connection that failed just now had come about.
func (f *failures) connected(lasted time.Duration) {
	f.inRow, f.refused = 0, false
	if lasted >= stableAfter {
		f.waits = 0
	}
}

// add counts a failure and returns how long to wait; ok is false when it was
// the last.
func (f *failures) add(cfg *Config) (wait time.Duration, ok bool) {
	if f.inRow == 0 {
		f.since = time.Now()
	}
	f.inRow++
	f.waits++
	if cfg.MaxRetries != 0 && f.inRow > max(cfg.MaxRetries, 0) {
		return 0, false
	}
	if cfg.MaxElapsed > 0 && time.Since(f.since) >= cfg.MaxElapsed {
		return 0, false
	}
	return backOff(f.waits), true
}

// fails notes why there is no connection.
func (s *Stream) fails(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Err = err
}

func (s *Stream) quitting() bool {
	select {
	case <-s.quit:
		return true
	default:
		return false
	}
}

func (s *Stream) sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.quit:
	case <-ctx.Done():
	}
	return false
}

func (s *Stream) notify(n Notice) {
	if s.cfg.Notify != nil {
		s.cfg.Notify(n)
	}
}

func backOff(n int) time.Duration {
	d := longestWait
	if n < 8 {
		d = min(d, shortestWait<<(n-1))
	}
	return d*2/3 + rand.N(d*2/3)
}

// connect dials and reads until the connection ends. spread is over what time
// the server wants its clients to come back then.
func (s *Stream) connect(ctx context.Context, number int) (greeted bool, spread time.Duration, err error) {
	conn, err := s.dial(ctx, stream.Session{ID: s.session, Turn: uint64(number)})
	if err != nil {
		return false, 0, err
	}
	defer conn.CloseNow()
	s.mu.Lock()
	s.conn = conn
	s.place.Reconnected()
	owes := s.place.Owes()
	s.mu.Unlock()
	if owes {
		signal(s.acks)
	}
	defer func() {
		s.mu.Lock()
		s.conn = nil
		if s.status.Connected {
			s.status.Connected, s.status.Since = false, time.Now()
		}
		s.mu.Unlock()
	}()
	if s.quitting() {
		_ = conn.Close(stream.CloseNormal, "") // Close came too early to see it
		return false, 0, errClosed
	}
	l := &link{Stream: s, conn: conn, number: number, answers: make(chan *streampb.Access, 1)}
	tokens := newSchedule(time.Now())
	renewing, stop := context.WithCancel(ctx)
	var renews sync.WaitGroup
	renews.Go(func() { l.renew(renewing, tokens) })
	err = l.follow()
	stop()
	renews.Wait()
	if s.quitting() {
		<-s.bye // the last acks go over this connection
	}
	return l.greeted, l.spread, err
}

func (s *Stream) dial(ctx context.Context, session stream.Session) (*stream.Conn, error) {
	header := http.Header{}
	if s.cfg.Header != nil {
		h, err := s.cfg.Header(ctx)
		if err != nil {
			return nil, fmt.Errorf("make headers: %w", err)
		}
		maps.Copy(header, h) // which may be nil
	}
	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", userAgent)
	}
	s.mu.Lock()
	from := s.place
	if s.passes {
		from = s.read
	}
	cursor := from.Cursor()
	s.mu.Unlock()
	return stream.Dial(ctx, s.cfg.target(s.addr, encodeCursor(cursor), session), stream.DialOptions{
		TLS: s.cfg.TLS, Header: header, Subprotocol: stream.Subprotocol, ReadLimit: s.cfg.MaxMessageBytes,
	})
}

// follow reads until the connection ends. Only the time in which it waits for
// the server counts as silence.
func (l *link) follow() error {
	l.idle = stream.WatchIdle(l.conn, stream.MissedHeartbeats*defaultHeartbeat)
	err := l.readAll()
	if dead := l.idle.Stop(); dead != nil && !l.quitting() {
		err = fmt.Errorf("missed heartbeats: %w", dead)
	}
	return err
}

func (l *link) readAll() error {
	for {
		buf, err := l.conn.Read(context.Background())
		if err != nil {
			return err
		}
		l.idle.Begin()
		err = l.message(buf)
		l.idle.Done()
		if err != nil {
			return err
		}
	}
}

// message handles one message. It owns buf.
func (l *link) message(buf *stream.Buffer) error {
	meta, envelopes, err := stream.SplitBatch(buf.Bytes())
	var m streampb.Batch
	if err == nil {
		err = stream.UnmarshalMeta(meta, &m)
	}
	if err != nil {
		buf.Release()
		return &Error{Code: CodeProtocol, Err: err}
	}
	l.heard(&m)
	it := item{link: l.number, position: m.GetPosition(), fins: m.GetFins()}
	it.batch, err = l.batch(&m, envelopes, buf)
	if err != nil {
		return err
	}
	if it.batch != nil || it.position != nil || len(it.fins) > 0 {
		if err := l.hand(it); err != nil {
			return err
		}
	}
	if len(m.GetWatching()) > 0 {
		if err := l.hand(item{link: l.number, live: true}); err != nil {
			return err
		}
	}
	for _, f := range it.fins {
		l.notify(Notice{Kind: DopplerLeft, Doppler: f.GetDoppler()})
	}
	return nil
}

// batch makes a batch of a message; nil when there is nothing in it for a
// reader. It owns buf.
func (l *link) batch(m *streampb.Batch, envelopes []byte, buf *stream.Buffer) (*Batch, error) {
	if err := check(m.GetPosition(), envelopes); err != nil {
		buf.Release()
		return nil, err
	}
	b := &Batch{
		Position: m.GetPosition(), Envelopes: envelopes, Gaps: m.GetGaps(),
		Redelivered: m.GetLease().GetRedelivered(), stream: l.Stream, release: buf.Release,
	}
	b.delivery = stream.Delivery{Position: b.Position, Gaps: b.Gaps, Redelivered: b.Redelivered}
	if len(envelopes) > 0 {
		return b, nil
	}
	b.Release()
	if len(b.Gaps) == 0 {
		return nil, nil
	}
	return b, nil
}

// check looks whether a position fits its envelopes.
func check(p *streampb.Position, envelopes []byte) error {
	n, err := stream.CountRecords(envelopes)
	if err == nil {
		_, err = stream.ParseOffsets(p, n)
	}
	if err != nil {
		return &Error{Code: CodeProtocol, Err: err}
	}
	return nil
}

// heard takes note of what concerns the connection.
func (l *link) heard(m *streampb.Batch) {
	now := time.Now()
	hello := m.GetHello()
	defer l.access(m.GetAccess())
	l.mu.Lock()
	l.status.LastMessage = now
	if m.GetHeartbeat() != nil {
		l.status.Heartbeat = m.GetHeartbeat()
	}
	if hello != nil && !l.greeted {
		l.status.Connected, l.status.Since, l.status.Server, l.status.Err = true, now, hello.GetServer(), nil
		l.status.Connects++
	}
	if l.read != nil {
		l.received(m)
	}
	l.mu.Unlock()
	if hello != nil && !l.greeted {
		l.greeted, l.spread = true, stream.Spread(hello)
		if ms := hello.GetHeartbeatMillis(); ms > 0 {
			l.idle.SetTimeout(stream.MissedHeartbeats * time.Duration(ms) * time.Millisecond)
		}
		l.notify(Notice{Kind: Connected, Server: hello.GetServer()})
	}
}

// received keeps the place to come back to when what is received need not be
// acked. mu is held.
func (l *link) received(m *streampb.Batch) {
	d := stream.Delivery{Position: m.GetPosition(), Gaps: m.GetGaps(), Redelivered: m.GetLease().GetRedelivered()}
	l.read.Receive(&d, l.number)
	l.read.Consume(&d)
	for _, f := range m.GetFins() {
		l.read.Finish(f.GetDoppler(), f.GetEpoch())
	}
}

// classify puts an error into a code and tells whether another dial would meet
// the same.
func classify(err error) (failure *Error, permanent bool) {
	var own *Error
	if errors.As(err, &own) {
		return own, true
	}
	var refused *stream.HandshakeError
	if errors.As(err, &refused) {
		return classifyStatus(refused, err)
	}
	code := stream.CloseAbnormal
	var closed *stream.CloseError
	var broke *stream.ProtocolError
	switch {
	case errors.As(err, &closed):
		code = closed.Code
	case errors.As(err, &broke):
		code = broke.Code
	}
	switch {
	case code == stream.CloseWithdrawn:
		return &Error{Code: CodeForbidden, Err: err}, true
	case code == stream.CloseOverLimit:
		return &Error{Code: CodeLimit, Err: err}, false
	case code.Reconnect():
		return &Error{Code: CodeUnavailable, Err: err}, false
	case code == stream.CloseTooBig:
		return &Error{Code: CodeLimit, Err: err}, true
	}
	return &Error{Code: CodeProtocol, Err: err}, true
}

func classifyStatus(refused *stream.HandshakeError, err error) (failure *Error, permanent bool) {
	code := CodeUnavailable
	switch refused.Status {
	case http.StatusBadRequest:
		code = CodeInvalidArgument
	case http.StatusUnauthorized:
		code = CodeUnauthenticated
	case http.StatusForbidden:
		code = CodeForbidden
	case http.StatusNotFound:
		code = CodeNotFound
	case http.StatusMethodNotAllowed, http.StatusUpgradeRequired:
		code = CodeProtocol
	case http.StatusTooManyRequests:
		code = CodeLimit
	}
	return &Error{Code: code, Status: refused.Status, Err: err}, !refused.Reconnect()
}

// retryAfter is how long the server asks to wait.
func retryAfter(err error) time.Duration {
	var refused *stream.HandshakeError
	if errors.As(err, &refused) {
		return refused.RetryAfter
	}
	return 0
}
