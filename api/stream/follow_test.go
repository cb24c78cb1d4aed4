package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// script is a server that a Follower dials in virtual time: each dial takes
// the next step, which plays the server, or refuses with an error.
type script struct {
	t     *testing.T
	steps []any // error, or func(server *Conn)
	began time.Time
	dials []time.Duration // when
	serve sync.WaitGroup
}

func (s *script) dial(context.Context) (*Conn, error) {
	s.dials = append(s.dials, time.Since(s.began))
	step := s.steps[min(len(s.dials), len(s.steps))-1]
	if err, refuses := step.(error); refuses {
		return nil, err
	}
	server, client := piped()
	s.serve.Go(func() { step.(func(*Conn))(server) })
	return client, nil
}

// serve answers pings and closes until the client is gone, after doing first.
func serve(first func(c *Conn)) func(*Conn) {
	return func(c *Conn) {
		_, end := pump(c)
		first(c)
		<-end
		c.CloseNow()
	}
}

// pause lasts for d, but not longer than c.
func pause(c *Conn, d time.Duration) {
	select {
	case <-time.After(d):
	case <-c.Done():
	}
}

func say(c *Conn, p string) {
	_ = c.WriteFrames([][]byte{append(AppendFrameHeader(nil, len(p)), p...)}, nil, time.Hour)
}

// follow runs f against s in virtual time, for at most d.
func follow(t *testing.T, s *script, f *Follower, d time.Duration) (err error) {
	synctest.Test(t, func(t *testing.T) {
		s.t, s.began = t, time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		f.Dial = s.dial
		if f.Message == nil {
			f.Message = func(_ *Conn, b *Buffer) error { b.Release(); return nil }
		}
		opens, closes := 0, 0
		opened := f.Opened
		f.Opened = func(ctx context.Context, c *Conn) error {
			opens++
			if opened != nil {
				return opened(ctx, c)
			}
			return nil
		}
		f.Closed = func(err error) {
			closes++
			if err == nil {
				t.Error("closed without an error")
			}
		}
		err = f.Run(ctx)
		s.serve.Wait()
		if closes != len(s.dials) || opens > closes {
			t.Errorf("%d dials, %d opened, %d closed", len(s.dials), opens, closes)
		}
	})
	return err
}

func TestFollowBacksOff(t *testing.T) {
	s := &script{steps: []any{io.EOF}}
	if err := follow(t, s, &Follower{Logger: slog.New(slog.DiscardHandler)}, 5*time.Minute); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if n := len(s.dials); n < 20 || n > 80 {
		t.Errorf("%d dials in 5 minutes", n)
	}
	for i, at := range s.dials[1:] {
		wait := at - s.dials[i]
		if wait < 50*time.Millisecond || wait > 15*time.Second || i == 0 && wait > 150*time.Millisecond {
			t.Errorf("wait %d is %v", i, wait)
		}
	}
}

// TestFollowResetsBackOff has connections that live for a while, and others
// that do not.
func TestFollowResetsBackOff(t *testing.T) {
	lives := func(d time.Duration) func(*Conn) {
		return serve(func(c *Conn) {
			pause(c, d)
			_ = c.Close(CloseGoingAway, "")
		})
	}
	s := &script{steps: []any{io.EOF, io.EOF, io.EOF, io.EOF, io.EOF, io.EOF, io.EOF, io.EOF, lives(time.Second), lives(11 * time.Second), lives(time.Hour)}}
	_ = follow(t, s, &Follower{StableAfter: 10 * time.Second}, 10*time.Minute)
	if len(s.dials) != 11 {
		t.Fatalf("%d dials", len(s.dials))
	}
	if wait := s.dials[9] - s.dials[8] - time.Second; wait < 500*time.Millisecond {
		t.Errorf("after a short connection the wait is %v", wait)
	}
	if wait := s.dials[10] - s.dials[9] - 11*time.Second; wait > 150*time.Millisecond {
		t.Errorf("after a stable connection the wait is %v", wait)
	}
}

func TestFollowHonoursRetryAfter(t *testing.T) {
	refused := fmt.Errorf("dial: %w", &HandshakeError{Status: 429, RetryAfter: 30 * time.Second})
	endless := &HandshakeError{Status: 503, RetryAfter: 24 * time.Hour}
	s := &script{steps: []any{refused, endless, io.EOF}}
	_ = follow(t, s, &Follower{}, 8*time.Minute)
	if wait := s.dials[1] - s.dials[0]; wait < 30*time.Second || wait > 39*time.Second {
		t.Errorf("30 s asked for, waited %v", wait)
	}
	if wait := s.dials[2] - s.dials[1]; wait < maxRetryAfter || wait > maxRetryAfter*5/4+time.Second {
		t.Errorf("a day asked for, waited %v", wait)
	}
}

