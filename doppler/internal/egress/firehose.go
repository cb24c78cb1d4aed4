package egress

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// group is a subscription group with its lock and its sessions.
type group struct {
	// static
	key         string
	shardID     string
	filter      reader.Filter
	private     bool // of one connection: does not linger
	roster      *roster
	name        string // in the roster
	countsNames bool

	idle atomic.Int32 // sessions that wait for the ring to grow

	// guarded by mu
	mu       sync.Mutex
	state    *reader.Group
	sessions map[*reader.Member]*seat
	left     time.Time // when the last member left
}

// seat is the place of one connection in a group, whatever it speaks.
type seat struct {
	view
	server *Server
	group  *group
	state  *reader.Member
	wake   waker
	stop   func()          // breaks the connection because the Doppler stops
	lose   func()          // breaks it because its reader has another one
	place  string          // in Server.seats; empty for none
	turn   uint64          // of its session
	tick   func(time.Time) // called every second, with group.mu held, unless nil
	slow   bool            // as of the last look; guarded by group.mu
}

// member is one WebSocket connection of a group.
type member struct {
	seat
	conn *stream.Conn
	done chan struct{} // closed by the reading side when the connection is over
}

// serveFirehose upgrades the request and makes it a member of its group.
func (s *Server) serveFirehose(w http.ResponseWriter, r *http.Request) {
	q, err := parseFirehose(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	id, ok := s.admit(w)
	if !ok {
		return
	}
	conn, err := s.accept(w, r)
	if err != nil {
		s.refuse()
		return
	}
	m := &member{seat: seat{server: s, wake: newWaker()}, conn: conn, done: make(chan struct{})}
	m.view = newView(r, q.user, q.remote, strconv.FormatUint(id, 10))
	m.stop = func() { _ = conn.Close(stream.CloseGoingAway, "this Doppler is stopping") }
	m.lose = func() { _ = conn.Close(stream.CloseSuperseded, superseded) }
	if !s.join(&m.seat, q) {
		m.lose()
		s.refuse()
		return
	}
	s.start(conn, m.read, m.write)
}

const superseded = "this reader has come back over another connection"

// join finds or makes the group and adds m to it. Of one session the latest
// turn stays: should m be an earlier one, it does not join.
func (s *Server) join(m *seat, q firehoseQuery) bool {
	filter := q.filter.Canonical()
	key := strconv.Quote(q.shardID) + " " + filter.Key()
	name := q.name
	if q.shardID == "" {
		key, name = m.id+key, "" // there is nobody to share with
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.rosters[key]
	if name != "" {
		r = s.rosterOf(key)
		key += " for " + strconv.Quote(name)
	}
	var before *seat
	if m.turn = q.session.Turn; q.session.ID != "" {
		m.place = key + " " + q.session.ID
		if before = s.seats[m.place]; before != nil && m.turn < before.turn {
			return false
		}
		s.seats[m.place] = m
	}
	g, start := s.groups[key], s.startOf(q, r)
	if g == nil {
		g = &group{key: key, shardID: q.shardID, filter: filter, private: q.shardID == "", sessions: map[*reader.Member]*seat{}, roster: r, name: name}
		s.open(g, start)
	}
	g.mu.Lock()
	m.group = g
	m.state = g.state.Join(time.Now(), q.acking && name == "")
	g.sessions[m.state] = m
	if start.Lost == streampb.Gap_DOPPLER_LOST {
		g.signal(g.state.Lose())
	}
	g.mu.Unlock()
	if r != nil {
		r.groups[name] = g
		s.reassign(r)
	}
	s.readers.Add(1)
	if before != nil {
		before.leaveFor()
	}
	return true
}

// leaveFor gives a seat up for a later one of its session. The server's mu is
// held.
func (m *seat) leaveFor() {
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions[m.state] == nil {
		return // it is leaving
	}
	g.remove(m, stream.CloseError{Code: stream.CloseSuperseded, Reason: superseded})
	m.server.conns--
	m.server.sessions.Go(m.lose)
}

// open begins a group. mu is held.
func (s *Server) open(g *group, start reader.Start) {
	cfg := reader.Config{WindowBytes: s.cfg.WindowBytes, AckTimeout: s.cfg.AckTimeout, WindowOffsets: s.windowOffsets}
	if g.roster != nil {
		cfg.Share = &reader.Share{Roster: &g.roster.owners, Name: g.name}
	}
	g.state = reader.NewGroup(s.log, g.filter, cfg, start)
	g.countsNames = g.state.CountsNames()
	s.groups[g.key] = g
	if g.countsNames {
		s.listCounting()
	}
}

func (s *Server) windowOffsets() uint64 { return max(s.log.CapacityOffsets()/4, 1024) }

// leave takes m out of its group, with why in the row of it that is kept.
func (m *seat) leave(why stream.CloseError) {
	s, g := m.server, m.group
	s.mu.Lock()
	defer s.mu.Unlock()
	g.mu.Lock()
	there := g.sessions[m.state] != nil
	if there {
		g.remove(m, why)
	}
	g.mu.Unlock()
	if !there {
		return // another connection has its seat
	}
	if g.roster != nil {
		s.reassign(g.roster)
	}
	if s.seats[m.place] == m {
		delete(s.seats, m.place)
	}
	s.conns--
}

// remove takes a seat out. mu is held.
func (g *group) remove(m *seat, why stream.CloseError) {
	now, s := time.Now(), m.server
	s.closed.Add(now, g.row(m, g.base(now, s, s.meanBytes())).closed(now, why))
	wake := g.state.Leave(m.state)
	delete(g.sessions, m.state)
	if len(g.sessions) == 0 {
		g.left = time.Now()
	}
	g.signal(wake)
}

// signal wakes members. mu is held.
func (g *group) signal(members []*reader.Member) {
	for _, m := range members {
		if s := g.sessions[m]; s != nil {
			s.wake.signal()
		}
	}
}

func (g *group) appended() {
	g.mu.Lock()
	g.signal(g.state.Appended())
	g.mu.Unlock()
}

func (g *group) wakeAll() {
	g.mu.Lock()
	for _, m := range g.sessions {
		m.wake.signal()
	}
	g.mu.Unlock()
}

// expire reports whether the group is to be let go.
func (g *group) expire(now time.Time, linger time.Duration) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.sessions) == 0 {
		return g.private || now.Sub(g.left) > linger
	}
	for _, m := range g.sessions {
		if m.tick != nil {
			m.tick(now)
		}
	}
	g.signal(g.state.Expire(now))
	return false
}

