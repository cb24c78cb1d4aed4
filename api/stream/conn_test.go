package stream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"nhooyr.io/websocket"
)

// sizes of messages around every border there is.
var sizes = []int{0, 1, 125, 126, 127, 4000, 4080, 16367, 16368, 16369, 65535, 65536, 70000, 81894, 81895, 81920, 300000, 1 << 20, 3 << 20}

// overBoth runs a test over TCP and over TLS, with and without our listener.
func overBoth(t *testing.T, test func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn))) {
	t.Run("TCP", func(t *testing.T) {
		test(t, func(a AcceptOptions, d DialOptions) (server, client *Conn) { return pair(t, a, d) })
	})
	t.Run("TLS", func(t *testing.T) {
		test(t, func(a AcceptOptions, d DialOptions) (server, client *Conn) { return pairTLS(t, a, d) })
	})
	t.Run("TLS of another listener", func(t *testing.T) {
		same := func(l net.Listener) net.Listener { return l }
		test(t, func(a AcceptOptions, d DialOptions) (server, client *Conn) { return pairBehind(t, a, d, same) })
	})
}

func TestMessages(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		server, client := pair(AcceptOptions{ReadLimit: 4 << 20}, DialOptions{})
		atServer, _ := pump(server)
		var wg sync.WaitGroup
		defer wg.Wait()
		wg.Go(func() {
			for i, size := range sizes {
				if err := client.Send(t.Context(), pattern(size, byte(i))); err != nil {
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for i, size := range sizes {
				b := NewBuffer(size)
				copy(b.Bytes(), pattern(size, byte(i)))
				f := b.Frame()
				err := server.WriteFrames([][]byte{f[:1], nil, f[1 : len(f)/2], f[len(f)/2:]}, func(bool) { b.Release() }, time.Minute)
				if err != nil {
					t.Error(err)
				}
			}
		})
		for i, size := range sizes {
			if got := within(t, atServer); !bytes.Equal(got, pattern(size, byte(i))) {
				t.Fatalf("client's message %d of %d bytes came as %d others", i, size, len(got))
			}
			b, err := client.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(b.Bytes(), pattern(size, byte(i))) {
				t.Fatalf("server's message %d of %d bytes came as %d others", i, size, b.Len())
			}
			if want := append(AppendFrameHeader(nil, size), pattern(size, byte(i))...); !bytes.Equal(b.Frame(), want) {
				t.Fatalf("message %d of %d bytes has a wrong frame", i, size)
			}
			b.Release()
		}
	})
}

