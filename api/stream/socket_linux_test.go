package stream

import (
	"bytes"
	"syscall"
	"testing"
	"time"
)

// TestSocketBuffers finds the kernel's buffers set on both ends, also below
// TLS.
func TestSocketBuffers(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		server, client := pair(AcceptOptions{SocketBuffer: 48 << 10}, DialOptions{SocketBuffer: 40 << 10})
		for _, test := range []struct {
			conn *Conn
			size int
		}{{server, 48 << 10}, {client, 40 << 10}} {
			if snd, rcv := socketBuffers(t, test.conn); snd != 2*test.size || rcv != 2*test.size { // the kernel doubles
				t.Errorf("buffers of %d and %d, want %d", snd, rcv, test.size)
			}
		}
	})
}

func socketBuffers(t *testing.T, c *Conn) (snd, rcv int) {
	t.Helper()
	raw, err := c.tcp.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Control(func(fd uintptr) {
		snd, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF)
		rcv, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
	})
	if err != nil {
		t.Fatal(err)
	}
	return snd, rcv
}

// TestPongWaitsForRoom has a ping come while the socket is full and nobody
// waits for it: the reader does not wait either, and the pong goes out with the
// next write.
func TestPongWaitsForRoom(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{})
	messages, _ := pump(server)
	frame := NewBuffer(10_000)
	defer frame.Release()
	var rest []byte
	frames, full := 0, time.Now()
	for time.Since(full) < 100*time.Millisecond { // what is sent takes a while to arrive
		if len(rest) == 0 {
			rest = frame.Frame()
			frames++
		}
		n, err := tryWrite(server.raw, [][]byte{rest})
		if err != nil {
			t.Fatal(err)
		}
		if rest = rest[n:]; n > 0 {
			full = time.Now()
		}
	}
	if _, err := nc.Write(cat(clientFrame(fin(opPing), []byte("p")), bin("data"))); err != nil {
		t.Fatal(err)
	}
	if got := within(t, messages); string(got) != "data" {
		t.Errorf("message %q", got)
	}
	done := make(chan error, 1)
	go func() { done <- server.WriteFrames([][]byte{rest}, nil, time.Minute) }()
	for range frames {
		if op, p, err := readFrame(nc); err != nil || op != opBinary || !bytes.Equal(p, frame.Bytes()) {
			t.Fatalf("%#x, %d bytes, %v", op, len(p), err)
		}
	}
	if op, p, err := readFrame(nc); err != nil || op != opPong || string(p) != "p" {
		t.Errorf("%#x %q, %v; want the pong", op, p, err)
	}
	if err := within(t, done); err != nil {
		t.Error(err)
	}
}

// TestKeepAlivePingsTCP takes the way that needs no goroutine.
func TestKeepAlivePingsTCP(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{})
	NewKeepAlive().ping(server)
	if op, p, err := readFrame(nc); err != nil || op != opPing || len(p) != 0 {
		t.Errorf("%#x %q, %v; want a ping", op, p, err)
	}
	if server.RemoteAddr().String() != nc.LocalAddr().String() {
		t.Errorf("peer is %v, not %v", server.RemoteAddr(), nc.LocalAddr())
	}
}
