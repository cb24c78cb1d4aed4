package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
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
// read and write. No Traffic Controller can cost less here.
func bareRelay(ctx context.Context) (nanos float64, err error) {
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
	ends := make(chan struct{}, 2)
	go func() { feed(source); ends <- struct{}{} }()
	go func() {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, sink, make([]byte, relayChunk))
		sink.Close()
		ends <- struct{}{}
	}()
	spent, err := passOn(from, to)
	from.Close()
	to.Close()
	<-ends
	<-ends
	return float64(spent.Nanoseconds()) / (relayChunk * relayChunks) * refBytes, err
}

// tcpPair returns the two ends of a connection over the loopback; the first
// blocks its thread.
func tcpPair(ctx context.Context) (near *os.File, far net.Conn, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, fmt.Errorf("bare relay: %w", err)
	}
	defer l.Close()
	far, err = (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	if err != nil {
		return nil, nil, fmt.Errorf("bare relay: %w", err)
	}
	c, err := l.Accept()
	if err == nil {
		defer c.Close()
		near, err = c.(*net.TCPConn).File()
	}
	if err != nil {
		far.Close()
		return nil, nil, fmt.Errorf("bare relay: %w", err)
	}
	near.Fd() // makes it block
	return near, far, nil
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
func passOn(from, to *os.File) (time.Duration, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
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
