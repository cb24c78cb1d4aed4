package stream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"nhooyr.io/websocket"
)

// DialOptions tune Dial. The zero value has the defaults.
type DialOptions struct {
	// TLS is used for wss and https; nil means the system's roots.
	TLS *tls.Config
	// Header goes with the handshake.
	Header http.Header
	// Subprotocol asked for; a server that does not speak it is an error. Empty
	// asks for none.
	Subprotocol string
	// SocketBuffer is the size of the kernel's send and receive buffers in
	// bytes; DefaultSocketBuffer if 0.
	SocketBuffer int
	// ReadLimit is the size in bytes of the largest message the server may
	// send; DefaultClientReadLimit if 0. A larger one closes with CloseTooBig.
	ReadLimit int64
}

// Dial opens a WebSocket to a ws, wss, http or https URL, through the proxy
// that the environment names. ctx bounds the handshake only. Redirects are not
// followed. An answer other than a WebSocket is a *HandshakeError.
func Dial(ctx context.Context, address string, o DialOptions) (*Conn, error) {
	buffer := orDefault(o.SocketBuffer, DefaultSocketBuffer)
	t := &handshake{transport: newTransport(o.TLS, buffer, overTLS(address))}
	defer t.transport.CloseIdleConnections()
	opts := &websocket.DialOptions{
		HTTPClient: &http.Client{
			Transport:     t,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:      o.Header.Clone(),
		CompressionMode: websocket.CompressionDisabled,
	}
	if o.Subprotocol != "" {
		opts.Subprotocols = []string{o.Subprotocol}
	}
	ws, resp, err := websocket.Dial(ctx, address, opts) //nolint:bodyclose // the library deals with it
	if err != nil {
		return nil, dialFailed(address, resp, err)
	}
	subprotocol := ws.Subprotocol()
	t.body.keep.Store(true)
	_ = ws.CloseNow() // ends the library's part; the socket stays open
	c := newConn(t.conn, true, orDefault(o.ReadLimit, DefaultClientReadLimit))
	c.subprotocol = subprotocol
	c.in.preload(t.early())
	c.tune(buffer)
	if subprotocol != o.Subprotocol {
		_ = c.Close(CloseProtocol, "subprotocol "+o.Subprotocol+" was asked for")
		return nil, fmt.Errorf("dial %s: the server does not speak subprotocol %q", place(address), o.Subprotocol)
	}
	return c, nil
}

// overTLS tells whether an address is reached with TLS.
func overTLS(address string) bool {
	u, err := url.Parse(address)
	return err == nil && (strings.EqualFold(u.Scheme, "wss") || strings.EqualFold(u.Scheme, "https"))
}

// newTransport makes a transport for one handshake.
func newTransport(conf *tls.Config, buffer int, secure bool) *http.Transport {
	if conf != nil {
		conf = conf.Clone()
	} else {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf.NextProtos = nil // HTTP/1.1
	dialer := &net.Dialer{Timeout: handshakeTimeout}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment,
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			nc, err := dialer.DialContext(ctx, network, addr)
			if tcp, ok := nc.(*net.TCPConn); ok {
				setSocketOptions(tcp, buffer)
			}
			if err == nil && secure {
				nc = &records{Conn: nc}
			}
			return nc, err
		},
		TLSClientConfig:        conf,
		TLSHandshakeTimeout:    handshakeTimeout,
		ResponseHeaderTimeout:  handshakeTimeout,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// place is what of an address helps in a message: not its query, which may be
// long.
func place(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "WebSocket"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// dialFailed puts a failed handshake in its error.
func dialFailed(address string, resp *http.Response, err error) error {
	if resp == nil || resp.StatusCode == http.StatusSwitchingProtocols {
		var wordy *url.Error
		if errors.As(err, &wordy) {
			err = wordy.Err
		}
		return fmt.Errorf("dial %s: %w", place(address), err)
	}
	e := &HandshakeError{Status: resp.StatusCode, RetryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	if resp.Body != nil {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		e.Body = strings.ToValidUTF8(strings.TrimSpace(string(body)), "?")
	}
	if to := resp.Header.Get("Location"); to != "" && resp.StatusCode/100 == 3 {
		e.Body = "moved to " + to
	}
	return fmt.Errorf("dial %s: %w", place(address), e)
}

// retryAfter reads a Retry-After header: seconds, or a date.
func retryAfter(v string, now time.Time) time.Duration {
	if s, err := strconv.ParseUint(v, 10, 31); err == nil {
		return time.Duration(s) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

// handshake is a transport that keeps the connection it has upgraded.
type handshake struct {
	transport *http.Transport
	conn      net.Conn
	body      *heldBody
}

func (h *handshake) RoundTrip(r *http.Request) (*http.Response, error) {
	var got net.Conn
	ctx := httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { got = info.Conn },
	})
	resp, err := h.transport.RoundTrip(r.WithContext(ctx))
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		return resp, err
	}
	body, ok := resp.Body.(io.ReadWriteCloser)
	if !ok || got == nil {
		_ = resp.Body.Close()
		return nil, errors.New("connection cannot be taken over")
	}
	h.conn, h.body = got, &heldBody{ReadWriteCloser: body}
	resp.Body = h.body
	return resp, nil
}

// early is what the transport has read behind the server's answer.
func (h *handshake) early() []byte {
	_ = h.conn.SetReadDeadline(longAgo) // nothing but that
	defer func() { _ = h.conn.SetReadDeadline(time.Time{}) }()
	p, _ := io.ReadAll(h.body.ReadWriteCloser)
	return p
}

// heldBody does not close while it is kept.
type heldBody struct {
	io.ReadWriteCloser
	keep atomic.Bool
}

func (h *heldBody) Close() error {
	if h.keep.Load() {
		return nil
	}
	return h.ReadWriteCloser.Close()
}