func TestFollowPermanent(t *testing.T) {
	closes := func(code CloseCode) func(*Conn) {
		return serve(func(c *Conn) { _ = c.Close(code, "") })
	}
	message := serve(func(c *Conn) { say(c, "x") })
	failed := errors.New("failed")
	for _, test := range []struct {
		name string
		step any
		f    Follower
		want func(error) bool
	}{
		{"close code", closes(CloseBadMessage), Follower{}, func(err error) bool {
			var e *CloseError
			return errors.As(err, &e) && e.Code == CloseBadMessage
		}},
		{"handshake", fmt.Errorf("dial: %w", &HandshakeError{Status: 403}), Follower{}, func(err error) bool {
			var e *HandshakeError
			return errors.As(err, &e) && e.Status == 403
		}},
		{"server breaks the contract", serve(func(c *Conn) {
			_ = c.WriteFrames([][]byte{{fin(opText), 1, 'x'}}, nil, time.Second)
		}), Follower{}, func(err error) bool {
			var e *ProtocolError
			return errors.As(err, &e) && e.Code == CloseUnsupported
		}},
		{"marked by Opened", message, Follower{Opened: func(context.Context, *Conn) error { return Permanent(failed) }},
			func(err error) bool { return errors.Is(err, failed) }},
		{"marked by Message", message, Follower{Message: func(_ *Conn, b *Buffer) error { b.Release(); return Permanent(failed) }},
			func(err error) bool { return errors.Is(err, failed) }},
		{"back-off stops", io.EOF, Follower{NewBackOff: func() backoff.BackOff { return &backoff.StopBackOff{} }},
			func(err error) bool { return errors.Is(err, io.EOF) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &script{steps: []any{test.step}}
			if err := follow(t, s, &test.f, time.Hour); !test.want(err) || len(s.dials) != 1 {
				t.Errorf("%d dials, %v", len(s.dials), err)
			}
		})
	}
}

// TestFollowGoesOn has errors that end a connection, not the Follower.
func TestFollowGoesOn(t *testing.T) {
	failed := errors.New("failed")
	codes := make(chan CloseCode, 100)
	message := func(c *Conn) {
		_, end := pump(c)
		say(c, "x")
		var closed *CloseError
		if errors.As(<-end, &closed) {
			codes <- closed.Code
		}
		c.CloseNow()
	}
	for _, f := range []*Follower{
		{Opened: func(context.Context, *Conn) error { return failed }},
		{Message: func(_ *Conn, b *Buffer) error { b.Release(); return failed }},
		{Message: func(_ *Conn, b *Buffer) error { b.Release(); return &ProtocolError{ClosePolicy, "no batch"} }},
	} {
		s := &script{steps: []any{message}}
		if err := follow(t, s, f, time.Minute); !errors.Is(err, context.DeadlineExceeded) || len(s.dials) < 3 {
			t.Errorf("%d dials, %v", len(s.dials), err)
		}
	}
	for len(codes) > 0 {
		if code := <-codes; code != CloseGoingAway && code != ClosePolicy && code != CloseNormal {
			t.Errorf("server was told %v", code)
		}
	}
}

func TestFollowIdle(t *testing.T) {
	const timeout = 10 * time.Second
	silent := serve(func(c *Conn) {
		say(c, "hello")
		pause(c, 25*time.Second) // pings do not count
	})
	s := &script{steps: []any{silent}}
	_ = follow(t, s, &Follower{IdleTimeout: timeout}, 50*time.Second)
	if len(s.dials) != 5 && len(s.dials) != 4 {
		t.Errorf("%d dials in 50 s", len(s.dials))
	}
	for i, at := range s.dials[1:] {
		if lived := at - s.dials[i]; lived < timeout || lived > timeout*17/16+2*time.Second {
			t.Errorf("a silent connection lived %v", lived)
		}
	}
}

