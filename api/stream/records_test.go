package stream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// rawRecords are records over a TCP connection, taken over, and the number of times
// that TLS wrote by itself.
func rawRecords(t *testing.T) (r *records, unasked *int) {
	t.Helper()
	here, there := net.Pipe()
	t.Cleanup(func() { _ = here.Close(); _ = there.Close() })
	r, unasked = &records{Conn: here}, new(int)
	r.takeOver(func() { *unasked++ })
	return r, unasked
}

// Until it is taken over, a connection whose peer takes nothing can be closed.
func TestRecordsCloseABlockedWrite(t *testing.T) {
	here, there := net.Pipe()
	defer there.Close()
	r := &records{Conn: here}
	wrote := make(chan error, 1)
	go func() {
		_, err := r.Write([]byte("hello"))
		wrote <- err
	}()
	if _, err := io.ReadFull(there, make([]byte, 1)); err != nil { // it writes
		t.Fatal(err)
	}
	if err := r.SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
		t.Error(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := within(t, wrote); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the write ended with %v", err)
	}
}

// What TLS writes by itself is bounded: a peer can make it do so.
func TestRecordsNobodyTakes(t *testing.T) {
	r, unasked := rawRecords(t)
	record := pattern(1000, 1)
	written := 0
	for ; written < 1000; written++ {
		if n, err := r.Write(record); errors.Is(err, ErrStuck) && n == 0 {
			break
		} else if n != len(record) || err != nil {
			t.Fatalf("record %d: wrote %d, %v", written, n, err)
		}
	}
	if written*len(record) < maxUnasked || written*len(record) > maxUnasked+2*len(record) || *unasked != written {
		t.Errorf("%d records of %d bytes were kept, and told %d times", written, len(record), *unasked)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := r.Write(record); !errors.Is(err, net.ErrClosed) {
		t.Errorf("written after the end: %v", err)
	}
	if r.kept != nil {
		t.Error("something is kept after the end")
	}
}

// What comes back stays before what was written meanwhile.
func TestRecordsKeepTheirOrder(t *testing.T) {
	r, _ := rawRecords(t)
	want := []byte{}
	for i := range byte(50) {
		p := pattern(1+20*int(i), i)
		if _, err := r.Write(p); err != nil {
			t.Fatal(err)
		}
		want = append(want, p...)
		if i%7 == 3 {
			b := r.taken()
			if _, err := r.Write([]byte{i}); err != nil {
				t.Fatal(err)
			}
			r.back(b)
			want = append(want, i)
		}
	}
	b := r.taken()
	defer b.Release()
	if !bytes.Equal(b.Bytes(), want) {
		t.Error("another order")
	}
}

// heard keeps what was read of a socket.
type heard struct {
	net.Conn
	all []byte
}

func (h *heard) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	h.all = append(h.all, p[:n]...)
	return n, err
}

// lastRecord is how long the last record was.
func (h *heard) lastRecord() (size int) {
	for p := h.all; len(p) >= 5; p = p[5+size:] {
		if size = int(p[3])<<8 | int(p[4]); 5+size > len(p) {
			return -1
		}
	}
	return size
}

