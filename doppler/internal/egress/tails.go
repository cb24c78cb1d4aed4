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

// linkSession is one tail link.
type linkSession struct {
	view
	server *Server
	conn   *stream.Conn
	wake   waker
	done   chan struct{} // closed by the reading side when the connection is over

	session stream.Session

	idle atomic.Bool // waits for the ring to grow

	// guarded by mu
	mu      sync.Mutex
	state   *reader.Link // nil until the first Watch
	resumes bool         // counts of watches belong to its start
}

// serveTails upgrades the request to a tail link.
func (s *Server) serveTails(w http.ResponseWriter, r *http.Request) {
	session, err := stream.ParseSession(r.URL.Query().Get("session"))
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
	l := &linkSession{server: s, conn: conn, wake: newWaker(), done: make(chan struct{}), session: session}
	l.view = newView(r, r.URL.Query().Get("user"), r.URL.Query().Get("remote"), strconv.FormatUint(id, 10))
	s.addLink(l)
	s.start(conn, l.read, l.write)
}

// addLink takes the link up, and ends earlier ones of its session. Its client
// dials one after the other: it is the latest.
func (s *Server) addLink(l *linkSession) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for o := range s.links {
		if l.session.ID != "" && o.session.ID == l.session.ID {
			s.sessions.Go(func() { _ = o.conn.Close(stream.CloseSuperseded, superseded) })
		}
	}
	s.links[l] = struct{}{}
}

func (l *linkSession) read() {
	defer l.server.sessions.Done()
	err := l.readLoop()
	code, reason := closeReason(err)
	s := l.server
	s.pings.Remove(l.conn)
	s.mu.Lock()
	delete(s.links, l)
	s.goneLinks += l.droppedCount()
	s.mu.Unlock()
	now := time.Now()
	s.closed.Add(now, l.row(now, s.log.Head(), s.meanBytes()).closed(now, endOf(l.conn, err)))
	// Before the writer hears of it, which would only hang up.
	_ = l.conn.Close(code, reason)
	close(l.done)
	l.mu.Lock()
	if l.state != nil {
		l.state.Close()
	}
	l.mu.Unlock()
	s.dismiss()
	s.logger.Debug("tail link ended", "remote", l.remote, "error", err)
}

func (l *linkSession) readLoop() error {
	for {
		buf, err := l.conn.Read(context.Background())
		if err != nil {
			return err
		}
		msg, err := stream.DecodeControl(buf.Bytes())
		buf.Release()
		if err != nil {
			return &clientError{err.Error()}
		}
		watch := msg.GetWatch()
		if watch == nil {
			return &clientError{"a tail link takes Watch only"}
		}
		l.watch(watch)
	}
}

// watch changes the set of watched sources; the first one starts the link.
func (l *linkSession) watch(w *streampb.Watch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		start := l.start(w.GetStart())
		l.resumes = start.Place == reader.PlaceOffset
		l.state = reader.NewLink(l.server.log, reader.LinkConfig{MaxWatches: l.server.cfg.MaxWatches}, start)
		l.server.readers.Add(1)
	}
	for _, id := range w.GetRemove() {
		l.state.Remove(id)
	}
	for _, add := range w.GetAdd() {
		var resume *reader.Resume
		if l.resumes && len(add.GetClassCounts()) > 0 {
			resume = &reader.Resume{}
			copy(resume.Counts[:], add.GetClassCounts())
		}
		l.state.Add(w.GetRequest(), add.GetWatch(), add.GetSourceId(), resume)
	}
	l.state.Hold(w.GetMore())
	l.wake.signal()
}

// start finds where the link begins.
func (l *linkSession) start(at *streampb.LinkStart) reader.Start {
	switch {
	case at.GetOrigin():
		return reader.Start{Place: reader.PlaceOrigin}
	case at.GetEpoch() == 0:
		return reader.Start{}
	case at.GetEpoch() == l.server.cfg.Epoch:
		return reader.Start{Place: reader.PlaceOffset, Offset: at.GetOffset()}
	default:
		return reader.Start{Place: reader.PlaceOrigin, Lost: streampb.Gap_DOPPLER_LOST}
	}
}

func (l *linkSession) appended() {
	l.mu.Lock()
	if l.state != nil && l.state.Appended() {
		l.wake.signal()
	}
	l.mu.Unlock()
}

// drained tells whether the link has said everything. One that has not told yet
// what it watches may want all of this epoch.
func (l *linkSession) drained() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != nil && l.state.Drained()
}

func (l *linkSession) droppedCount() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		return 0
	}
	_, dropped := l.state.Counters()
	return dropped
}

// next returns the next batch; ok is false when there is nothing to say. The
// session is idle before the ring is looked at: what is appended after that
// look finds it idle and wakes it.
func (l *linkSession) next() (b reader.LinkBatch, ok, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.idle.Store(true)
	if l.state == nil {
		return b, false, false
	}
	b, more = l.state.Next()
	ok = b.Count > 0 || len(b.Watching) > 0 || len(b.Gaps) > 0
	if ok || more {
		l.idle.Store(false)
	}
	return b, ok, more
}

func (l *linkSession) write() {
	defer l.server.sessions.Done()
	lag := func(now time.Time) slow.Lag { return l.lag(now, l.server.log.Head(), l.server.meanBytes()) }
	f := newFramer(l.server, l.conn, lag)
	defer f.stop()
	err := f.send(&streampb.Batch{Hello: l.server.hello(0)})
	for err == nil {
		b, ok, more := l.next()
		switch {
		case ok:
			if err = l.writeBatch(f, &b); err == nil {
				err = f.keepBeating()
			}
		case more:
		case l.server.finished.Load():
			if l.drained() {
				_ = f.send(&streampb.Batch{Fins: []*streampb.Fin{l.server.fin()}})
			}
			_ = l.conn.Close(stream.CloseGoingAway, "this Doppler is stopping")
			return
		default:
			err = l.idleUntil(f)
		}
	}
	l.server.hangUp(l.conn, err, lag)
}

func (l *linkSession) idleUntil(f *framer) error {
	defer l.idle.Store(false)
	ok, err := f.idle(l.wake, l.done)
	if err != nil || !ok {
		return err
	}
	f.pacer.wait(l.server.log.Head()-l.cursor() >= paceEnough, l.done)
	return nil
}

// cursor is the link's next offset.
func (l *linkSession) cursor() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		return l.server.log.Head()
	}
	return l.state.Cursor()
}

func (l *linkSession) writeBatch(f *framer, b *reader.LinkBatch) error {
	out := &f.batch
	out.Position = &streampb.Position{
		Doppler: l.server.cfg.Doppler, Epoch: l.server.cfg.Epoch,
		First: b.First, Count: uint32(b.Count), Deltas: b.Deltas, Next: b.Next,
		Watches: b.Watches, Classes: b.Classes,
	}
	out.Watching = b.Watching
	out.Gaps = f.server.gaps(b.Gaps)
	err := f.write(b.Pieces, b.Bytes, func(bool) { b.Release() })
	l.server.sent[ByWebSocket].Add(uint64(b.Count))
	return err
}