// What the server says of its heartbeats counts, not what was thought before.
func TestFollowGreeted(t *testing.T) {
	for _, heartbeat := range []time.Duration{time.Second, 30 * time.Second} {
		s := &script{steps: []any{serve(func(c *Conn) {
			say(c, "hello")
			pause(c, 5*time.Minute)
		})}}
		f := &Follower{IdleTimeout: 10 * time.Second}
		f.Message = func(_ *Conn, b *Buffer) error {
			b.Release()
			f.Greeted(&streampb.Hello{HeartbeatMillis: uint32(heartbeat.Milliseconds())})
			return nil
		}
		_ = follow(t, s, f, 10*MissedHeartbeats*heartbeat)
		if len(s.dials) < 5 {
			t.Fatalf("%d dials", len(s.dials))
		}
		for i, at := range s.dials[1:] {
			lived := at - s.dials[i]
			if least := MissedHeartbeats * heartbeat; lived < least || lived > least*17/16+16*time.Second {
				t.Errorf("silence is expected to last %v, the connection lived %v", heartbeat, lived)
			}
		}
	}
}

// Readers of a server that is lost come back over the time that it has asked
// for, and evenly.
func TestFollowSpread(t *testing.T) {
	const spread = 8 * time.Second
	early := 0
	for range 200 {
		s := &script{steps: []any{serve(func(c *Conn) {
			say(c, "hello")
			c.CloseNow()
		}), serve(func(c *Conn) { pause(c, time.Hour) })}}
		f := &Follower{}
		f.Message = func(_ *Conn, b *Buffer) error {
			b.Release()
			f.Greeted(&streampb.Hello{SpreadMillis: uint32(spread.Milliseconds())})
			return nil
		}
		_ = follow(t, s, f, time.Minute)
		switch wait := s.dials[1] - s.dials[0]; {
		case wait > spread+time.Second:
			t.Fatalf("came back after %v", wait)
		case wait < spread/2:
			early++
		}
	}
	if early < 60 || early > 140 {
		t.Errorf("%d of 200 came in the first half", early)
	}
}

func TestSpread(t *testing.T) {
	for readers, want := range map[int]time.Duration{0: 0, 100: 50 * time.Millisecond, 10_000: 5 * time.Second, 1_000_000: maxSpread} {
		if got := Spread(&streampb.Hello{SpreadMillis: SpreadMillis(readers)}); got != want {
			t.Errorf("%d readers: %v", readers, got)
		}
	}
	if got := Spread(&streampb.Hello{SpreadMillis: 1 << 31}); got != maxSpread {
		t.Errorf("a server can ask for %v", got)
	}
}

// TestFollowIdleNot has a quiet server that says something now and then, and a
// Message that takes long.
func TestFollowIdleNot(t *testing.T) {
	talks := serve(func(c *Conn) {
		for range 20 {
			say(c, "still here")
			pause(c, 8*time.Second)
		}
	})
	s := &script{steps: []any{talks}}
	_ = follow(t, s, &Follower{IdleTimeout: 10 * time.Second}, 150*time.Second)
	if len(s.dials) != 1 {
		t.Errorf("%d dials though the server talks", len(s.dials))
	}
	s = &script{steps: []any{talks}}
	_ = follow(t, s, &Follower{IdleTimeout: 10 * time.Second, Message: func(_ *Conn, b *Buffer) error {
		b.Release()
		time.Sleep(time.Minute)
		return nil
	}}, 100*time.Second)
	if len(s.dials) != 1 {
		t.Errorf("%d dials though messages are being handled", len(s.dials))
	}
}

// TestFollowUnheard has a server that talks and hears nothing, as over a path
// that is dead in one direction. While messages are being handled it may.
func TestFollowUnheard(t *testing.T) {
	const timeout = 8 * time.Second
	deaf := func(c *Conn) {
		go func() {
			defer c.CloseNow()
			frames := make([]byte, 1<<10)
			for frames[0] != 0x80|byte(opClose) { // but for the end, or virtual time would stand still
				if _, err := c.nc.Read(frames); err != nil {
					return
				}
			}
		}()
		for wait := 200 * time.Millisecond; wait < time.Minute; wait *= 2 { // as a kernel repeats
			say(c, "still here")
			pause(c, wait)
		}
		<-c.Done()
	}
	s := &script{steps: []any{deaf}}
	f := &Follower{IdleTimeout: timeout, NewBackOff: func() backoff.BackOff { return &backoff.StopBackOff{} }}
	if err := follow(t, s, f, 15*time.Second); !errors.Is(err, ErrNoPong) {
		t.Errorf("%v, want %v", err, ErrNoPong)
	}
	s = &script{steps: []any{deaf}}
	f = &Follower{IdleTimeout: timeout}
	f.Message = func(_ *Conn, b *Buffer) error {
		b.Release()
		time.Sleep(time.Minute)
		return nil
	}
	if _ = follow(t, s, f, 50*time.Second); len(s.dials) != 1 {
		t.Errorf("%d dials though a message is being handled", len(s.dials))
	}
}

