package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"nhooyr.io/websocket"
)

// DialOptions says how to open a WebSocket. The zero value is usable.
type DialOptions struct {
	TLS          *tls.Config // for https and wss
	Header       http.Header
	Subprotocol  string        // asked for, and required in the answer
	SocketBuffer int           // bytes; DefaultSocketBuffer
	ReadLimit    int64         // bytes of a message; DefaultReadLimit
	Timeout      time.Duration // of the handshake; 10 s
}

// HandshakeError is an answer that was not 101.
type HandshakeError struct {
	Status     int
	Body       string        // its first KiB, trimmed
	RetryAfter time.Duration // 0 when the server did not say
}

// Error tells status and body.
func (e *HandshakeError) Error() string {
	s := fmt.Sprintf("server answered %d %s", e.Status, http.StatusText(e.Status))
	if e.Body != "" {
		s += ": " + e.Body
	}
	return s
}

// Permanent tells whether the same request would get the same answer.
func (e *HandshakeError) Permanent() bool {
	switch e.Status {
	case http.StatusTooManyRequests, http.StatusRequestTimeout, http.StatusTooEarly:
		return false
	}
	return e.Status >= 400 && e.Status < 500
}

// Dial opens a WebSocket to a ws, wss, http or https URL. An answer other than
// 101 is a *HandshakeError. The proxy is the environment's.
func Dial(ctx context.Context, rawURL string, o DialOptions) (*Conn, error) {
	u, err := webSocketURL(rawURL)
	if err != nil {
		return nil, err
	}
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// One transport per connection: it is used once, and its only connection
	// becomes the WebSocket.
	var raw net.Conn
	transport := &http.Transport{
		Proxy:             http.ProxyFromEnvironment,
		TLSClientConfig:   o.TLS,
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			d := net.Dialer{}
			conn, err := d.DialContext(ctx, network, addr)
			raw = conn
			return conn, err
		},
	}
	var protocols []string
	if o.Subprotocol != "" {
		protocols = []string{o.Subprotocol}
	}
	ws, resp, err := websocket.Dial(ctx, u, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, HTTPHeader: o.Header,
		Subprotocols: protocols, CompressionMode: websocket.CompressionDisabled,
	})
	if err != nil {
		return nil, dialError(rawURL, resp, err)
	}
	if ws.Subprotocol() != o.Subprotocol {
		_ = ws.CloseNow()
		return nil, fmt.Errorf("dial %s: server does not speak subprotocol %s", rawURL, o.Subprotocol)
	}
	limit := o.ReadLimit
	if limit <= 0 {
		limit = DefaultReadLimit
	}
	ws.SetReadLimit(limit)
	c := newConn(raw, o.SocketBuffer, limit)
	c.plain = nil
	c.ws, c.subprotocol = ws, ws.Subprotocol()
	return c, nil
}

func webSocketURL(raw string) (string, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return "", fmt.Errorf("dial: %w", err)
	}
	switch u.Scheme {
	case "http", "ws":
		u.Scheme = "http"
	case "https", "wss":
		u.Scheme = "https"
	default:
		return "", fmt.Errorf("dial %s: scheme %q is not one of ws, wss, http, https", raw, u.Scheme)
	}
	return u.String(), nil
}

func dialError(u string, resp *http.Response, err error) error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		return fmt.Errorf("dial %s: %w", redactQuery(u), err)
	}
	h := &HandshakeError{Status: resp.StatusCode}
	if resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		h.Body = strings.TrimSpace(string(body))
	}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		h.RetryAfter = time.Duration(s) * time.Second
	}
	return fmt.Errorf("dial %s: %w", redactQuery(u), h)
}

// redactQuery leaves the query out of messages: it may be long, and it is not
// what failed.
func redactQuery(u string) string {
	head, _, _ := strings.Cut(u, "?")
	return head
}

// readClient reads a server message.
func (c *Conn) readClient(ctx context.Context) (*Buffer, error) {
	typ, r, err := c.ws.Reader(ctx)
	if err != nil {
		return nil, clientReadError(err)
	}
	if typ != websocket.MessageBinary {
		_ = c.Close(CloseBadMessage, "text messages are not understood")
		return nil, &CloseError{Code: CloseBadMessage, Reason: "server sent a text message", local: true}
	}
	b := NewBuffer(minMessage)
	n := 0
	for {
		if n == b.Len() {
			b = b.grow(max(n, minMessage))
		}
		m, err := r.Read(b.Bytes()[n:])
		n += m
		if errors.Is(err, io.EOF) {
			b.data = b.data[:maxFrameHeader+n]
			return b, nil
		}
		if err != nil {
			b.Release()
			return nil, clientReadError(err)
		}
	}
}

// minMessage is the room a message is given at first: most batches of a busy
// stream fit without growing.
const minMessage = 64<<10 + 4096

func clientReadError(err error) error {
	var ce websocket.CloseError
	if errors.As(err, &ce) {
		return &CloseError{Code: CloseCode(ce.Code), Reason: ce.Reason}
	}
	return fmt.Errorf("read WebSocket: %w", err)
}

// Send sends one binary message. Client side only; it may run concurrently
// with itself. When ctx ends before the message is out, the connection is
// closed.
func (c *Conn) Send(ctx context.Context, msg []byte) error {
	if err := c.ws.Write(ctx, websocket.MessageBinary, msg); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// closeClient says goodbye through the library, which can take far longer
// than a second.
func (c *Conn) closeClient(code CloseCode, reason string) error {
	if len(reason) > maxControlPayload-2 {
		reason = reason[:maxControlPayload-2]
	}
	done := make(chan error, 1)
	go func() { done <- c.ws.Close(websocket.StatusCode(code), reason) }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("close WebSocket: %w", err)
		}
	case <-time.After(2 * closeWait):
	}
	return nil
}
