package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
)

// Conn is a stream of events to one client. It stands where the relay expects
// a WebSocket: what is written to it are finished events.
type Conn struct {
	done chan struct{} // closed when it is

	// guarded by mu, which is held while something is written
	mu    sync.Mutex
	w     http.ResponseWriter
	ctl   *http.ResponseController
	wrote time.Time
	stuck bool // a write has run out of time

	// guarded by endMu
	endMu sync.Mutex
	why   *stream.CloseError
}

func newConn(w http.ResponseWriter) *Conn {
	return &Conn{done: make(chan struct{}), w: w, ctl: http.NewResponseController(w), wrote: time.Now()}
}

// begin sends the head of the answer.
func (c *Conn) begin() error {
	h := c.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("Connection", "keep-alive")
	if err := c.ctl.Flush(); err != nil {
		for _, name := range []string{"Content-Type", "Cache-Control", "Connection"} {
			h.Del(name)
		}
		return fmt.Errorf("begin stream: %w", err)
	}
	return nil
}

// Read waits until the stream is over; a client says nothing.
func (c *Conn) Read(ctx context.Context) (*stream.Buffer, error) {
	select {
	case <-c.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.endMu.Lock()
	defer c.endMu.Unlock()
	return nil, c.why
}

// TryWriteFrames writes nothing: whether it would have to wait is not known.
func (c *Conn) TryWriteFrames([][]byte) (rest *stream.Unwritten, ok bool, err error) {
	return nil, false, nil
}

// piece is how much is written with one timeout.
const piece = 64 << 10

// WriteFrames writes events. It fails with stream.ErrStuck when the client
// takes nothing for timeout.
func (c *Conn) WriteFrames(bufs [][]byte, release func(spilled bool), timeout time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.write(bufs, timeout)
	if release != nil {
		release(false)
	}
	return err
}

var errOver = errors.New("the stream is over")

// write writes and flushes. mu is held.
func (c *Conn) write(bufs [][]byte, timeout time.Duration) error {
	for _, b := range bufs {
		for len(b) > 0 {
			part := b[:min(len(b), piece)]
			b = b[len(part):]
			if err := c.writePart(part, timeout); err != nil {
				return err
			}
		}
	}
	c.wrote = time.Now()
	return nil
}

func (c *Conn) writePart(p []byte, timeout time.Duration) error {
	if err := c.ctl.SetWriteDeadline(time.Now().Add(timeout)); err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	select {
	case <-c.done: // looked at after the deadline is set, which end may have shortened
		return errOver
	default:
	}
	_, err := c.w.Write(p)
	if err == nil {
		err = c.ctl.Flush()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.stuck = true
		return fmt.Errorf("write events: %w", stream.ErrStuck)
	}
	if err != nil {
		return fmt.Errorf("write events: %w", err)
	}
	return nil
}

// sayTimeout bounds what this package itself writes, lastTimeout what is being
// written when the stream ends.
const (
	sayTimeout  = 5 * time.Second
	lastTimeout = time.Second
)

// say writes an event, unless somebody is writing: then it is not needed, or
// could not be heard.
func (c *Conn) say(event string) {
	if !c.mu.TryLock() {
		return
	}
	defer c.mu.Unlock()
	if err := c.write([][]byte{[]byte(event)}, sayTimeout); err != nil {
		c.end(stream.CloseGoingAway, err.Error())
	}
}

// beat writes a heartbeat if nothing was written for so long, and returns how
// long ago that is.
func (c *Conn) beat(now time.Time, every time.Duration) time.Duration {
	if !c.mu.TryLock() {
		return 0
	}
	silent := now.Sub(c.wrote)
	c.mu.Unlock()
	if silent < every {
		return silent
	}
	c.say("event: heartbeat\ndata: " + strconv.FormatInt(now.Unix(), 10) + "\n\n")
	return 0
}

// settle waits until nobody writes any more. The stream is over.
func (c *Conn) settle() {
	c.mu.Lock()
	defer c.mu.Unlock()
}

// Close ends the stream after what is being written, for which the client has a
// moment. The code and the reason are for the log: to the client the body ends.
func (c *Conn) Close(code stream.CloseCode, reason string) error {
	c.end(code, reason)
	return nil
}

// left says that the request is over: the client has left, unless it is over
// because a write failed that ran out of time, whose writer knows more. It waits
// for a write under way.
func (c *Conn) left() {
	c.mu.Lock()
	stuck := c.stuck
	c.mu.Unlock()
	if !stuck {
		c.end(stream.CloseGoingAway, "the client has left")
	}
}

// CloseNow ends the stream.
func (c *Conn) CloseNow() { c.end(stream.CloseAbnormal, "connection lost") }

func (c *Conn) end(code stream.CloseCode, reason string) {
	c.endMu.Lock()
	defer c.endMu.Unlock()
	if c.why == nil {
		c.why = &stream.CloseError{Code: code, Reason: reason}
		_ = c.ctl.SetWriteDeadline(time.Now().Add(lastTimeout)) // where there are none, a write fails itself
		close(c.done)
	}
}
