package stream

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestRefusals sends requests that are no handshake; each is told why.
func TestRefusals(t *testing.T) {
	const line, host, version = "GET / HTTP/1.1\r\n", "Host: x\r\n", "Sec-WebSocket-Version: 13\r\n"
	const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	const upgrade, connection = "Upgrade: websocket\r\n", "Connection: keep-alive, Upgrade\r\n"
	for _, test := range []struct {
		name, request string
		status        int
		words         string
	}{
		{"plain GET", line + host, 426, "connect with a WebSocket client"},
		{"a proxy lost Connection", line + host + upgrade + version + key, 426, "behind a proxy"},
		{"a proxy lost Upgrade", line + host + connection + version + key, 426, "behind a proxy"},
		{"other upgrade", line + host + "Upgrade: h2c\r\n" + connection + version + key, 426, "WebSocket"},
		{"POST", "POST / HTTP/1.1\r\n" + host + upgrade + connection + version + key + "Content-Length: 0\r\n", 405, "POST"},
		{"HTTP/1.0", "GET / HTTP/1.0\r\n" + host + upgrade + connection + version + key, 426, "HTTP/1.0"},
		{"no version", line + host + upgrade + connection + key, 400, "Sec-WebSocket-Version"},
		{"old version", line + host + upgrade + connection + key + "Sec-WebSocket-Version: 8\r\n", 400, "Sec-WebSocket-Version"},
		{"no key", line + host + upgrade + connection + version, 400, "Sec-WebSocket-Key"},
		{"two keys", line + host + upgrade + connection + version + key + key, 400, "Sec-WebSocket-Key"},
		{"short key", line + host + upgrade + connection + version + "Sec-WebSocket-Key: AAAA\r\n", 400, "Sec-WebSocket-Key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			errs := make(chan error, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, err := Accept(w, r, AcceptOptions{})
				errs <- err
			}))
			defer srv.Close()
			nc, err := net.Dial("tcp", srv.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = nc.Close() }()
			if _, err := io.WriteString(nc, test.request+"\r\n"); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			body, _ := io.ReadAll(resp.Body)
			if resp.StatusCode != test.status || !strings.Contains(string(body), test.words) {
				t.Errorf("%d %s, want %d with %q", resp.StatusCode, body, test.status, test.words)
			}
			if up := resp.Header.Get("Upgrade"); (test.status == 426) != (up == "websocket") {
				t.Errorf("Upgrade header %q", up)
			}
			if err := within(t, errs); err == nil {
				t.Error("Accept gave no error")
			}
		})
	}
}

// TestHTTP2 has no Upgrade, so Dial has to avoid it.
func TestHTTP2(t *testing.T) {
	got := make(chan *Conn, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, AcceptOptions{})
		if (err == nil) != (r.ProtoMajor == 1) {
			t.Errorf("%s: %v", r.Proto, err)
		}
		if err == nil {
			t.Cleanup(c.CloseNow)
			got <- c
		}
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	resp, err := srv.Client().Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.ProtoMajor != 2 || resp.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("%s %s", resp.Proto, resp.Status)
	}
	roots := srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	dial(t, srv.URL, DialOptions{TLS: &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}}})
	within(t, got)
}

// TestAnyOrigin is what noaa sends behind a load balancer.
func TestAnyOrigin(t *testing.T) {
	url, conns := accepting(t, AcceptOptions{})
	dial(t, url, DialOptions{Header: http.Header{"Origin": {"wss://doppler.example.com:443"}}})
	within(t, conns)
}

// wrapped is middleware that can only be looked through.
type wrapped struct{ http.ResponseWriter }

func (w wrapped) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func TestThroughMiddleware(t *testing.T) {
	got := make(chan *Conn, 1)
	inner := acceptHandler(t, AcceptOptions{}, got)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(wrapped{w}, r)
	}))
	defer srv.Close()
	dial(t, srv.URL, DialOptions{})
	within(t, got)
}

// TestEarlyData has the client send a message with its request, and the server
// one with its answer.
func TestEarlyData(t *testing.T) {
	for _, size := range []int{3, 1000, 6000} {
		url, conns := accepting(t, AcceptOptions{})
		nc, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = nc.Close() }()
		message := clientFrame(fin(opBinary), pattern(size, 0))
		if _, err := nc.Write(append([]byte(handshakeRequest), message...)); err != nil {
			t.Fatal(err)
		}
		server := within(t, conns)
		messages, _ := pump(server)
		if got := within(t, messages); !bytes.Equal(got, pattern(size, 0)) {
			t.Errorf("%d bytes came as %d", size, len(got))
		}

		client := dial(t, earlyServer(t, size), DialOptions{})
		b, err := client.Read(t.Context())
		if err != nil || !bytes.Equal(b.Bytes(), pattern(size, 0)) {
			t.Fatalf("%d bytes: %v", size, err)
		}
		b.Release()
	}
}

