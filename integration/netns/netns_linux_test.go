package netns

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	os.Exit(Inside(func() int {
		code := m.Run()
		if err := goleak.Find(); err != nil && code == 0 {
			_, _ = os.Stderr.WriteString(err.Error())
			return 1
		}
		return code
	}))
}

var (
	here  = netip.MustParseAddr("10.66.0.1")
	there = netip.MustParseAddr("10.66.0.2")
	alias = netip.MustParseAddr("10.66.7.2")
)

// world is this process and one host, on which a server listens that sends
// back what it gets.
func world(t *testing.T) (*Network, *net.TCPListener) {
	t.Helper()
	Need(t)
	n, err := New(here)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	h, err := n.Host(there, alias)
	if err != nil {
		t.Fatal(err)
	}
	var l net.Listener
	err = elsewhere(h.enter, func() (err error) {
		l, err = new(net.ListenConfig).Listen(t.Context(), "tcp4", "0.0.0.0:7")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-ended
	})
	return n, l.(*net.TCPListener)
}

func dial(t *testing.T, to netip.Addr) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := new(net.Dialer).DialContext(ctx, "tcp4", netip.AddrPortFrom(to, 7).String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// echo sends a lot and wants it back.
func echo(t *testing.T, c net.Conn) {
	t.Helper()
	sent := bytes.Repeat([]byte("0123456789abcdef"), 8<<10)
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, len(sent))
	_ = c.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("echo is wrong, %v", err)
	}
}

// silent checks that nothing comes back.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("something came through, or %v", err)
	}
}

func TestFaults(t *testing.T) {
	all := []netip.Addr{there, alias}
	tests := map[string]struct {
		fault Fault
		ends  bool // nothing comes through
	}{
		"nothing":     {Fault{From: []netip.Addr{netip.MustParseAddr("10.66.0.9")}, Loss: 1}, false},
		"there":       {Fault{To: all, Loss: 1}, true},
		"back":        {Fault{From: all, Loss: 1}, true},
		"one path":    {Fault{To: []netip.Addr{there}, Loss: 1}, true},
		"other path":  {Fault{To: []netip.Addr{alias}, Loss: 1}, false},
		"some loss":   {Fault{Loss: 0.02}, false},
		"delay":       {Fault{To: all, Delay: 20 * time.Millisecond}, false},
		"loss, delay": {Fault{To: all, Loss: 0.02, Delay: 5 * time.Millisecond}, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			n, _ := world(t)
			c := dial(t, there)
			echo(t, c)
			i := n.Impose(test.fault)
			began := time.Now()
			if !test.ends {
				echo(t, c)
			} else if silent(t, c); i.Lost() == 0 {
				t.Error("no packet was lost")
			}
			if took := time.Since(began); took < test.fault.Delay {
				t.Errorf("took %v, which is less than the delay", took)
			}
			i.Lift()
			if test.ends { // what silent sent comes late, but comes
				_ = c.SetReadDeadline(time.Now().Add(time.Minute))
				if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
			}
			echo(t, c)
		})
	}
}

func TestHostStartsCommandsOnItself(t *testing.T) {
	n, _ := world(t)
	h, err := n.Host(netip.MustParseAddr("10.66.0.3"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "readlink", "/proc/self/ns/net")
	var out strings.Builder
	cmd.Stdout = &out
	if err := h.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(out.String()); got == own || !strings.HasPrefix(got, "net:") {
		t.Errorf("the command is in %q, and this process in %q", got, own)
	}
}

func TestSetResolver(t *testing.T) {
	n, _ := world(t)
	_ = n
	conf := t.TempDir() + "/resolv.conf"
	if err := SetResolver("10.66.0.1", conf); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/etc/resolv.conf")
	if err != nil || !strings.HasPrefix(string(text), "nameserver 10.66.0.1\n") {
		t.Errorf("%q, %v", text, err)
	}
}
