package stream

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// piped is a server and a client without a network, for tests in virtual time.
// A write waits for its read.
func piped() (server, client *Conn) {
	s, c := net.Pipe()
	return newConn(s, false, DefaultServerReadLimit), newConn(c, true, DefaultClientReadLimit)
}

// inBubble runs a test in virtual time with a KeepAlive that is stopped in the
// end.
func inBubble(t *testing.T, test func(t *testing.T, k *KeepAlive)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		k := NewKeepAlive()
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.Run(ctx)
		}()
		test(t, k)
		cancel()
		<-done
	})
}

func TestKeepAlivePings(t *testing.T) {
	inBubble(t, func(t *testing.T, k *KeepAlive) {
		const conns, minutes = 50, 10
		var all []*Conn
		for range conns {
			server, client := piped()
			k.Add(server)
			k.Add(server) // twice is once
			pump(server)
			pump(client)
			all = append(all, server, client)
		}
		time.Sleep(minutes * time.Minute)
		for i := range conns {
			if n := all[2*i+1].in.heard.Load(); n < minutes*60/15-1 || n > minutes*60/12+1 {
				t.Errorf("%d pings in %d minutes", n, minutes)
			}
			select {
			case <-all[2*i].Done():
				t.Error("closed though it answers")
			default:
			}
		}
		k.Remove(all[0])
		k.Remove(all[0])
		before := all[1].in.heard.Load()
		time.Sleep(time.Minute)
		if all[1].in.heard.Load() != before {
			t.Error("pinged after Remove")
		}
		for _, c := range all {
			c.CloseNow()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		k.mu.Lock()
		defer k.mu.Unlock()
		if n := len(k.due); n != 0 {
			t.Errorf("%d closed connections in care", n)
		}
	})
}

// TestKeepAliveMissedPong has a client that reads and never answers.
func TestKeepAliveMissedPong(t *testing.T) {
	inBubble(t, func(t *testing.T, k *KeepAlive) {
		server, client := piped()
		_, end := pump(server)
		k.Add(server)
		began := time.Now()
		var first time.Duration
		for {
			what, err := client.in.next()
			if err != nil {
				t.Fatal(err)
			}
			if what == gotPing && first == 0 {
				first = time.Since(began)
			}
			if what == gotClose {
				break
			}
		}
		closed, err := parseClosePayload(client.in.control)
		if err != nil || closed.Code != ClosePolicy || closed.Reason != "missed pong: nothing heard for 20 s after a ping" {
			t.Errorf("%+v, %v", closed, err)
		}
		if took := time.Since(began) - first; took < pongTimeout || took > pongTimeout+time.Second {
			t.Errorf("closed %v after the ping", took)
		}
		server.CloseNow()
		client.CloseNow()
		if err := <-end; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
}

// TestOldKeepAlive pings at once, and waits longer for a pong.
func TestOldKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := NewOldKeepAlive()
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			k.Run(ctx)
		}()
		server, client := piped()
		_, end := pump(server)
		k.Add(server)
		began := time.Now()
		if what, err := client.in.next(); what != gotPing || err != nil || time.Since(began) > pingTogether {
			t.Errorf("%v, %v after %v, want a ping at once", what, err, time.Since(began))
		}
		if what, err := client.in.next(); what != gotClose || err != nil {
			t.Errorf("%v, %v, want a close", what, err)
		}
		closed, err := parseClosePayload(client.in.control)
		if err != nil || closed.Code != ClosePolicy || closed.Reason != "Client did not respond to ping before keep-alive timeout expired." {
			t.Errorf("%+v, %v", closed, err)
		}
		if took := time.Since(began); took < 30*time.Second || took > 31*time.Second {
			t.Errorf("closed after %v", took)
		}
		server.CloseNow()
		client.CloseNow()
		<-end
		cancel()
		<-ended
	})
}

// TestKeepAliveWaitsForSlowReader has a client that reads nothing for minutes
// while a write waits for it. That is no missed pong.
func TestKeepAliveWaitsForSlowReader(t *testing.T) {
	inBubble(t, func(t *testing.T, k *KeepAlive) {
		server, client := piped()
		pump(server)
		written := make(chan error, 1)
		b := NewBuffer(10)
		go func() {
			written <- server.WriteFrames([][]byte{b.Frame()}, nil, time.Hour)
			b.Release()
		}()
		time.Sleep(time.Second)
		k.Add(server)
		time.Sleep(3 * time.Minute)
		select {
		case <-server.Done():
			t.Fatal("closed while a write waits")
		case err := <-written:
			t.Fatalf("written to nobody: %v", err)
		default:
		}
		messages, _ := pump(client)
		<-messages
		time.Sleep(3 * time.Minute)
		if err := <-written; err != nil {
			t.Error(err)
		}
		if n := client.in.heard.Load(); n < 10 {
			t.Errorf("%d pings after the wait", n)
		}
		server.CloseNow()
		client.CloseNow()
		synctest.Wait()
	})
}

// TestKeepAliveEnd leaves connections open and waits for those it closes.
func TestKeepAliveEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		k := NewKeepAlive()
		deaf, _ := piped() // its pings are never taken
		k.Add(deaf)
		k.Run(ctx)
		select {
		case <-deaf.Done():
		default:
			t.Error("a connection that takes no ping is open")
		}
	})
}
