package stream

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"nhooyr.io/websocket"
)

// BenchmarkIdleConn reports what one accepted connection costs that nobody
// uses: heap and stacks of the server, with its reader and its keep-alive. The
// clients are bare descriptors and cost no Go memory.
//
// "library" is the same with the library's own connection, which is why this
// package has its own.
func BenchmarkIdleConn(b *testing.B) {
	b.Run("own", func(b *testing.B) {
		alive := NewKeepAlive()
		measureIdle(b, func(w http.ResponseWriter, r *http.Request) (func(), error) {
			c, err := Accept(w, r, AcceptOptions{Subprotocols: []string{Subprotocol}})
			if err != nil {
				return nil, err
			}
			alive.Add(c)
			go func() {
				_, _ = c.Read(context.Background())
				c.CloseNow()
				alive.Remove(c)
			}()
			return c.CloseNow, nil
		})
	})
	b.Run("library", func(b *testing.B) {
		measureIdle(b, func(w http.ResponseWriter, r *http.Request) (func(), error) {
			c, err := websocket.Accept(w, r, nil)
			if err != nil {
				return nil, err
			}
			go func() { _, _, _ = c.Read(context.Background()) }()
			return func() { _ = c.CloseNow() }, nil
		})
	})
}

const idleConns = 5000

func measureIdle(b *testing.B, accept func(http.ResponseWriter, *http.Request) (closer func(), err error)) {
	var mu sync.Mutex
	var closers []func()
	accepted := make(chan error, idleConns)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		closer, err := accept(w, r)
		mu.Lock()
		closers = append(closers, closer)
		mu.Unlock()
		accepted <- err
	}))
	defer srv.Close()
	for b.Loop() {
		closers = make([]func(), 0, idleConns)
		before := inUse()
		fds := make([]int, idleConns)
		for i := range fds {
			fd, err := bareClient(srv.URL)
			if err != nil {
				b.Fatal(err)
			}
			fds[i] = fd
			if err := <-accepted; err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(inUse()-before)/idleConns, "B/conn")
		for _, closer := range closers {
			closer()
		}
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	}
	b.ReportMetric(0, "ns/op")
}

func inUse() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapInuse + m.StackInuse)
}

// bareClient does a handshake with no Go object left behind.
func bareClient(url string) (fd int, err error) {
	addr, err := netip.ParseAddrPort(strings.TrimPrefix(url, "http://"))
	if err != nil {
		return -1, err
	}
	fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		return -1, err
	}
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(addr.Port()), Addr: addr.Addr().As4()}); err != nil {
		return -1, err
	}
	_, err = syscall.Write(fd, []byte(handshakeRequest))
	if err != nil {
		return -1, err
	}
	var answer [512]byte
	n, err := syscall.Read(fd, answer[:])
	if err == nil && string(answer[:12]) != "HTTP/1.1 101" {
		err = fmt.Errorf("answer %q", answer[:n])
	}
	return fd, err
}