func (g *group) drained() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.Drained() || g.private && len(g.sessions) == 0
}

func (g *group) account() reader.Account {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.Account()
}

// stops is how to break each connection.
func (g *group) stops() []func() {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]func(), 0, len(g.sessions))
	for _, m := range g.sessions {
		list = append(list, m.stop)
	}
	return list
}

// turn is what a seat has to do next.
type turn struct {
	grant  reader.Grant
	status reader.Status
	left   bool // it has left: what it was granted now would be out for long
	waits  bool // until it is woken; the group counts it as idle
	fin    bool // with nothing granted: it has everything
}

// next takes the seat's turn.
func (m *seat) next() (t turn) {
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions[m.state] == nil {
		t.left = true
		return t
	}
	// Idle before the ring is looked at: what is appended after that look
	// finds the session idle and wakes it.
	g.idle.Add(1)
	var wake []*reader.Member
	t.grant, t.status, wake = g.state.Next(time.Now(), m.state)
	g.signal(wake)
	if t.waits = t.status != reader.Granted && t.status != reader.More; !t.waits {
		g.idle.Add(-1)
	}
	t.fin = m.server.finished.Load() && g.state.Drained()
	return t
}

// pause spreads writes: it waits after the seat was woken, unless there is
// enough to write.
func (m *seat) pause(p *pacer, done <-chan struct{}) {
	p.wait(m.server.log.Head()-m.group.mark() >= paceEnough, done)
}

// read takes what the client says until the connection ends.
func (m *member) read() {
	defer m.server.sessions.Done()
	err := m.readLoop()
	code, reason := closeReason(err)
	m.server.pings.Remove(m.conn)
	m.leave(endOf(m.conn, err))
	// Before the writer hears of it, which would only hang up.
	_ = m.conn.Close(code, reason)
	close(m.done)
	m.server.logger.Debug("firehose member left", "shard_id", m.group.shardID, "remote", m.remote, "error", err)
}

func (m *member) readLoop() error {
	for {
		buf, err := m.conn.Read(context.Background())
		if err != nil {
			return err
		}
		msg, err := stream.DecodeControl(buf.Bytes())
		buf.Release()
		if err != nil {
			return &clientError{err.Error()}
		}
		if err := m.control(msg); err != nil {
			return err
		}
	}
}

