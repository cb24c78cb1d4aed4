package stream

import (
	"encoding/binary"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// IdleWatch closes a client's connection whose path is dead: on which nothing of
// a message comes, or on which a ping is not answered and hardly anything comes.
// The second is a path that is dead in one direction only. It still brings
// messages for a while, as the server's kernel puts what is new together with
// what it repeats.
//
// It looks some times in its timeout, so that a message costs it next to nothing.
type IdleWatch struct {
	conn     *Conn
	busy     atomic.Bool // a message is being handled
	messages atomic.Uint64

	mu    sync.Mutex
	every time.Duration
	timer *time.Timer
	seen  uint64 // messages, and parts of them, at the last look
	quiet int    // looks since then
	dead  error  // why it has closed the connection

	pong       <-chan struct{} // closed by the answer to the last ping; nil before the first
	looks      int             // since the last ping
	unanswered int             // quiet ones of them, less the others
}

const (
	idleLooks = 16
	pingLooks = idleLooks / 4 // from one ping that is answered to the next
)

// WatchIdle begins to watch a connection; a timeout of 0 is for ever. It may
// close the connection up to a sixteenth later, and one that hears nothing of
// what is sent about a third later. The caller ends the watch with Stop.
func WatchIdle(c *Conn, timeout time.Duration) *IdleWatch {
	w := &IdleWatch{conn: c}
	w.SetTimeout(timeout)
	return w
}

// SetTimeout begins to watch anew. A nil IdleWatch has nothing to watch.
func (w *IdleWatch) SetTimeout(timeout time.Duration) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.every, w.quiet, w.unanswered = timeout/idleLooks, 0, 0
	if timeout > 0 {
		w.timer = time.AfterFunc(w.every, w.look)
	}
}

// Begin says that a message was read and is being handled, and that nothing is
// read until Done.
func (w *IdleWatch) Begin() { w.busy.Store(true) }

// Done says that the message is handled.
func (w *IdleWatch) Done() {
	w.messages.Add(1)
	w.busy.Store(false)
}

// Stop ends the watch and tells why it has closed the connection, if it has.
func (w *IdleWatch) Stop() (dead error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	return w.dead
}

func (w *IdleWatch) look() {
	if ping := w.judge(); ping != nil {
		w.conn.post(opPing, ping) // ends with the connection, should it block
	}
}

// judge closes the connection if its path is dead. Otherwise it returns the
// ping to send, if one is due.
func (w *IdleWatch) judge() (ping []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return nil // stopped
	}
	w.count()
	silence := idleLooks * w.every
	switch {
	case w.quiet >= idleLooks:
		w.dead = fmt.Errorf("%w: %v", ErrIdle, silence)
	case w.unanswered >= idleLooks:
		w.dead = fmt.Errorf("%w: %v", ErrNoPong, silence)
	default:
		w.timer.Reset(w.every)
		return w.nextPing()
	}
	_ = w.conn.Close(CloseGoingAway, w.dead.Error())
	return nil
}

// count counts one look. A pong may be behind a lot on a slow path, so that it
// is missing says something only while little comes; and nothing does while a
// message is being handled.
func (w *IdleWatch) count() {
	w.looks++
	n := w.messages.Load() + w.conn.in.parts.Load()
	moves := n != w.seen || w.busy.Load()
	w.seen = n
	switch {
	case w.answered():
		w.unanswered = 0
	case moves:
		w.unanswered = max(w.unanswered-1, 0)
	default:
		w.unanswered++
	}
	if w.quiet++; moves {
		w.quiet = 0
	}
}

// answered tells whether no answer to a ping is missing.
func (w *IdleWatch) answered() bool {
	if w.pong == nil {
		return true
	}
	select {
	case <-w.pong:
		return true
	default:
		return false
	}
}

func (w *IdleWatch) nextPing() []byte {
	if w.looks < pingLooks || !w.answered() {
		return nil
	}
	var id uint64
	w.pong, id = w.conn.late.expect()
	w.looks = 0
	return binary.BigEndian.AppendUint64(nil, id)
}
