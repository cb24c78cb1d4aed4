package upstream

import (
	"context"
	"fmt"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/daemon"
)

// Tails is what a tail link serves: the hub of package fanout.
type Tails interface {
	// Connected says that the Doppler at addr has said hello; wake is called
	// when Watch has something.
	Connected(addr string, hello *streampb.Hello, wake func()) error
	// Watch returns what to send next, or nil.
	Watch(addr string) *streampb.Watch
	// Batch takes what the Doppler has said. Nothing of it is kept.
	Batch(addr string, b *streampb.Batch, records []byte) error
	// Disconnected says that the connection is gone.
	Disconnected(addr string)
}

// Links keeps a tail link to each Doppler.
type Links struct {
	Dialer *Dialer
	Tails  Tails
	Name   string // of this Traffic Controller
	Log    *daemon.QuietEach
	// Session is of this process.
	Session stream.Session

	up      atomic.Int64
	linked  sync.Map     // addresses whose link is connected
	waiting atomic.Int64 // addresses that have not been tried yet
}

// Up is how many links are connected.
func (l *Links) Up() int { return int(l.up.Load()) }

// Linked tells whether the link to addr is connected.
func (l *Links) Linked(addr string) bool {
	_, ok := l.linked.Load(addr)
	return ok
}

// Expect says that Follow will be called for a new address.
func (l *Links) Expect() { l.waiting.Add(1) }

// Tried tells whether every address that was expected has been dialed once. A
// Doppler that is linked later than a tail came is taken for a new one, all of
// which the tail wants to have; so tails should not come before.
func (l *Links) Tried() bool { return l.waiting.Load() <= 0 }

// refusedWait is how long to leave a Doppler alone that does not want us. It
// may be replaced by one that does.
const refusedWait = 10 * time.Second

// Follow keeps the link to addr until ctx ends.
func (l *Links) Follow(ctx context.Context, addr string) {
	link := &tailLink{of: l, addr: addr}
	log := l.Log.Of(addr)
	f := &link.follower
	*f = stream.Follower{
		Dial: func(ctx context.Context) (*stream.Conn, error) {
			return l.Dialer.Stream(ctx, addr, stream.PathTails, url.Values{"user": {l.Name}, "session": {l.Session.String()}})
		},
		Opened: link.opened, Message: link.message, Closed: link.closed,
		IdleTimeout: IdleTimeout, Logger: log,
	}
	for {
		err := f.Run(ctx)
		if ctx.Err() != nil {
			break
		}
		log.Error("Doppler refuses the tail link", "error", err, "retry_in", refusedWait)
		select {
		case <-time.After(refusedWait):
		case <-ctx.Done():
		}
	}
	link.once()
}

// tailLink is one connection after the other to one Doppler.
type tailLink struct {
	of   *Links
	addr string

	follower stream.Follower

	tried bool
	batch streampb.Batch // scratch of message
	hello bool
	wake  chan struct{}
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// once notes that the address has been tried.
func (t *tailLink) once() {
	if !t.tried {
		t.tried = true
		t.of.waiting.Add(-1)
	}
}

func (t *tailLink) opened(ctx context.Context, c *stream.Conn) error {
	t.hello, t.wake = false, make(chan struct{}, 1)
	inner, stop := context.WithCancel(ctx)
	t.stop = stop
	wake := t.wake
	t.wg.Go(func() { t.send(inner, c, wake) })
	return nil
}

// send sends watches as they come.
func (t *tailLink) send(ctx context.Context, c *stream.Conn, wake <-chan struct{}) {
	var out []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		for w := t.of.Tails.Watch(t.addr); w != nil; w = t.of.Tails.Watch(t.addr) {
			var err error
			out, err = stream.AppendControl(out[:0], &streampb.Control{Message: &streampb.Control_Watch{Watch: w}})
			if err == nil {
				err = c.Send(ctx, out)
			}
			if err != nil {
				c.CloseNow()
				return
			}
		}
	}
}

func (t *tailLink) message(_ *stream.Conn, b *stream.Buffer) error {
	defer b.Release()
	meta, records, err := stream.SplitBatch(b.Bytes())
	if err != nil {
		return fmt.Errorf("tail link: %w", err)
	}
	if err := stream.UnmarshalMeta(meta, &t.batch); err != nil {
		return fmt.Errorf("tail link: %w", err)
	}
	if !t.hello {
		wake := t.wake
		signal := func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
		err := t.of.Tails.Connected(t.addr, t.batch.GetHello(), signal)
		if err != nil {
			return fmt.Errorf("tail link: %w", err)
		}
		t.hello = true
		t.follower.Greeted(t.batch.GetHello())
		t.of.up.Add(1)
		t.of.linked.Store(t.addr, nil)
		t.once()
		signal()
		return nil
	}
	if err := t.of.Tails.Batch(t.addr, &t.batch, records); err != nil {
		return fmt.Errorf("tail link: %w", err)
	}
	return nil
}

func (t *tailLink) closed(error) {
	t.once()
	if t.stop != nil {
		t.stop()
		t.wg.Wait()
		t.stop = nil
	}
	if t.hello {
		t.hello = false
		t.of.up.Add(-1)
		t.of.linked.Delete(t.addr)
		t.of.Tails.Disconnected(t.addr)
	}
}