// TestConcurrentWrites has frames, messages, pings and pongs share a
// connection whose reader is slow, so that most writes are cut.
func TestConcurrentWrites(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		const writers, each = 4, 40
		server, client := pair(AcceptOptions{SocketBuffer: 128 << 10}, DialOptions{SocketBuffer: 128 << 10})
		_, end := pump(server)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(w)))
				for i := range each {
					p := pattern(r.IntN(200_000)+2, byte(i))
					p[0], p[1] = byte(w), byte(i)
					var err error
					if i%4 == 0 {
						err = server.Send(t.Context(), p)
					} else {
						released := 0
						err = server.WriteFrames([][]byte{AppendFrameHeader(nil, len(p)), p}, func(bool) { released++; clear(p) }, time.Minute)
						if released != 1 {
							t.Errorf("released %d times", released)
						}
					}
					if err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Go(func() {
			for range 20 {
				if err := server.Ping(t.Context()); err != nil {
					t.Error(err)
				}
				if err := client.Ping(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		next := [writers]int{}
		atClient, _ := pump(client)
		for range writers * each {
			p := within(t, atClient)
			w, i := int(p[0]), int(p[1])
			if i != next[w] || !bytes.Equal(p[2:], pattern(len(p), byte(i))[2:]) {
				t.Fatalf("writer %d: message %d, want %d whole", w, i, next[w])
			}
			next[w]++
		}
		wg.Wait()
		if err := client.Close(CloseNormal, "done"); err != nil {
			t.Error(err)
		}
		var closed *CloseError
		if err := within(t, end); !errors.As(err, &closed) || closed.Code != CloseNormal || closed.Reason != "done" {
			t.Errorf("server's end: %v", err)
		}
	})
}

// TestRelease says when a caller gets its memory back: at once when all is
// taken, and before waiting when not.
func TestRelease(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{SocketBuffer: 64 << 10})
	frame := NewBuffer(32 << 10)
	defer frame.Release()
	var spilled []bool
	for len(spilled) == 0 || !spilled[len(spilled)-1] {
		released := make(chan bool, 2)
		done := make(chan error, 1)
		go func() {
			done <- server.WriteFrames([][]byte{frame.Frame()}, func(s bool) { released <- s }, time.Minute)
		}()
		spilled = append(spilled, within(t, released))
		if !spilled[len(spilled)-1] {
			if err := within(t, done); err != nil {
				t.Fatal(err)
			}
			continue
		}
		select {
		case err := <-done:
			t.Fatalf("a write that spilled has ended though nobody reads: %v", err)
		default:
		}
		go func() { _, _ = io.Copy(io.Discard, nc) }()
		if err := within(t, done); err != nil {
			t.Fatal(err)
		}
	}
	if len(spilled) < 2 {
		t.Error("the first write spilled already")
	}
}

// TestPongAfterLastWrite has a ping come while the socket is full of frames, of
// which the last is written: its pong comes after them.
func TestPongAfterLastWrite(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{SocketBuffer: 64 << 10})
	if server.raw == nil {
		t.Skip("the socket cannot be asked here: writes wait, control frames too")
	}
	frame := append(AppendFrameHeader(nil, 62), pattern(62, 1)...)
	frames := fill(t, server, frame)
	_, end := pump(server)
	if _, err := nc.Write(clientFrame(0x80|byte(opPing), []byte("still there?"))); err != nil {
		t.Fatal(err)
	}
	eventually(t, server.late.any.Load)
	_ = nc.SetReadDeadline(time.Now().Add(20 * time.Second))
	for i := range frames + 1 {
		op, payload, err := readFrame(nc)
		if err != nil {
			t.Fatal(err)
		}
		if last := i == frames; last != (op == opPong) || last && string(payload) != "still there?" {
			t.Fatalf("frame %d of %d: kind %d, %q", i+1, frames+1, op, payload)
		}
	}
	_ = nc.Close()
	within(t, end)
}

// fill writes frames until the socket takes none, and none after a while, which
// the kernel needs to move what it can. It returns how many it has taken.
func fill(t *testing.T, server *Conn, frame []byte) (frames int) {
	t.Helper()
	for refused := 0; refused < 5; {
		switch n, err := tryWrite(server.raw, [][]byte{frame}); {
		case err != nil || n != 0 && n != len(frame):
			t.Fatalf("the socket took %d of %d bytes after %d frames: %v", n, len(frame), frames, err)
		case n == 0:
			refused++
			time.Sleep(20 * time.Millisecond)
		default:
			frames, refused = frames+1, 0
		}
	}
	return frames
}

