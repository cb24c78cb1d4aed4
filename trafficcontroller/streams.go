package trafficcontroller

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/fanout"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/relay"
)

// openFirehose hands a connection to the relay.
func (t *TrafficController) openFirehose(conn *stream.Conn, q api.FirehoseQuery, done func()) error {
	pings, framing := t.pings, (*relay.Framing)(nil)
	if q.Old {
		pings, framing = t.oldPings, relay.OldFraming(t.cfg.SlowTimeout)
	}
	pings.Add(conn)
	err := t.relay.Open(conn, relay.Options{
		Subscription: q.Subscription, Query: q.Selectors, Cursor: q.Cursor, Session: q.Session, Acking: q.Acking, Framing: framing,
		Remote: q.Remote, UserAgent: q.UserAgent,
		Closed: func(row relay.Row, err error) {
			pings.Remove(conn)
			t.logClosed("firehose", http.StatusSwitchingProtocols, q.Client, row.Opened, err,
				slog.String("subscription", row.Subscription), slog.Uint64("bytes", row.Bytes),
				slog.Uint64("envelopes", row.Sent), slog.Uint64("gaps", row.Gaps))
			done()
		},
	})
	if err != nil {
		pings.Remove(conn)
	}
	return err
}

// tails are the open tail connections.
type tails struct {
	slow   atomic.Uint64
	egress atomic.Uint64 // envelopes written to tails that are gone
	wg     sync.WaitGroup

	mu      sync.Mutex
	open    map[*fanout.Tail]*stream.Conn
	stopped bool
}

var errStopping = errors.New("this Traffic Controller is stopping")

// openTail joins a connection to the hub. It costs one goroutine, which reads.
func (t *TrafficController) openTail(conn *stream.Conn, q api.TailQuery, done func()) error {
	t.tails.mu.Lock()
	defer t.tails.mu.Unlock()
	if t.tails.stopped {
		return errStopping
	}
	tail := t.hub.Open(conn, tailOptions(q))
	if t.tails.open == nil {
		t.tails.open = map[*fanout.Tail]*stream.Conn{}
	}
	t.tails.open[tail] = conn
	t.tails.wg.Add(1)
	pings := t.pings
	if q.Old {
		pings = t.oldPings
	}
	pings.Add(conn)
	go func() {
		defer t.tails.wg.Done()
		err := discard(conn, q.Old)
		pings.Remove(conn)
		t.closeTail(tail, conn, q.Client, err)
		done()
	}()
	return nil
}

func tailOptions(q api.TailQuery) fanout.Options {
	if q.Old {
		return fanout.Options{Source: q.Source, Filter: fanout.NewFilter(fanout.OldMask, nil), Old: true, Remote: q.Remote, UserAgent: q.UserAgent}
	}
	return fanout.Options{
		Source: q.Source, Filter: fanout.NewFilter(q.Mask, q.Names), Newest: q.Recent, Whole: q.Whole, Since: q.Since, Cursor: q.Cursor,
		Remote: q.Remote, UserAgent: q.UserAgent,
	}
}

// closeTail ends a tail whose connection is over.
func (t *TrafficController) closeTail(tail *fanout.Tail, conn *stream.Conn, client api.Client, err error) {
	row := tail.Row()
	tail.Close()
	code, reason := stream.CloseNormal, ""
	var bad *clientError
	if errors.As(err, &bad) {
		code, reason = stream.CloseBadMessage, bad.Error()
	}
	_ = conn.Close(code, reason)
	if why := tail.Ended(); why != nil {
		err = why
	}
	t.tails.mu.Lock()
	delete(t.tails.open, tail)
	t.tails.mu.Unlock()
	t.tails.egress.Add(row.Sent)
	t.logClosed("tail", http.StatusSwitchingProtocols, client, row.Opened, err,
		slog.String("source_id", row.Source), slog.Uint64("bytes", row.Bytes),
		slog.Uint64("envelopes", row.Sent), slog.Uint64("gaps", row.Gaps), slog.Uint64("dropped", row.Dropped))
}

// discard reads until the connection ends. What a tail says is not needed: it
// has nothing to ack. One of the old framing may say anything.
func discard(conn *stream.Conn, old bool) error {
	for {
		b, err := conn.Read(context.Background())
		if err != nil {
			return err
		}
		if !old {
			_, err = stream.DecodeControl(b.Bytes())
		}
		b.Release()
		if err != nil {
			return &clientError{err}
		}
	}
}

// clientError is what a client did wrong.
type clientError struct{ error }

// closeAll closes every tail, spread over a time, and waits for them.
func (t *tails) closeAll(code stream.CloseCode, reason string, over time.Duration) {
	t.mu.Lock()
	t.stopped = true
	conns := make([]*stream.Conn, 0, len(t.open))
	for _, c := range t.open {
		conns = append(conns, c)
	}
	t.mu.Unlock()
	pause := over / time.Duration(max(len(conns), 1))
	var wg sync.WaitGroup
	for i, c := range conns {
		if i > 0 {
			<-time.After(pause)
		}
		wg.Go(func() { _ = c.Close(code, reason) })
	}
	wg.Wait()
	t.wg.Wait()
}

// logClosed writes the one line about a connection that is over.
func (t *TrafficController) logClosed(what string, status int, c api.Client, opened time.Time, err error, more ...slog.Attr) {
	code, reason := stream.CloseAbnormal, ""
	var closed *stream.CloseError
	if errors.As(err, &closed) {
		code, reason = closed.Code, closed.Reason
	} else if err != nil {
		reason = err.Error()
	}
	attrs := append([]slog.Attr{
		slog.String("kind", what), slog.String("path", c.Path), slog.String("remote", c.Remote),
		slog.String("forwarded", c.Forwarded), slog.String("user_agent", c.UserAgent), slog.Int("status", status),
		slog.Duration("duration", time.Since(opened)), slog.Int("code", int(code)), slog.String("reason", reason),
	}, more...)
	t.log.LogAttrs(context.Background(), slog.LevelInfo, "stream closed", attrs...)
	if closed != nil && (closed.Code == stream.CloseStuck || strings.HasPrefix(closed.Reason, relay.SlowConsumer)) {
		t.tellSlow(c)
	}
}
