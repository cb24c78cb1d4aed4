package secrets

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// TestBehindAProxy has a load balancer that does not look into TLS say for whom it
// connects.
func TestBehindAProxy(t *testing.T) {
	ctx := blackbox.Deadline(t)
	b := behindProxy(ctx, t)
	direct := b.controller.Addrs[pipeline.Public]
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + "\xcb\x00\x71\x08" + "\x7f\x00\x00\x01" + "\x12\x68\x01\xbb"
	for _, test := range []struct{ name, header, remote string }{
		{"version 1", "PROXY TCP4 203.0.113.7 127.0.0.1 4711 443\r\n", "203.0.113.7:4711"},
		{"version 2", v2, "203.0.113.8:4712"},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := connect(ctx, t, direct)
			if _, err := io.WriteString(conn, test.header); err != nil {
				t.Fatal(err)
			}
			b.isFrom(ctx, t, conn, test.remote)
		})
	}
}

// TestBehindHAProxy has HAProxy say it.
func TestBehindHAProxy(t *testing.T) {
	haproxy := blackbox.Installed(t, "haproxy")
	ctx := blackbox.Deadline(t)
	b := behindProxy(ctx, t)
	for _, send := range []string{"send-proxy", "send-proxy-v2"} {
		t.Run(send, func(t *testing.T) {
			conn := connect(ctx, t, startHAProxy(t, haproxy, b.controller.Addrs[pipeline.Public]+" "+send))
			b.isFrom(ctx, t, conn, conn.LocalAddr().String())
		})
	}
}

// startHAProxy passes connections on to a server as it is told, and returns where
// it listens.
func startHAProxy(t *testing.T, path, server string) (addr string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf("defaults\n mode tcp\n timeout connect 10s\n timeout client 1m\n timeout server 1m\nlisten l\n bind fd@3\n server s %s\n", server)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := process.Start(process.Command{Path: path, Args: []string{"-db", "-f", conf}, Start: func(cmd *exec.Cmd) error {
		cmd.ExtraFiles = []*os.File{socket}
		return cmd.Start()
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Log(p.Log())
		}
	})
	return l.Addr().String()
}

// behind is a Traffic Controller that believes the PROXY headers of this machine.
type behind struct {
	controller *pipeline.Service
	trust      *tls.Config
	token      string // of nora
}

func behindProxy(ctx context.Context, t *testing.T) *behind {
	t.Helper()
	cf := platform(ctx, t)
	certs, trust := secured(t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 1, Controllers: 1, Access: cf.Access(), Certs: certs})
	c, err := p.AddController(ctx, "--proxy-protocol", "--trusted-proxy", "127.0.0.1/32")
	if err != nil {
		t.Fatal(err)
	}
	return &behind{c, trust, issue(ctx, t, cf, "nora", fakecf.JWT)}
}

// isFrom opens a WebSocket and leaves: the line about it says from where.
func (b *behind) isFrom(ctx context.Context, t *testing.T, conn net.Conn, remote string) {
	t.Helper()
	path := "/firehose/" + strings.ReplaceAll(t.Name(), "/", "-")
	answer := upgrade(ctx, t, conn, b.trust, path, b.token)
	if answer.StatusCode != http.StatusSwitchingProtocols || answer.Header.Get("Strict-Transport-Security") == "" {
		t.Errorf("%s, %v", answer.Status, answer.Header)
	}
	blackbox.Poll(ctx, t, "the line about the stream", func() bool { return len(linesAbout(t, b.controller.Log(), path)) == 1 })
	if l := linesAbout(t, b.controller.Log(), path)[0]; l.Remote != remote || l.User != "nora" {
		t.Errorf("%+v, it is %s", l, remote)
	}
}

func connect(ctx context.Context, t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// upgrade opens a WebSocket over TLS over a connection, and leaves.
func upgrade(ctx context.Context, t *testing.T, conn net.Conn, trust *tls.Config, path, token string) *http.Response {
	t.Helper()
	defer conn.Close()
	secure := tls.Client(conn, trust)
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+conn.RemoteAddr().String()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"Authorization": "bearer " + token, "Connection": "Upgrade", "Upgrade": "websocket",
		"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": stream.Subprotocol,
	} {
		r.Header.Set(name, value)
	}
	if err := r.Write(secure); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(secure), r)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	return answer
}