// TestFollowSlowPath has one message that takes a minute to come, with the pong
// behind it.
func TestFollowSlowPath(t *testing.T) {
	const size = 1 << 20
	slow := func(c *Conn) {
		_, end := pump(c)
		message := append(AppendFrameHeader(nil, size), make([]byte, size)...)
		c.lock <- struct{}{} // no pong in the middle of it
		for part := range slices.Chunk(message, size/60) {
			_, _ = c.nc.Write(part)
			pause(c, time.Second)
		}
		<-c.lock
		<-end
		c.CloseNow()
	}
	s := &script{steps: []any{slow}}
	got := 0
	_ = follow(t, s, &Follower{IdleTimeout: 8 * time.Second, Message: func(_ *Conn, b *Buffer) error {
		got += len(b.Bytes())
		b.Release()
		return nil
	}}, 65*time.Second)
	if len(s.dials) != 1 || got != size {
		t.Errorf("%d dials, %d bytes", len(s.dials), got)
	}
}

func TestFollowIdleError(t *testing.T) {
	s := &script{steps: []any{serve(func(c *Conn) { pause(c, time.Minute) })}}
	f := &Follower{IdleTimeout: time.Second, NewBackOff: func() backoff.BackOff { return &backoff.StopBackOff{} }}
	if err := follow(t, s, f, time.Minute); !errors.Is(err, ErrIdle) {
		t.Error(err)
	}
}

// TestFollowEnds ends the context while a connection is open, over a real
// socket: promptly, and the server is told.
func TestFollowEnds(t *testing.T) {
	url, conns := accepting(t, AcceptOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	messages := make(chan string, 2)
	f := &Follower{
		Dial:   func(ctx context.Context) (*Conn, error) { return Dial(ctx, url, DialOptions{}) },
		Opened: func(ctx context.Context, c *Conn) error { return c.Send(ctx, []byte("watch")) },
		Message: func(_ *Conn, b *Buffer) error {
			messages <- string(b.Bytes())
			b.Release()
			return nil
		},
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	server := within(t, conns)
	received, end := pump(server)
	if got := within(t, received); string(got) != "watch" {
		t.Errorf("server got %q", got)
	}
	write(t, server, append(AppendFrameHeader(nil, 5), "batch"...))
	if got := within(t, messages); got != "batch" {
		t.Errorf("client got %q", got)
	}
	began := time.Now()
	cancel()
	if err := within(t, done); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(began); took > closeTimeout {
		t.Errorf("took %v", took)
	}
	var closed *CloseError
	if err := within(t, end); !errors.As(err, &closed) || closed.Code != CloseNormal {
		t.Errorf("server's end: %v", err)
	}
}

// TestFollowReconnects loses connections in the middle of messages.
func TestFollowReconnects(t *testing.T) {
	url, conns := accepting(t, AcceptOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var lost []error
	f := &Follower{
		Dial:    func(ctx context.Context) (*Conn, error) { return Dial(ctx, url, DialOptions{}) },
		Message: func(_ *Conn, b *Buffer) error { b.Release(); return nil },
		Closed:  func(err error) { lost = append(lost, err) },
		NewBackOff: func() backoff.BackOff {
			return backoff.NewConstantBackOff(time.Millisecond)
		},
	}
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	for range 5 {
		server := within(t, conns)
		write(t, server, append(AppendFrameHeader(nil, 70000), pattern(50000, 0)...))
		server.CloseNow()
	}
	server := within(t, conns)
	cancel()
	if _, err := server.Read(t.Context()); err == nil {
		t.Error("a message from nowhere")
	}
	within(t, done)
	if len(lost) != 6 {
		t.Errorf("%d connections lost, want 6: %v", len(lost), lost)
	}
	for _, err := range lost[:5] {
		if errors.Is(err, net.ErrClosed) || IsPermanent(err) {
			t.Errorf("lost with %v", err)
		}
	}
}
