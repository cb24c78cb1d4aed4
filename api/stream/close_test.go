package stream

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// busy is what a machine with other work may add: less than a peer that is waited
// for in vain would.
const busy = 5 * time.Second

// TestCloseCodes has either side close with every code; the other has to see
// it, and both ends have to end.
func TestCloseCodes(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		for code := range closeNames {
			if !code.sendable() {
				continue
			}
			server, client := pair(AcceptOptions{}, DialOptions{})
			closer, other := server, client
			if code%2 == 0 {
				closer, other = client, server
			}
			_, own := pump(closer)
			_, end := pump(other)
			if err := closer.Close(code, "because"); err != nil {
				t.Errorf("%v: %v", code, err)
			}
			var closed *CloseError
			if err := within(t, end); !errors.As(err, &closed) || *closed != (CloseError{code, "because"}) {
				t.Errorf("%v: other side got %v", code, err)
			}
			if err := within(t, own); !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v: own read got %v", code, err)
			}
			within(t, other.Done())
			if err := other.Close(code, ""); err != nil {
				t.Errorf("closing what is closed: %v", err)
			}
		}
	})
}

// TestCloseWithoutReader has nobody read on the closing side; Close does it.
func TestCloseWithoutReader(t *testing.T) {
	server, client := pair(t, AcceptOptions{}, DialOptions{})
	write(t, server, append(AppendFrameHeader(nil, 3), "abc"...))
	messages, end := pump(server)
	for range 3 {
		if err := client.Send(t.Context(), []byte("x")); err != nil {
			t.Fatal(err)
		}
		within(t, messages)
	}
	began := time.Now()
	if err := client.Close(CloseNormal, ""); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > closeTimeout+busy {
		t.Errorf("took %v though the peer answers", took)
	}
	var closed *CloseError
	if err := within(t, end); !errors.As(err, &closed) {
		t.Error(err)
	}
}

// TestBothClose has both sides close at once.
func TestBothClose(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		for range 10 {
			server, client := pair(AcceptOptions{}, DialOptions{})
			_, end := pump(server)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { _ = server.Close(CloseGoingAway, "") })
				wg.Go(func() { _ = client.Close(CloseNormal, "") })
			}
			wg.Wait()
			within(t, end)
			within(t, server.Done())
			within(t, client.Done())
		}
	})
}

// stuffed has a server with a write that waits, for the peer does not read.
func stuffed(t *testing.T, server *Conn, timeout time.Duration) (written int, end <-chan error) {
	t.Helper()
	e := make(chan error, 1)
	frame := NewBuffer(100_000)
	for {
		done := make(chan error, 1)
		go func() { done <- server.WriteFrames([][]byte{frame.Frame()}, nil, timeout) }()
		written++
		var err error
		waiting := false
		eventually(t, func() bool {
			select {
			case err = <-done:
				return true
			default:
				since := server.blocked.Load()
				waiting = since != 0 && time.Since(time.Unix(0, since)) > longWrite
				return waiting
			}
		})
		if waiting {
			go func() {
				e <- <-done
				frame.Release()
			}()
			return written, e
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestCloseBlockedWriter closes a connection whose peer does not read: within a
// second, and when the peer reads again it gets every frame and the code.
func TestCloseBlockedWriter(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		server, client := pair(AcceptOptions{SocketBuffer: 64 << 10}, DialOptions{})
		_, own := pump(server)
		written, end := stuffed(t, server, time.Minute)
		began := time.Now()
		if err := server.Close(CloseDraining, "elsewhere"); err != nil {
			t.Errorf("close: %v", err)
		}
		if took := time.Since(began); took > time.Second+busy {
			t.Errorf("close took %v", took)
		}
		if err := within(t, end); err != nil {
			t.Errorf("the blocked write: %v", err)
		}
		within(t, own)
		expectAll(t, client, written, CloseError{CloseDraining, "elsewhere"})
	})
}

// expectAll reads what stuffed has written, and the close after it.
func expectAll(t *testing.T, client *Conn, written int, want CloseError) {
	t.Helper()
	for i := range written {
		b, err := client.Read(t.Context())
		if err != nil {
			t.Fatalf("frame %d of %d: %v", i, written, err)
		}
		b.Release()
	}
	_, err := client.Read(t.Context())
	var closed *CloseError
	if !errors.As(err, &closed) || *closed != want {
		t.Errorf("the end: %v", err)
	}
}

// TestStuckWriter is a write whose peer takes nothing for its timeout: the
// connection can still be closed with a code, which comes after everything.
func TestStuckWriter(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		server, client := pair(AcceptOptions{SocketBuffer: 64 << 10}, DialOptions{})
		_, own := pump(server)
		written, end := stuffed(t, server, 150*time.Millisecond)
		if err := within(t, end); !errors.Is(err, ErrStuck) {
			t.Errorf("write: %v", err)
		}
		if err := server.WriteFrames([][]byte{{1}}, nil, time.Minute); !errors.Is(err, ErrStuck) {
			t.Errorf("another write: %v", err)
		}
		if err := server.Close(CloseStuck, "took nothing for 150 ms"); err != nil {
			t.Errorf("close: %v", err)
		}
		within(t, own)
		expectAll(t, client, written, CloseError{CloseStuck, "took nothing for 150 ms"})
	})
}

