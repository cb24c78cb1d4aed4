package soak

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/load"
)

const (
	// longestVisit is how long a client stays at most.
	longestVisit = time.Second
	// subscriptions is how many names the visitors of the Firehose have: each
	// lingers for a while.
	subscriptions = 50
	visitors      = 200 // at the same time, at most
)

// visit is one client that comes and goes. It returns an error when it was not
// taken, or did not get what it came for.
type visit func(ctx context.Context, c *churn) error

// kinds of visits, by what the table calls them.
var kinds = []struct {
	name string
	visit
}{
	{"tail, batches", batches(func(c *churn) string { return "/apps/" + c.source() + "/stream?recent=10" })},
	{"tail, old framing", old(func(c *churn) string { return "/apps/" + c.source() + "/stream" })},
	{"Firehose, batches", batches(func(c *churn) string { return "/firehose/" + c.subscription() + "?ack=client" })},
	{"Firehose, old framing", old(func(c *churn) string { return "/firehose/" + c.subscription() })},
	{"/v2/read", readEvents},
	{"half a handshake", halfHandshake},
}

// churn makes the visits.
type churn struct {
	addr  string // of the Traffic Controller
	plan  load.Plan
	came  []atomic.Uint64 // by kind
	seats chan struct{}
	all   sync.WaitGroup
}

func newChurn(addr string, plan load.Plan) *churn {
	return &churn{addr: addr, plan: plan, came: make([]atomic.Uint64, len(kinds)), seats: make(chan struct{}, visitors)}
}

func (c *churn) source() string { return c.plan.SourceID(rand.IntN(c.plan.Sources)) }

func (c *churn) subscription() string { return fmt.Sprintf("visitor-%d", rand.IntN(subscriptions)) }

// run makes n visits, evenly spread over d.
func (c *churn) run(ctx context.Context, t *testing.T, n int, d time.Duration) {
	began := time.Now()
	for i := range n {
		if wait := d*time.Duration(i)/time.Duration(n) - time.Since(began); wait > 0 {
			time.Sleep(wait)
		}
		if ctx.Err() != nil || t.Failed() {
			break
		}
		c.seats <- struct{}{}
		c.all.Go(func() {
			defer func() { <-c.seats }()
			kind := i % len(kinds)
			if err := kinds[kind].visit(ctx, c); err != nil {
				t.Errorf("%s: %v", kinds[kind].name, err)
			}
			c.came[kind].Add(1)
		})
	}
	c.all.Wait()
}

func (c *churn) total() (n uint64) {
	for i := range c.came {
		n += c.came[i].Load()
	}
	return n
}

func batches(path func(*churn) string) visit {
	return func(ctx context.Context, c *churn) error {
		return webSocket(ctx, "ws://"+c.addr+path(c), stream.Subprotocol)
	}
}

func old(path func(*churn) string) visit {
	return func(ctx context.Context, c *churn) error { return webSocket(ctx, "ws://"+c.addr+path(c), "") }
}

// webSocket stays for a while. One visitor in three reads nothing, and half of
// them go without a word.
func webSocket(ctx context.Context, address, subprotocol string) error {
	conn, err := stream.Dial(ctx, address, stream.DialOptions{Subprotocol: subprotocol})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	until, cancel := context.WithTimeout(ctx, rand.N(longestVisit))
	defer cancel()
	for reads := rand.IntN(3) > 0; reads && err == nil; {
		var b *stream.Buffer
		if b, err = conn.Read(until); err == nil {
			b.Release()
		}
	}
	<-until.Done()
	if err != nil && !errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return err
	}
	if rand.IntN(2) == 0 {
		_ = conn.Close(stream.CloseNormal, "") // it may be closed by a read that was given up
	}
	return nil
}

// readEvents reads Server-Sent Events for a while.
func readEvents(ctx context.Context, c *churn) error {
	until, cancel := context.WithTimeout(ctx, rand.N(longestVisit))
	defer cancel()
	address := "http://" + c.addr + "/v2/read?log&source_id=" + url.QueryEscape(c.source()) + "&shard_id=" + c.subscription()
	req, err := http.NewRequestWithContext(until, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		if until.Err() != nil {
			return nil // it had no time to answer
		}
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, _ = io.Copy(io.Discard, resp.Body) // until its time is over
	return nil
}

// halfHandshake breaks off in the middle of a request.
func halfHandshake(ctx context.Context, c *churn) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	request := "GET /firehose/" + c.subscription() + " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
	if _, err := io.Copy(conn, io.LimitReader(strings.NewReader(request), int64(rand.IntN(len(request))))); err != nil {
		return err
	}
	time.Sleep(rand.N(longestVisit / 4))
	if tcp, ok := conn.(*net.TCPConn); ok && rand.IntN(2) == 0 {
		return tcp.SetLinger(0)
	}
	return nil
}