// rawTLS is a TLS connection that has done the handshakes by hand, and the socket
// below it.
func rawTLS(t *testing.T, own func(net.Listener) net.Listener) (server *Conn, client *tls.Conn, below *heard) {
	t.Helper()
	got := make(chan *Conn, 1)
	srv := httptest.NewUnstartedServer(acceptHandler(t, AcceptOptions{}, got))
	srv.Listener = own(srv.Listener)
	cert, roots := certificate(t)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	nc, err := net.Dial("tcp", srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	below = &heard{Conn: nc}
	client = tls.Client(below, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"})
	shake(t, client)
	return <-got, client, below
}

// bothListeners is for what TLS says by itself: that has to be the same whoever
// writes it.
func bothListeners(t *testing.T, test func(t *testing.T, own func(net.Listener) net.Listener)) {
	t.Run("ours", func(t *testing.T) { test(t, func(l net.Listener) net.Listener { return recordListener{l} }) })
	t.Run("another", func(t *testing.T) { test(t, func(l net.Listener) net.Listener { return l }) })
}

// Who sends what is not TLS is told so.
func TestFatalAlertIsWritten(t *testing.T) {
	bothListeners(t, func(t *testing.T, own func(net.Listener) net.Listener) {
		for range 20 { // who writes it is a race
			server, client, below := rawTLS(t, own)
			_, end := pump(server)
			if _, err := below.Write(append([]byte{23, 3, 3, 0, 64}, pattern(64, 1)...)); err != nil {
				t.Fatal(err)
			}
			if _, err := client.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "bad record MAC") {
				t.Errorf("the client is told: %v", err)
			}
			if err := within(t, end); !strings.Contains(err.Error(), "bad record MAC") {
				t.Errorf("the server ends with %v", err)
			}
		}
	})
}

// A peer that does not answer a close frame is told all the same that nothing was
// cut off.
func TestCloseNotifyWithoutAnAnswer(t *testing.T) {
	const alert = 2 + 1 + 16 // of TLS 1.3: itself, its type, its tag
	bothListeners(t, func(t *testing.T, own func(net.Listener) net.Listener) {
		server, client, below := rawTLS(t, own)
		closed := make(chan error, 1)
		go func() { closed <- server.Close(CloseDraining, "elsewhere") }()
		expectClose(t, client, CloseDraining, "elsewhere")
		if got := below.lastRecord(); got != alert {
			t.Errorf("the last record has %d bytes, want %d: close_notify", got, alert)
		}
		if err := within(t, closed); err != nil {
			t.Error(err)
		}
	})
}

// taken is what is kept.
func (r *records) taken() *Buffer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.take()
}

// Pieces of all sizes arrive in order, whatever records they share.
func TestEncryptPieces(t *testing.T) {
	server, client := pairTLS(t, AcceptOptions{}, DialOptions{})
	_, end := pump(server)
	messages, _ := pump(client)
	for _, cuts := range [][]int{{}, {1}, {10, 60}, {10, 60, 60 + maxRecord}, {maxRecord - 1, maxRecord, maxRecord + 1}, {5, 40_000, 40_001}} {
		payload := pattern(100_000, byte(len(cuts)))
		frame := append(AppendFrameHeader(nil, len(payload)), payload...)
		bufs, from := [][]byte{}, 0
		for _, at := range slices.Concat(cuts, []int{len(frame)}) {
			bufs = append(bufs, frame[from:at])
			from = at
		}
		if err := server.WriteFrames(bufs, nil, time.Minute); err != nil {
			t.Fatal(err)
		}
		if m := within(t, messages); !bytes.Equal(m, payload) {
			t.Errorf("cut at %v: got something else, %d bytes", cuts, len(m))
		}
	}
	_ = client.Close(CloseNormal, "")
	within(t, end)
}

// A ping over TLS that finds the socket full goes out later, though no other write
// follows; and nothing that was sealed is lost or repeated, which TLS would notice.
func TestPingWhenTheSocketIsFull(t *testing.T) {
	server, client := pairTLS(t, AcceptOptions{SocketBuffer: 64 << 10}, DialOptions{SocketBuffer: 64 << 10})
	if server.raw == nil {
		t.Skip("the socket cannot be asked here: pings wait")
	}
	_, end := pump(server)
	frames := 0
	for refused := 0; refused < 5; {
		server.lock <- struct{}{}
		rest, n, err := server.try([][]byte{append(AppendFrameHeader(nil, 62), pattern(62, 1)...)})
		if err != nil {
			t.Fatalf("the socket took %d bytes: %v", n, err)
		}
		if rest != nil {
			server.records.back(rest)
		}
		<-server.lock
		if frames++; n == 0 {
			refused++
			time.Sleep(20 * time.Millisecond)
		} else {
			refused = 0
		}
	}
	pinged := make(chan error, 1)
	go func() { pinged <- server.Ping(t.Context()) }()
	eventually(t, server.late.any.Load)
	messages, _ := pump(client)
	for i := range frames {
		if m := within(t, messages); !bytes.Equal(m, pattern(62, 1)) {
			t.Fatalf("message %d: %d bytes", i, len(m))
		}
	}
	if err := within(t, pinged); err != nil {
		t.Error(err)
	}
	_ = client.Close(CloseNormal, "")
	if err := within(t, end); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("ended with %v", err)
	}
}