// TestSlowReaderIsNotStuck takes long for a message, but goes on.
func TestSlowReaderIsNotStuck(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{})
	const size, timeout = 4 << 20, 300 * time.Millisecond
	done := make(chan error, 1)
	began := time.Now()
	go func() {
		b := NewBuffer(size)
		defer b.Release()
		done <- server.WriteFrames([][]byte{b.Frame()}, nil, timeout)
	}()
	for time.Since(began) < 3*timeout {
		if _, err := io.ReadFull(nc, make([]byte, 128<<10)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(timeout / 8) // the slowness is the test
	}
	go func() { _, _ = io.Copy(io.Discard, nc) }()
	if err := within(t, done); err != nil {
		t.Error(err)
	}
}

// TestCloseDeafPeer closes connections whose peer neither reads nor answers,
// and those with a peer that answers with data.
func TestCloseDeafPeer(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{})
	began := time.Now()
	if err := server.Close(CloseGoingAway, "bye"); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > time.Second+busy {
		t.Errorf("took %v", took)
	}
	expectClose(t, nc, CloseGoingAway, "bye")

	server, nc = rawClient(t, AcceptOptions{})
	stop := make(chan struct{})
	go func() {
		for {
			if _, err := nc.Write(bin("more")); err != nil {
				close(stop)
				return
			}
		}
	}()
	began = time.Now()
	_ = server.Close(CloseGoingAway, "bye")
	if took := time.Since(began); took > time.Second+busy {
		t.Errorf("took %v with a peer that talks", took)
	}
	within(t, stop)
}

// TestCloseNow ends everything under way at once.
func TestCloseNow(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		server, _ := pair(AcceptOptions{}, DialOptions{})
		_, own := pump(server)
		_, end := stuffed(t, server, time.Minute)
		ping := make(chan error, 1)
		go func() { ping <- server.Ping(t.Context()) }()
		began := time.Now()
		server.CloseNow()
		for _, ch := range []<-chan error{own, end, ping} {
			if err := within(t, ch); !errors.Is(err, net.ErrClosed) {
				t.Errorf("ended with %v", err)
			}
		}
		if took := time.Since(began); took > closeTimeout+busy {
			t.Errorf("took %v", took)
		}
		if _, err := server.Read(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
		server.CloseNow()
	})
}

// TestPongWhileBlocked has a ping come while a write waits: it is answered
// after the frame, and reading goes on meanwhile.
func TestPongWhileBlocked(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{})
	messages, _ := pump(server)
	written, end := stuffed(t, server, time.Minute)
	for _, p := range [][]byte{clientFrame(fin(opPing), []byte("old")), clientFrame(fin(opPing), []byte("new")), bin("data")} {
		if _, err := nc.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if got := within(t, messages); string(got) != "data" {
		t.Errorf("message %q", got)
	}
	for range written {
		if op, p, err := readFrame(nc); err != nil || op != opBinary || len(p) != 100_000 {
			t.Fatalf("%#x, %d bytes, %v", op, len(p), err)
		}
	}
	if op, p, err := readFrame(nc); err != nil || op != opPong || string(p) != "new" {
		t.Errorf("%#x %q, %v; want the pong of the last ping", op, p, err)
	}
	if err := within(t, end); err != nil {
		t.Error(err)
	}
}

func TestCloseCodeWords(t *testing.T) {
	for _, test := range []struct {
		code      CloseCode
		text      string
		reconnect bool
	}{
		{CloseNormal, "1000 normal", true},
		{CloseGoingAway, "1001 going away", true},
		{CloseProtocol, "1002 protocol error", false},
		{CloseAbnormal, "1006 connection lost", true},
		{ClosePolicy, "1008 policy", true},
		{CloseTooBig, "1009 message too big", false},
		{CloseStuck, "4001 stuck reader", true},
		{CloseOverLimit, "4002 over limit", true},
		{CloseBadMessage, "4003 bad client message", false},
		{CloseDraining, "4004 draining", true},
		{4999, "4999", true},
	} {
		if got := test.code.String(); got != test.text {
			t.Errorf("%d is %q", test.code, got)
		}
		if got := test.code.Reconnect(); got != test.reconnect {
			t.Errorf("%v: reconnect %v", test.code, got)
		}
	}
	e := &CloseError{CloseStuck, "lag 17"}
	if got := e.Error(); !strings.Contains(got, "4001 stuck reader: lag 17") {
		t.Error(got)
	}
}
