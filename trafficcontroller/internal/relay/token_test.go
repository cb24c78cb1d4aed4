package relay

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// flood is the connection of a client that has sent many tokens, and whose socket,
// if it is shy, cannot be asked what it takes at once.
type flood struct {
	*stream.Conn
	token  []byte
	tokens int
	shy    bool
}

func (f *flood) Read(ctx context.Context) (*stream.Buffer, error) {
	if f.tokens == 0 {
		return f.Conn.Read(ctx)
	}
	f.tokens--
	b := stream.NewBuffer(len(f.token))
	copy(b.Bytes(), f.token)
	return b, nil
}

func (f *flood) TryWriteFrames(bufs [][]byte) (*stream.Unwritten, bool, error) {
	if f.shy {
		return nil, false, nil
	}
	return f.Conn.TryWriteFrames(bufs)
}

// only returns the one client there is.
func (s *stage) only() *Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.clients {
		return c
	}
	s.t.Fatal("no client")
	return nil
}

func tokenMessage(t *testing.T) []byte {
	t.Helper()
	msg, err := stream.AppendControl(nil, &streampb.Control{Message: &streampb.Control_Token{Token: &streampb.Token{Token: "x"}}})
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

// A client that sends tokens and reads nothing costs no more than one answer
// that waits. When it reads, it gets the answer to its last token.
func TestAnswersToTokensDoNotPileUp(t *testing.T) {
	const tokens = 10_000
	long := strings.Repeat("no", 500) // or the sockets would take all answers
	for name, shy := range map[string]bool{"tried": false, "not to be tried": true} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, func(c *Config) { c.StuckTimeout, c.Heartbeat = time.Minute, time.Minute })
			token := tokenMessage(t)
			s.wrap = func(c *stream.Conn) Conn { return &flood{c, token, tokens, shy} }
			var heard atomic.Int64
			all := make(chan struct{})
			s.opts.Token = func(c *Client, _ string) {
				n := heard.Add(1)
				c.Tell(&streampb.Access{ExpiresInMillis: n, Error: long})
				if n == tokens {
					close(all)
				}
			}
			conn := s.dial()
			select {
			case <-all:
			case <-time.After(patience):
				t.Fatalf("heard %d tokens", heard.Load())
			}
			c := s.only()
			c.mu.Lock()
			n := len(c.queue)
			c.mu.Unlock()
			if n > 0 {
				t.Errorf("%d messages are queued", n)
			}
			next(t, conn) // hello
			answers, last := 0, int64(0)
			for last < tokens {
				b, _ := next(t, conn)
				at := b.GetAccess().GetExpiresInMillis()
				if at <= last {
					t.Fatalf("answer %d after %d", at, last)
				}
				answers, last = answers+1, at
			}
			if answers > tokens/10 {
				t.Errorf("%d answers were written for a client that did not read", answers)
			}
		})
	}
}

// A client that reads each answer gets one to each token, and the first comes
// after hello.
func TestEachTokenIsAnswered(t *testing.T) {
	s := newStage(t, func(c *Config) { c.Heartbeat = time.Minute })
	s.opts.Access = &streampb.Access{ExpiresInMillis: 1}
	heard := int64(1)
	s.opts.Token = func(c *Client, _ string) {
		heard++
		c.Tell(&streampb.Access{ExpiresInMillis: heard})
	}
	c := s.dial()
	if b, _ := next(t, c); b.GetHello() == nil {
		t.Fatalf("first message %v", b)
	}
	for want := int64(1); want < 100; want++ {
		if b, _ := next(t, c); b.GetAccess().GetExpiresInMillis() != want {
			t.Fatalf("answer %v, not %d", b, want)
		}
		if err := c.Send(t.Context(), tokenMessage(t)); err != nil {
			t.Fatal(err)
		}
	}
}

// What was not written waits again, behind hello, unless it is out of date.
func TestPutBack(t *testing.T) {
	first, second := &streampb.Access{ExpiresInMillis: 1}, &streampb.Access{ExpiresInMillis: 2}
	for name, test := range map[string]struct{ told, meanwhile, want *streampb.Access }{
		"no answer":     {},
		"an answer":     {first, nil, first},
		"a newer one":   {first, second, second},
		"the first one": {nil, first, first},
	} {
		t.Run(name, func(t *testing.T) {
			c := &Client{queue: []item{{buf: stream.NewBuffer(3)}}, queued: 3, access: test.told}
			c.batch, _ = c.take(nil)
			if c.access != nil || c.queued != 0 || len(c.queue) != 0 {
				t.Fatalf("left: %v, %d bytes", c.access, c.queued)
			}
			if test.meanwhile != nil {
				c.access = test.meanwhile
			}
			c.putBack()
			if c.access != test.want || len(c.queue) != 1 || c.queued != 3 || len(c.batch) != 0 {
				t.Errorf("waits: %v, %d messages, %d bytes", c.access, len(c.queue), c.queued)
			}
			c.dropQueue()
		})
	}
}
