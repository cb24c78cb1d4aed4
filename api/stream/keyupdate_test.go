package stream

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// opensslClient is openssl s_client: unlike Go's TLS it can ask for new keys.
type opensslClient struct {
	in     io.Writer
	out    *bufio.Reader
	update <-chan struct{} // it has sent a key update
}

// startOpenSSL connects to an address whose certificate is given.
func startOpenSSL(t *testing.T, addr string, der []byte) *opensslClient {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "openssl", "s_client", "-brief", "-tls1_3", "-connect", addr, "-CAfile", ca, "-verify_return_error")
	cmd.WaitDelay = time.Second
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, outWriter := io.Pipe()
	said, errWriter := io.Pipe()
	cmd.Stdout, cmd.Stderr = outWriter, errWriter
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	updates := make(chan struct{}, 1)
	var lines sync.WaitGroup
	lines.Go(func() {
		for s := bufio.NewScanner(said); s.Scan(); {
			if s.Text() == "KEYUPDATE" {
				updates <- struct{}{}
			}
		}
	})
	t.Cleanup(func() {
		_ = out.Close() // nobody reads any more
		_ = in.Close()
		_ = cmd.Wait() // its context has ended
		_ = errWriter.Close()
		lines.Wait()
	})
	return &opensslClient{in: in, out: bufio.NewReaderSize(out, 64<<10), update: updates}
}

// shake does the WebSocket handshake.
func (c *opensslClient) shake(t *testing.T) {
	t.Helper()
	c.write(t, []byte(handshakeRequest))
	for switched := false; ; {
		line, err := c.out.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		switched = switched || strings.HasPrefix(line, "HTTP/1.1 101")
		if switched && line == "\r\n" {
			return
		}
	}
}

// write sends p. What was written before has to be read by then, for openssl looks
// for commands only where what it reads begins.
func (c *opensslClient) write(t *testing.T, p []byte) {
	t.Helper()
	if _, err := c.in.Write(p); err != nil {
		t.Fatal(err)
	}
}

// TestKeyUpdates has a client ask for new keys again and again while it is sent
// more than its socket takes: what TLS says by itself has its place among the
// records, and with another order nothing after it could be read.
func TestKeyUpdates(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal(err)
		}
		fmt.Fprintln(os.Stderr, "TestKeyUpdates PROVES NOTHING: openssl is not installed")
		t.Skip(err)
	}
	got := make(chan *Conn, 1)
	srv := httptest.NewUnstartedServer(acceptHandler(t, AcceptOptions{SocketBuffer: 16 << 10}, got))
	srv.Listener = recordListener{srv.Listener}
	cert, _ := certificate(t)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, SessionTicketsDisabled: true}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	client := startOpenSSL(t, srv.Listener.Addr().String(), cert.Certificate[0])
	client.shake(t)
	server := <-got
	replies := countUnasked(server)
	messages, end := pump(server)

	var stop atomic.Bool
	wrote, read := make(chan error, 1), make(chan error, 1)
	go func() { wrote <- writeNumbered(server, &stop) }()
	go func() { read <- readNumbered(client.out) }()
	const rounds = 100
	for i := range rounds {
		client.write(t, clientFrame(fin(opBinary), fmt.Append(nil, i)))
		if m := within(t, messages); string(m) != fmt.Sprint(i) {
			t.Fatalf("message %q, not %d", m, i)
		}
		client.write(t, []byte("K\n"))
		within(t, client.update)
	}
	client.write(t, clientFrame(fin(opBinary), []byte("last")))
	within(t, messages) // the last key update came before
	stop.Store(true)
	if err := within(t, wrote); err != nil {
		t.Error(err)
	}
	_ = server.Close(CloseNormal, "")
	if err := within(t, read); err != nil {
		t.Error(err)
	}
	within(t, end)
	if replies.Load() == 0 { // others came while a message was sealed, and went with it
		t.Error("no new keys by themselves")
	}
}

// countUnasked counts how often TLS writes by itself.
func countUnasked(c *Conn) *atomic.Int64 {
	var n atomic.Int64
	c.records.mu.Lock()
	defer c.records.mu.Unlock()
	tell := c.records.unasked
	c.records.unasked = func() { n.Add(1); tell() }
	return &n
}

// writeNumbered writes numbered messages of 100 kB, and pings, until it is stopped.
func writeNumbered(c *Conn, stop *atomic.Bool) error {
	rest := pattern(100_000, 1)
	for i := uint32(0); !stop.Load(); i++ {
		number := binary.BigEndian.AppendUint32(AppendFrameHeader(nil, 4+len(rest)), i)
		if err := c.WriteFrames([][]byte{number, rest}, nil, time.Minute); err != nil {
			return err
		}
		c.post(opPing, nil)
	}
	return nil
}

// readNumbered reads them until the close frame.
func readNumbered(r io.Reader) error {
	rest := pattern(100_000, 1)
	for n := uint32(0); ; {
		op, p, err := readFrame(r)
		switch {
		case err != nil:
			return fmt.Errorf("after %d messages: %w", n, err)
		case op == opClose && n > 0:
			return nil
		case op == opPing:
			continue
		case op != opBinary || len(p) < 4 || binary.BigEndian.Uint32(p) != n || !bytes.Equal(p[4:], rest):
			return fmt.Errorf("message %d is another: %#x, %d bytes", n, op, len(p))
		}
		n++
	}
}