func TestReadContext(t *testing.T) {
	overBoth(t, func(t *testing.T, pair func(AcceptOptions, DialOptions) (server, client *Conn)) {
		server, client := pair(AcceptOptions{}, DialOptions{})
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := client.Read(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		frame := append(AppendFrameHeader(nil, 40000), pattern(40000, 1)...)
		for _, cut := range []int{0, 1, 3, 4, 10, 20000, 39999} {
			write(t, server, frame[:cut])
			short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			if _, err := client.Read(short); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			cancel()
			write(t, server, frame[cut:])
			again, cancel := context.WithCancel(t.Context())
			b, err := client.Read(again)
			if err != nil || !bytes.Equal(b.Bytes(), pattern(40000, 1)) {
				t.Fatalf("cut at %d, read on: %v", cut, err)
			}
			b.Release()
			cancel() // after the read: hurts nobody
		}
		if err := client.Send(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
}

func write(t *testing.T, c *Conn, p []byte) {
	t.Helper()
	if err := c.WriteFrames([][]byte{p}, nil, time.Minute); err != nil {
		t.Fatal(err)
	}
}

func TestSendContext(t *testing.T) {
	_, client := pair(t, AcceptOptions{SocketBuffer: 8 << 10}, DialOptions{SocketBuffer: 8 << 10})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Send(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	errs := make(chan error, 2)
	live, cancel := context.WithCancel(t.Context())
	for range 2 { // nobody reads: one waits for the socket, the other for the lock
		go func() { errs <- client.Send(live, pattern(1<<20, 0)) }()
	}
	eventually(t, func() bool { return client.blocked.Load() != 0 })
	cancel()
	for range 2 {
		if err := within(t, errs); !errors.Is(err, context.Canceled) {
			t.Errorf("nobody reads: %v", err)
		}
	}
	if err := client.Send(t.Context(), nil); err == nil {
		t.Error("a frame was cut, and another sent")
	}
}

func TestLostConnection(t *testing.T) {
	server, nc := rawClient(t, AcceptOptions{})
	_, end := pump(server)
	_, _ = nc.Write(clientFrame(fin(opBinary), pattern(1000, 0))[:500])
	_ = nc.Close()
	err := within(t, end)
	var closed *CloseError
	if err == nil || errors.As(err, &closed) || errors.Is(err, net.ErrClosed) || IsPermanent(err) {
		t.Errorf("read of a lost connection: %v", err)
	}
	within(t, server.Done())
	if err := server.WriteFrames([][]byte{{1}}, nil, time.Minute); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := server.Ping(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("ping: %v", err)
	}
}

// TestLibraryClient runs the library against our server.
func TestLibraryClient(t *testing.T) {
	url, conns := accepting(t, AcceptOptions{Subprotocols: []string{"a", "b"}, ReadLimit: 4 << 20})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"c", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(-1)
	server := within(t, conns)
	if server.Subprotocol() != "b" {
		t.Errorf("subprotocol %q", server.Subprotocol())
	}
	messages, end := pump(server)
	for i, size := range sizes {
		w, err := ws.Writer(ctx, websocket.MessageBinary) // fragments
		if err != nil {
			t.Fatal(err)
		}
		for _, part := range chop(pattern(size, byte(i)), size/3+1) {
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		got := within(t, messages)
		if !bytes.Equal(got, pattern(size, byte(i))) {
			t.Fatalf("message of %d bytes came wrong", size)
		}
		sent := make(chan error, 1)
		go func() { sent <- server.Send(ctx, got) }()
		if typ, back, err := ws.Read(ctx); err != nil || typ != websocket.MessageBinary || !bytes.Equal(back, got) {
			t.Fatalf("answer of %d bytes came wrong: %v", size, err)
		}
		if err := within(t, sent); err != nil {
			t.Fatal(err)
		}
	}
	ctx = ws.CloseRead(ctx)
	for range 3 {
		if err := ws.Ping(ctx); err != nil {
			t.Fatal(err)
		}
		if err := server.Ping(ctx); err != nil {
			t.Fatal(err)
		}
	}
	// Our close frame may be read by the library's CloseRead; then Close finds the
	// end of the connection in its place.
	if err := ws.Close(4000, "bye"); err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	var closed *CloseError
	if err := within(t, end); !errors.As(err, &closed) || *closed != (CloseError{4000, "bye"}) {
		t.Errorf("end: %v", err)
	}
}

// TestLibraryServer runs our client against the library.
func TestLibraryServer(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{Subprotocol}})
		if err != nil {
			t.Error(err)
			return
		}
		ws.SetReadLimit(-1)
		for {
			typ, p, err := ws.Read(r.Context())
			if err != nil {
				return
			}
			if len(p) == 0 {
				_ = ws.Close(4004, "elsewhere")
				return
			}
			out, err := ws.Writer(r.Context(), typ)
			if err != nil {
				return
			}
			for _, part := range chop(p, len(p)/3+1) {
				_, _ = out.Write(part)
			}
			_ = out.Close()
		}
	}))
	defer srv.Close()
	client := dial(t, srv.URL, DialOptions{Subprotocol: Subprotocol})
	for i, size := range sizes[1:] {
		want := pattern(size, byte(i))
		if err := client.Send(t.Context(), want); err != nil {
			t.Fatal(err)
		}
		b, err := client.Read(t.Context())
		if err != nil || !bytes.Equal(b.Bytes(), want) {
			t.Fatalf("echo of %d bytes: %v", size, err)
		}
		b.Release()
	}
	if err := client.Send(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	_, err := client.Read(t.Context())
	var closed *CloseError
	if !errors.As(err, &closed) || *closed != (CloseError{CloseDraining, "elsewhere"}) {
		t.Errorf("end: %v", err)
	}
}

// TestSteadyStateAllocatesNothing is about batches between our own services.
// Under the race detector pools forget at random.
func TestSteadyStateAllocatesNothing(t *testing.T) {
	stop := tracked.Swap(nil) // tracking allocates
	defer tracked.Store(stop)
	server, client := pair(t, AcceptOptions{}, DialOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, size := range []int{500, 64<<10 + 300} {
		body := pattern(size, 0)
		pieces := [][]byte{AppendFrameHeader(nil, size), body}
		release := func(bool) {}
		round := func() {
			if err := server.WriteFrames(pieces, release, time.Minute); err != nil {
				t.Fatal(err)
			}
			b, err := client.Read(ctx)
			if err != nil {
				t.Fatal(err)
			}
			b.Release()
		}
		round()
		if n := testing.AllocsPerRun(200, round); n >= 1+racing {
			t.Errorf("a message of %d bytes costs %v allocations", size, n)
		}
	}
}

func TestBufferMisuseIsFound(t *testing.T) {
	outer := tracked.Swap(nil)
	defer tracked.Store(outer)
	stop := TrackBuffers()
	lost := NewBuffer(10)
	twice := NewBuffer(20)
	twice.Release()
	twice.Release()
	late := NewBuffer(30)
	late.Release()
	late.Retain()
	fine := NewBuffer(40)
	fine.Retain()
	fine.Release()
	fine.Release()
	text := fmt.Sprint(stop())
	for _, want := range []string{"10 bytes never released", "20 bytes released more often", "30 bytes retained after"} {
		if !strings.Contains(text, want) {
			t.Errorf("not found: %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "40 bytes") {
		t.Errorf("found a fault where is none:\n%s", text)
	}
	if twice.Bytes()[0] != 0xdd {
		t.Error("memory released is not overwritten")
	}
	lost.Release()
	if stop := TrackBuffers(); stop() != nil {
		t.Error("faults are told twice")
	}
}

func TestBufferSizes(t *testing.T) {
	for _, size := range append([]int{239, 240, 241, 1<<20 - room, 1 << 20, 5 << 20}, sizes...) {
		b := NewBuffer(size)
		if b.Len() != size || len(b.Bytes()) != size || b.Cap() < size {
			t.Errorf("%d: %d of %d bytes", size, b.Len(), b.Cap())
		}
		if pooled := b.class != unpooled; pooled != (size+room <= 1<<20) {
			t.Errorf("%d: pooled is %v", size, pooled)
		}
		b.Resize(size / 2)
		if !bytes.HasPrefix(b.Frame(), AppendFrameHeader(nil, size/2)) || len(b.Frame()) != frameHeaderLen(size/2)+size/2 {
			t.Errorf("%d: wrong frame after Resize", size)
		}
		b.Resize(b.Cap() + 1)
		if b.Len() != b.Cap() {
			t.Errorf("%d: Resize beyond Cap gives %d", size, b.Len())
		}
		b.Release()
	}
}
