package bench

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

const (
	relayChunk  = 64 << 10 // what a Doppler puts into a batch
	relayChunks = 1 << 14  // 1 GiB in all
	relayPause  = time.Millisecond
	relayBurst  = 4   // chunks between pauses: about 500,000 envelopes/s
	refBytes    = 503 // the reference envelope as a record of a batch
)

// bareRelay measures what this machine's kernel takes to pass the reference
// envelope on, in batches of 64 KiB, from one TCP connection of the loopback to
// another: nanoseconds of CPU per envelope of a thread that does nothing but
// read and write, with server and client, if set, over TLS. No Traffic Controller
// can cost less here.
func bareRelay(ctx context.Context, server, client *tls.Config) (nanos float64, err error) {
	from, source, err := tcpPair(ctx)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	to, sink, err := tcpPair(ctx)
	if err != nil {
		source.Close()
		return 0, err
	}
	defer to.Close()
	in, out := from, to
	if server != nil {
		in, out = tls.Server(from, server), tls.Server(to, server)
		source, sink = tls.Client(source, client), tls.Client(sink, client)
	}
	ends := make(chan struct{}, 2)
	go func() { feed(source); ends <- struct{}{} }()
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, sink, make([]byte, relayChunk))
		sink.Close()
		ends <- struct{}{}
	}()
	spent, err := passOn(ctx, in, out)
	from.Close()
	to.Close()
	<-ends
	<-ends
	return float64(spent.Nanoseconds()) / (relayChunk * relayChunks) * refBytes, err
}

// tcpPair returns the two ends of a connection over the loopback; the first
// blocks its thread.
func tcpPair(ctx context.Context) (near, far net.Conn, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("bare relay: %w", err)
	}
	defer l.Close()
	far, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, fmt.Errorf("bare relay: %w", err)
	}
	b, err := accepted(l)
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("bare relay: %w", err)
	}
	return b, far, nil
}

func accepted(l net.Listener) (*blocking, error) {
	c, err := l.Accept()
	if err != nil {
		return nil, err
	}
	b := &blocking{Conn: c}
	if b.file, err = c.(*net.TCPConn).File(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	b.file.Fd() // makes it block
	return b, nil
}

// blocking is a connection that blocks its thread.
type blocking struct {
	net.Conn
	file *os.File
}

func (b *blocking) Read(p []byte) (int, error)  { return b.file.Read(p) }
func (b *blocking) Write(p []byte) (int, error) { return b.file.Write(p) }
func (b *blocking) Close() error                { return errors.Join(b.file.Close(), b.Conn.Close()) }

// relayTLS is what bareRelay takes over TLS.
func relayTLS(ctx context.Context) (nanos float64, err error) {
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		return 0, fmt.Errorf("bare relay: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if _, err := mtls.GenerateNamed(dir, false, mtls.NameDoppler, mtls.NameTrafficController); err != nil {
		return 0, fmt.Errorf("bare relay: %w", err)
	}
	server, err := mtls.Server(mtls.SetFiles(dir, mtls.NameDoppler))
	if err != nil {
		return 0, fmt.Errorf("bare relay: %w", err)
	}
	client, err := mtls.Client(mtls.SetFiles(dir, mtls.NameTrafficController), mtls.NameDoppler)
	if err != nil {
		return 0, fmt.Errorf("bare relay: %w", err)
	}
	return bareRelay(ctx, server, client)
}

// feed writes what is relayed, with pauses.
func feed(c net.Conn) {
	defer c.Close()
	chunk := make([]byte, relayChunk)
	pause := time.NewTicker(relayPause)
	defer pause.Stop()
	for i := range relayChunks {
		if i%relayBurst == 0 {
			<-pause.C
		}
		if _, err := c.Write(chunk); err != nil {
			return // passOn tells why
		}
	}
}

// passOn relays everything and returns the CPU time it took.
func passOn(ctx context.Context, from, to net.Conn) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, c := range []net.Conn{from, to} {
		if t, ok := c.(*tls.Conn); ok {
			if err := t.HandshakeContext(ctx); err != nil {
				return 0, fmt.Errorf("bare relay: %w", err)
			}
		}
	}
	began, err := threadTime()
	if err != nil {
		return 0, err
	}
	chunk := make([]byte, relayChunk)
	for range relayChunks {
		if _, err := io.ReadFull(from, chunk); err != nil {
			return 0, fmt.Errorf("bare relay: %w", err)
		}
		if _, err := to.Write(chunk); err != nil {
			return 0, fmt.Errorf("bare relay: %w", err)
		}
	}
	ended, err := threadTime()
	return ended - began, err
}

func threadTime() (time.Duration, error) {
	const thisThread = 1 // RUSAGE_THREAD
	var u syscall.Rusage
	if err := syscall.Getrusage(thisThread, &u); err != nil {
		return 0, fmt.Errorf("bare relay: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
