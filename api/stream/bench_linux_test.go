package stream

import (
	"context"
	"errors"
	"io"
	"runtime"
	"syscall"
	"testing"
	"time"

	"nhooyr.io/websocket"
)

// The benchmarks of one side have a bare descriptor on the other, served by a
// thread whose CPU time is taken off: cpu-ns/op is what this package costs.
// Loopback makes the sender's kernel do part of the receiver's work.

const batchSize = 64 << 10

// threadTime and processTime are CPU times, user and system.
func threadTime() time.Duration  { return cpuTime(1) } // RUSAGE_THREAD
func processTime() time.Duration { return cpuTime(syscall.RUSAGE_SELF) }

func cpuTime(who int) time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(who, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// besides runs f on a thread of its own and tells how much CPU it took.
func besides(f func()) (wait func() time.Duration) {
	took := make(chan time.Duration)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with f
		began := threadTime()
		f()
		took <- threadTime() - began
	}()
	return func() time.Duration { return <-took }
}

func BenchmarkWriteFrames(b *testing.B) {
	for _, bench := range []struct {
		name   string
		pieces func() [][]byte
	}{
		{"one64KiB", func() [][]byte { return [][]byte{filled(batchSize).Frame()} }},
		{"header+meta+4pieces64KiB", func() [][]byte {
			body := make([]byte, batchSize)
			return [][]byte{AppendFrameHeader(nil, len(body)), body[:60], body[60:10000], body[10000:20000], body[20000:40000], body[40000:]}
		}},
		{"128x500B", func() [][]byte {
			var list [][]byte
			for range 128 {
				list = append(list, filled(500).Frame())
			}
			return list
		}},
		{"one500B", func() [][]byte { return [][]byte{filled(500).Frame()} }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			url, conns := accepting(b, AcceptOptions{})
			fd, err := bareClient(url)
			if err != nil {
				b.Fatal(err)
			}
			c := <-conns
			pieces := bench.pieces()
			wait := besides(func() {
				p := make([]byte, 256<<10)
				for {
					if n, _ := syscall.Read(fd, p); n <= 0 {
						return
					}
				}
			})
			b.ReportAllocs()
			began := processTime()
			for b.Loop() {
				if err := c.WriteFrames(pieces, nil, time.Minute); err != nil {
					b.Fatal(err)
				}
			}
			c.CloseNow()
			peer := wait()
			b.ReportMetric(float64(processTime()-began-peer)/float64(b.N), "cpu-ns/op")
			_ = syscall.Close(fd)
		})
	}
}

// BenchmarkShare writes one small frame to many connections, as a tail's
// fan-out does; an op is one connection.
func BenchmarkShare(b *testing.B) {
	const conns = 100
	url, accepted := accepting(b, AcceptOptions{})
	fds, servers := make([]int, conns), make([]*Conn, conns)
	for i := range conns {
		var err error
		if fds[i], err = bareClient(url); err != nil {
			b.Fatal(err)
		}
		servers[i] = <-accepted
	}
	wait := besides(func() {
		p := make([]byte, 64<<10)
		for open := true; open; {
			open = false
			for _, fd := range fds {
				n, _, err := syscall.Recvfrom(fd, p, syscall.MSG_DONTWAIT)
				open = open || n > 0 || err == syscall.EAGAIN
			}
			t := syscall.NsecToTimespec(1e6)
			_ = syscall.Nanosleep(&t, nil)
		}
	})
	frame := filled(500)
	defer frame.Release()
	pieces := [][]byte{frame.Frame()}
	i := 0
	b.ReportAllocs()
	began := processTime()
	for b.Loop() {
		if err := servers[i%conns].WriteFrames(pieces, nil, time.Minute); err != nil {
			b.Fatal(err)
		}
		i++
	}
	used := processTime() - began
	for _, c := range servers {
		c.CloseNow()
	}
	b.ReportMetric(float64(used-wait())/float64(b.N), "cpu-ns/op")
	for _, fd := range fds {
		_ = syscall.Close(fd)
	}
}

// BenchmarkSend sends what a client has to say, masked.
func BenchmarkSend(b *testing.B) {
	server, client := pair(b, AcceptOptions{}, DialOptions{})
	go func() {
		for {
			m, err := server.Read(context.Background())
			if err != nil {
				return
			}
			m.Release()
		}
	}()
	var msg []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		msg = AppendSent(msg[:0], uint64(i))
		if err := client.Send(b.Context(), msg); err != nil {
			b.Fatal(err)
		}
	}
}

func filled(size int) *Buffer {
	b := NewBuffer(size)
	for i := range b.Bytes() {
		b.Bytes()[i] = byte(i)
	}
	return b
}

// BenchmarkRead reads what comes as fast as it can ("flood"), and a burst of
// 64 KiB every 50 us or so ("paced"). "library" is the library's client on the
// same.
func BenchmarkRead(b *testing.B) {
	for _, bench := range []struct {
		name  string
		size  int
		pause time.Duration
	}{
		{"64KiB/flood", batchSize, 0},
		{"64KiB/paced", batchSize, 50 * time.Microsecond},
		{"500B/flood", 500, 0},
		{"500B/paced", 500, 50 * time.Microsecond},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		b.Run(bench.name+"/own", func(b *testing.B) {
			benchmarkRead(b, bench.size, bench.pause, func(url string) func() error {
				c, err := Dial(ctx, url, DialOptions{})
				if err != nil {
					b.Fatal(err)
				}
				b.Cleanup(c.CloseNow)
				return func() error {
					m, err := c.Read(ctx)
					if err == nil {
						m.Release()
					}
					return err
				}
			})
		})
		b.Run(bench.name+"/library", func(b *testing.B) {
			benchmarkRead(b, bench.size, bench.pause, func(url string) func() error {
				c, _, err := websocket.Dial(ctx, url, nil)
				if err != nil {
					b.Fatal(err)
				}
				c.SetReadLimit(-1)
				b.Cleanup(func() { _ = c.CloseNow() })
				p := make([]byte, bench.size)
				return func() error {
					_, r, err := c.Reader(ctx)
					for err == nil {
						_, err = r.Read(p)
					}
					if errors.Is(err, io.EOF) {
						return nil
					}
					return err
				}
			})
		})
	}
}

func benchmarkRead(b *testing.B, size int, pause time.Duration, dial func(url string) (read func() error)) {
	url, conns := accepting(b, AcceptOptions{})
	read := dial(url)
	c := <-conns
	f, err := c.tcp.File()
	if err != nil {
		b.Fatal(err)
	}
	fd := int(f.Fd()) // blocking from here on
	var stream []byte
	for len(stream) < 64<<10 {
		stream = append(stream, filled(size).Frame()...)
	}
	wait := besides(func() {
		for rest := stream; ; {
			n, err := syscall.Write(fd, rest) // signals make it short
			if err != nil {
				return
			}
			if rest = rest[n:]; len(rest) == 0 {
				rest = stream
				if pause > 0 {
					t := syscall.NsecToTimespec(pause.Nanoseconds())
					_ = syscall.Nanosleep(&t, nil)
				}
			}
		}
	})
	b.ReportAllocs()
	began := processTime()
	for b.Loop() {
		if err := read(); err != nil {
			b.Fatal(err)
		}
	}
	used := processTime() - began
	_ = syscall.Shutdown(fd, syscall.SHUT_RDWR)
	b.ReportMetric(float64(used)/float64(b.N), "both-ns/op")
	b.ReportMetric(float64(used-wait())/float64(b.N), "cpu-ns/op")
	_ = f.Close()
	c.CloseNow()
}
