package stream

import (
	"bytes"
	"errors"
	"net"
	"testing"
	"time"
)

// What the socket takes at once is written at once; the rest waits for Finish,
// and everybody else for that.
func TestTryWriteFrames(t *testing.T) {
	for name, pair := range map[string]func(testing.TB, AcceptOptions, DialOptions) (server, client *Conn){"TCP": pair, "TLS": pairTLS} {
		t.Run(name, func(t *testing.T) {
			server, client := pair(t, AcceptOptions{SocketBuffer: 64 << 10}, DialOptions{})
			tryFrames(t, server, client)
		})
	}
}

func tryFrames(t *testing.T, server, client *Conn) {
	_, end := pump(server)
	payload := pattern(100_000, 3)
	frame := append(AppendFrameHeader(nil, len(payload)), payload...)
	written := 0
	var rest *Unwritten
	for rest == nil {
		b := bytes.Clone(frame)
		var ok bool
		var err error
		if rest, ok, err = server.TryWriteFrames([][]byte{b[:3], b[3:]}); !ok || err != nil {
			t.Fatalf("frame %d: ok %v, %v", written, ok, err)
		}
		clear(b) // it is ours again
		written++
	}
	if _, ok, err := server.TryWriteFrames([][]byte{frame}); ok || err != nil {
		t.Errorf("before the rest is finished: ok %v, %v", ok, err)
	}
	messages, _ := pump(client)
	if err := rest.Finish(time.Minute); err != nil {
		t.Fatal(err)
	}
	rest, ok, err := server.TryWriteFrames([][]byte{frame})
	if !ok || err != nil {
		t.Fatalf("after it: ok %v, %v", ok, err)
	}
	if rest != nil {
		if err := rest.Finish(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	for i := range written + 1 {
		if m := within(t, messages); !bytes.Equal(m, payload) {
			t.Fatalf("message %d of %d bytes", i, len(m))
		}
	}
	if err := server.Close(CloseNormal, ""); err != nil {
		t.Error(err)
	}
	within(t, end)
	if _, ok, err := server.TryWriteFrames([][]byte{frame}); ok || err != nil {
		t.Errorf("when closed: ok %v, %v", ok, err)
	}
	if err := server.WriteFrames([][]byte{frame}, nil, time.Minute); !errors.Is(err, net.ErrClosed) {
		t.Errorf("when closed, the other way: %v", err)
	}
}

func TestFinishOfAStuckReader(t *testing.T) {
	server, _ := rawClient(t, AcceptOptions{SocketBuffer: 64 << 10})
	frame := append(AppendFrameHeader(nil, 8<<20), pattern(8<<20, 1)...)
	rest, ok, err := server.TryWriteFrames([][]byte{frame})
	if rest == nil || !ok || err != nil {
		t.Fatalf("rest %v, ok %v, %v", rest, ok, err)
	}
	if err := rest.Finish(50 * time.Millisecond); !errors.Is(err, ErrStuck) {
		t.Errorf("finish: %v", err)
	}
}

func TestTryWriteFramesOverTLS(t *testing.T) {
	server, _ := pairBehind(t, AcceptOptions{}, DialOptions{}, func(l net.Listener) net.Listener { return l })
	if _, ok, err := server.TryWriteFrames([][]byte{{1}}); ok || err != nil {
		t.Errorf("ok %v, %v: the socket cannot be asked", ok, err)
	}
}