// earlyServer answers a handshake and sends a message in one write.
func earlyServer(t *testing.T, size int) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		nc, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { _ = nc.Close() })
		r, err := http.ReadRequest(bufio.NewReader(nc))
		if err != nil {
			t.Error(err)
			return
		}
		sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
		answer := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
		_, _ = nc.Write(cat([]byte(answer), AppendFrameHeader(nil, size), pattern(size, 0)))
	}()
	return "ws://" + l.Addr().String()
}

// TestNoHandshake dials what does not answer like a WebSocket.
func TestNoHandshake(t *testing.T) {
	for _, test := range []struct {
		name      string
		status    int
		header    [2]string
		body      string
		want      HandshakeError
		reconnect bool
	}{
		{"bad request", 400, [2]string{}, "type \"x\" is not known\n", HandshakeError{400, "type \"x\" is not known", 0}, false},
		{"unauthorized", 401, [2]string{}, "You are not authorized.", HandshakeError{401, "You are not authorized.", 0}, false},
		{"forbidden", 403, [2]string{}, "", HandshakeError{403, "", 0}, false},
		{"not found", 404, [2]string{}, "", HandshakeError{404, "", 0}, false},
		{"upgrade required", 426, [2]string{}, "", HandshakeError{426, "", 0}, false},
		{"too many", 429, [2]string{"Retry-After", "7"}, "limit 10", HandshakeError{429, "limit 10", 7 * time.Second}, true},
		{"unavailable", 503, [2]string{"Retry-After", "soon"}, "draining", HandshakeError{503, "draining", 0}, true},
		{"bad gateway", 502, [2]string{}, "\xff", HandshakeError{502, "?", 0}, true},
		{"no WebSocket", 200, [2]string{}, "<html>", HandshakeError{200, "<html>", 0}, true},
		{"long", 500, [2]string{}, strings.Repeat("x", 5000), HandshakeError{500, strings.Repeat("x", 1024), 0}, true},
		{"moved", 307, [2]string{"Location", "https://login.example.com/"}, "", HandshakeError{307, "moved to https://login.example.com/", 0}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if test.header[0] != "" {
					w.Header().Set(test.header[0], test.header[1])
				}
				w.WriteHeader(test.status)
				_, _ = io.WriteString(w, test.body)
			}))
			defer srv.Close()
			_, err := Dial(t.Context(), srv.URL, DialOptions{})
			var refused *HandshakeError
			if !errors.As(err, &refused) || *refused != test.want {
				t.Fatalf("%+v", err)
			}
			if refused.Reconnect() != test.reconnect || IsPermanent(err) == test.reconnect {
				t.Errorf("reconnect: %v, permanent: %v", refused.Reconnect(), IsPermanent(err))
			}
			if !strings.Contains(err.Error(), fmt.Sprint(test.status)) || !strings.Contains(err.Error(), test.want.Body) {
				t.Error(err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	for v, want := range map[string]time.Duration{
		"": 0, "0": 0, "120": 2 * time.Minute, "-1": 0, "x": 0, "99999999999999": 0,
		"Sat, 21 Nov 2026 08:00:30 GMT": 30 * time.Second, "Sat, 21 Nov 2026 07:00:00 GMT": 0,
	} {
		if got := retryAfter(v, now); got != want {
			t.Errorf("%q: %v, want %v", v, got, want)
		}
	}
}

func TestDialFails(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	url, _ := accepting(t, AcceptOptions{})
	for _, test := range []struct {
		name, url, words string
		o                DialOptions
		within           time.Duration
	}{
		{"scheme", "ftp://x", "scheme", DialOptions{}, time.Minute},
		{"not a URL", "ws://a b", "invalid character", DialOptions{}, time.Minute},
		{"refused", "ws://" + closed.Addr().String(), "refused", DialOptions{}, time.Minute},
		{"silent", "ws://" + silent.Addr().String(), "deadline", DialOptions{}, 300 * time.Millisecond},
		{"no TLS", strings.Replace(url, "http:", "wss:", 1), "HTTPS client", DialOptions{}, time.Minute},
		{"subprotocol", url, `"x"`, DialOptions{Subprotocol: "x"}, time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), test.within)
			defer cancel()
			_, err := Dial(ctx, test.url, test.o)
			if err == nil || !strings.Contains(err.Error(), test.words) || IsPermanent(err) {
				t.Errorf("%v, want it to say %s", err, test.words)
			}
		})
	}
}