func (m *member) control(msg *streampb.Control) error {
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	switch c := msg.GetMessage().(type) {
	case *streampb.Control_Sent:
		g.signal(g.state.Sent(m.state, c.Sent.GetLease()))
	case *streampb.Control_Ack:
		if c.Ack.GetDoppler() != m.server.cfg.Doppler || c.Ack.GetEpoch() != m.server.cfg.Epoch {
			return nil // of an earlier life: what it acks is no more
		}
		now := time.Now()
		for _, r := range c.Ack.GetRanges() {
			g.signal(g.state.Ack(now, m.state, r.GetFirst(), r.GetLast()))
		}
	default:
		return &clientError{"a Firehose takes Sent and Ack only"}
	}
	return nil
}

// write sends batches until the connection ends.
func (m *member) write() {
	defer m.server.sessions.Done()
	f := newFramer(m.server, m.conn, m.lag)
	defer f.stop()
	err := f.send(m.greeting())
	for err == nil {
		t := m.next()
		switch {
		case t.left:
			return // the reading side ends the connection
		case t.status == reader.Granted:
			if err = m.writeGrant(f, &t.grant); err == nil {
				err = f.keepBeating()
			}
		case m.server.finished.Load():
			m.goodbye(f, t.fin)
			return
		case t.waits:
			err = m.idleUntil(f)
		}
	}
	m.server.hangUp(m.conn, err, m.lag)
}

// lag is how far the member's group is behind.
func (m *seat) lag(now time.Time) slow.Lag {
	return m.group.lag(now, m.server, m.server.meanBytes())
}

// idleUntil waits for a signal.
func (m *member) idleUntil(f *framer) error {
	defer m.group.idle.Add(-1)
	ok, err := f.idle(m.wake, m.done)
	if err != nil || !ok {
		return err
	}
	m.pause(&f.pacer, m.done)
	return nil
}

// mark is the group's next offset.
func (g *group) mark() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state.Mark()
}

// greeting is the first message: where the group stands, for a client that has
// nothing yet.
func (m *member) greeting() *streampb.Batch {
	return &streampb.Batch{Hello: m.server.hello(m.server.windowOffsets()), Position: m.position()}
}

func (m *member) position() *streampb.Position {
	g := m.group
	g.mu.Lock()
	defer g.mu.Unlock()
	off, matched := g.state.Low()
	return &streampb.Position{
		Doppler: m.server.cfg.Doppler, Epoch: m.server.cfg.Epoch,
		First: off, Next: off, Matched: matched, Low: off, LowMatched: matched,
	}
}

// writeGrant sends one batch. Should the socket not take it at once, the
// group's other members go on.
func (m *member) writeGrant(f *framer, grant *reader.Grant) error {
	m.server.describe(&f.batch, grant)
	blocked := false
	err := f.write(grant.Pieces, grant.Bytes, func(spilled bool) {
		grant.Release()
		if spilled {
			blocked = true
			m.setBlocked(true)
		}
	})
	if blocked {
		m.setBlocked(false)
	}
	m.server.sent[ByWebSocket].Add(uint64(grant.Count))
	return err
}

// describe sets in b what goes before the envelopes of a grant.
func (s *Server) describe(b *streampb.Batch, grant *reader.Grant) {
	b.Position = &streampb.Position{
		Doppler: s.cfg.Doppler, Epoch: s.cfg.Epoch,
		First: grant.First, Count: uint32(grant.Count), Deltas: grant.Deltas, Matched: grant.Matched,
		Low: grant.Low, LowMatched: grant.LowMatched, Next: grant.Next,
	}
	b.Lease = &streampb.Lease{Id: grant.Lease, Redelivered: grant.Redelivered}
	b.Gaps = s.gaps(grant.Gaps)
}

func (m *seat) setBlocked(blocked bool) {
	g := m.group
	g.mu.Lock()
	g.signal(g.state.SetBlocked(m.state, blocked))
	g.mu.Unlock()
}

// goodbye ends the session of a stopping Doppler.
func (m *member) goodbye(f *framer, fin bool) {
	if fin {
		_ = f.send(&streampb.Batch{Fins: []*streampb.Fin{m.server.fin()}})
	}
	_ = m.conn.Close(stream.CloseGoingAway, "this Doppler is stopping")
}
