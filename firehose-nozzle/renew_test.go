package nozzle_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// guard is a server whose tokens end soon: it tells so, and what it is sent.
type guard struct {
	*httptest.Server
	tokens chan string // that came over an open stream
	says   []*streampb.Access
}

// newGuard answers each token with the next of says; not at all, if that is nil.
func newGuard(t *testing.T, says ...*streampb.Access) *guard {
	t.Helper()
	g := &guard{tokens: make(chan string, 10), says: says}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := stream.Accept(w, r, stream.AcceptOptions{Subprotocols: []string{stream.Subprotocol}})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		g.serve(t, conn)
	}))
	t.Cleanup(g.Close)
	return g
}

func (g *guard) serve(t *testing.T, conn *stream.Conn) {
	ctx := context.Background()
	tell := func(b *streampb.Batch) error { return conn.Send(ctx, mustMeta(t, b)) }
	if tell(&streampb.Batch{Hello: &streampb.Hello{Version: stream.Version, Server: "guard"}}) != nil || tell(&streampb.Batch{Access: g.says[0]}) != nil {
		return
	}
	for _, a := range g.says[1:] {
		b, err := conn.Read(ctx)
		if err != nil {
			return
		}
		said, err := stream.DecodeControl(b.Bytes())
		b.Release()
		if err != nil || said.GetToken() == nil {
			t.Errorf("the client says %v, %v", said, err)
			return
		}
		g.tokens <- said.GetToken().GetToken()
		if a != nil && tell(&streampb.Batch{Access: a}) != nil {
			return
		}
	}
	_, _ = conn.Read(ctx)
}

func TestTokenIsRenewed(t *testing.T) {
	soon, never := &streampb.Access{ExpiresInMillis: 1500}, &streampb.Access{}
	g := newGuard(t, soon, soon, &streampb.Access{ExpiresInMillis: 1500, Error: "not that one"}, never)
	var asked atomic.Int64
	refused := make(chan nozzle.Notice, 10)
	n, err := nozzle.Open(t.Context(), nozzle.Config{
		Addr: g.URL, Subscription: "sub",
		Header: func(context.Context) (http.Header, error) {
			switch i := asked.Add(1); i {
			case 3:
				return nil, errors.New("no token today")
			case 4:
				return http.Header{}, nil
			default:
				return http.Header{"Authorization": {fmt.Sprint("bearer ", i)}}, nil
			}
		},
		Notify: func(n nozzle.Notice) {
			if n.Kind == nozzle.TokenRefused {
				refused <- n
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	// The first went with the handshake; after each failure it is tried again.
	for _, want := range []string{"bearer 2", "bearer 5", "bearer 6"} {
		select {
		case got := <-g.tokens:
			if got != want {
				t.Errorf("token %q, not %q", got, want)
			}
		case <-within(t).Done():
			t.Fatalf("no token, where %q was due", want)
		}
	}
	eventually(t, "three failures told", func() bool { return len(refused) == 3 })
	for i, attempt := range []int{1, 2, 3} {
		if n := <-refused; n.Attempt != attempt || (n.Wait > 0) != (i < 2) {
			t.Errorf("notice %d: %+v", i, n)
		}
	}
	if s := n.Status(); s.Connects != 1 || !s.Connected {
		t.Errorf("%+v", s)
	}
}

// A token whose answer does not come does not end renewing.
func TestTokenIsRenewedWithoutAnAnswer(t *testing.T) {
	g := newGuard(t, &streampb.Access{ExpiresInMillis: 1500}, nil, nil, &streampb.Access{})
	n, err := nozzle.Open(t.Context(), nozzle.Config{
		Addr: g.URL, Subscription: "sub",
		Header: func(context.Context) (http.Header, error) {
			return http.Header{"Authorization": {"bearer x"}}, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for range 2 {
		select {
		case <-g.tokens:
		case <-within(t).Done():
			t.Fatal("renewing has ended")
		}
	}
}

func TestWithdrawnIsForGood(t *testing.T) {
	s := newServer(t)
	n := open(t, s, nil)
	if err := s.WaitConnections(within(t), 1); err != nil {
		t.Fatal(err)
	}
	s.Disconnect(stream.CloseWithdrawn, "gone")
	_, err := n.Recv(within(t))
	wantCode(t, err, nozzle.CodeForbidden)
}
