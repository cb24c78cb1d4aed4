package edge

import (
	"bufio"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// rate is what a reader of an answer has to take, in bytes each second, once
// AnswerTimeout is over.
const rate = 64 << 10

// answer bounds how long a client may take to read what it is told, refusals too:
// one that reads nothing must keep neither the answer nor the connection. The
// deadline is there from the start, begins anew with the first byte, for what comes
// before is our own time, and moves along as the answer grows. net/http takes it off
// once the answer is sent.
//
// It leaves alone who streams: those that take over the connection, and those that
// set deadlines of their own, from the first one on.
type answer struct {
	http.ResponseWriter
	control  *http.ResponseController
	patience time.Duration
	began    time.Time
	written  int64
	own      atomic.Bool // the handler bounds its writes itself
}

func newAnswer(w http.ResponseWriter, patience time.Duration) *answer {
	a := &answer{ResponseWriter: w, control: http.NewResponseController(w), patience: patience}
	a.bound(time.Now())
	return a
}

// bound sets the deadline of an answer that began then.
func (a *answer) bound(began time.Time) {
	at := began.Add(a.patience + time.Duration(a.written)*time.Second/rate)
	_ = a.control.SetWriteDeadline(at) // in tests there may be none
}

// allow is called before so many bytes are written.
func (a *answer) allow(n int) {
	if a.own.Load() {
		return
	}
	if a.began.IsZero() {
		a.began = time.Now()
	}
	a.written += int64(n)
	a.bound(a.began)
}

// end is called when the handler is done: what net/http still has to send of an
// answer without a body has its time as well.
func (a *answer) end() { a.allow(0) }

// WriteHeader begins an answer.
func (a *answer) WriteHeader(status int) {
	a.allow(0)
	a.ResponseWriter.WriteHeader(status)
}

// Write goes on with it.
func (a *answer) Write(p []byte) (int, error) {
	a.allow(len(p))
	return a.ResponseWriter.Write(p)
}

// SetWriteDeadline is for http.ResponseController. It may be called concurrently.
func (a *answer) SetWriteDeadline(at time.Time) error {
	a.own.Store(true)
	return a.control.SetWriteDeadline(at)
}

// Hijack is for http.ResponseController, and WebSocket libraries. Who takes over a
// connection gets the one that is not counted, and without a deadline: net/http takes
// it off.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := a.control.Hijack()
	if err != nil {
		return nil, nil, err
	}
	a.own.Store(true)
	if c, ok := nc.(*counted); ok {
		nc = c.TCPConn
	}
	return nc, rw, nil
}

// Flush is for those who ask for a http.Flusher.
func (a *answer) Flush() { _ = a.control.Flush() }

// FlushError is for http.ResponseController.
func (a *answer) FlushError() error { return a.control.Flush() }

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
