package trafficcontroller

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/fanout"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/relay"
)

// openFirehose hands a connection to the relay.
func (t *TrafficController) openFirehose(conn *stream.Conn, q api.FirehoseQuery, done func()) error {
	pings, framing, of := t.pings, (*relay.Framing)(nil), classFirehose
	if q.Old {
		pings, framing, of = t.oldPings, relay.OldFraming(t.cfg.SlowTimeout), classFirehoseOld
	}
	pings.Add(conn)
	hold := t.access.hold(q.Leave, conn)
	err := t.relay.Open(conn, relay.Options{
		Access: firstAccess(hold), Token: func(c *relay.Client, token string) { renew(hold, token, c.Tell) },
		Subscription: q.Subscription, Query: q.Selectors, Cursor: q.Cursor, Session: q.Session, Acking: q.Acking, Framing: framing,
		Slow: t.cfg.Slow[of], Who: whoIs(of, q.Client), Remote: q.Remote,
		Closed: func(row relay.Row, err error) {
			hold.Release()
			pings.Remove(conn)
			t.relayClosed("firehose", of, http.StatusSwitchingProtocols, q.Client, row, stream.CloseOf(conn.Said(), err))
			done()
		},
	})
	if err != nil {
		hold.Release()
		pings.Remove(conn)
	}
	return err
}

// relayClosed is for streams that were the relay's.
func (t *TrafficController) relayClosed(kind string, of class, status int, c api.Client, row relay.Row, why stream.CloseError) {
	t.streamClosed(over{
		kind: kind, class: of, status: status, client: c, opened: row.Opened, cut: row.Cut, row: t.relayRow(row),
		what: slog.String("subscription", row.Options.Subscription),
	}, why)
}

// tails are the open tail connections.
type tails struct {
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
	pings := t.pings
	if q.Old {
		pings = t.oldPings
	}
	pings.Add(conn) // to old clients a ping comes first
	tail := t.hub.Open(conn, tailOptions(q))
	if t.tails.open == nil {
		t.tails.open = map[*fanout.Tail]*stream.Conn{}
	}
	t.tails.open[tail] = conn
	hold := t.access.hold(q.Leave, conn)
	tellEnd := func() {
		if a := firstAccess(hold); a != nil {
			tail.Tell(a)
		}
	}
	tellEnd()
	hold.OnEnd(tellEnd)
	t.tails.wg.Add(1)
	go func() {
		defer t.tails.wg.Done()
		defer hold.Release()
		err := discard(conn, q.Old, func(token string) { renew(hold, token, tail.Tell) })
		pings.Remove(conn)
		t.closeTail(tail, conn, q.Client, err)
		done()
	}()
	return nil
}

func tailOptions(q api.TailQuery) fanout.Options {
	if q.Old {
		return fanout.Options{Source: q.Source, Filter: fanout.NewFilter(fanout.OldMask, nil), Old: true, Who: whoIs(classTailOld, q.Client)}
	}
	return fanout.Options{
		Source: q.Source, Filter: fanout.NewFilter(q.Mask, q.Names), Newest: q.Recent, Whole: q.Whole, Since: q.Since, Cursor: q.Cursor,
		Who: whoIs(classTail, q.Client),
	}
}

// closeTail ends a tail whose connection is over.
func (t *TrafficController) closeTail(tail *fanout.Tail, conn *stream.Conn, client api.Client, err error) {
	row := tail.Row()
	tail.Close()
	why := stream.CloseOf(conn.Said(), err)
	var bad *clientError
	if errors.As(err, &bad) {
		why = stream.CloseError{Code: stream.CloseBadMessage, Reason: bad.Error()}
	}
	if by := tail.Ended(); by != nil {
		why = *by
	}
	_ = conn.Close(why.Code, why.Reason)
	t.tails.mu.Lock()
	delete(t.tails.open, tail)
	t.tails.mu.Unlock()
	t.tails.egress.Add(row.Sent)
	of := classTail
	if row.Options.Old {
		of = classTailOld
	}
	t.streamClosed(over{
		kind: "tail", class: of, status: http.StatusSwitchingProtocols, client: client, opened: row.Opened, cut: row.Cut,
		row: t.tailRow(row), what: slog.String("source_id", row.Options.Source),
	}, why)
}

// discard reads until the connection ends. But for its token, what a tail says is
// not needed: it has nothing to ack. One of the old framing may say anything.
func discard(conn *stream.Conn, old bool, token func(string)) error {
	for {
		b, err := conn.Read(context.Background())
		if err != nil {
			return err
		}
		var said *streampb.Control
		if !old {
			said, err = stream.DecodeControl(b.Bytes())
		}
		b.Release()
		if err != nil {
			return &clientError{err}
		}
		if t := said.GetToken(); t != nil {
			token(t.GetToken())
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
