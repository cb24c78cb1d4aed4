package load

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
)

// Counter is a reader of the old framing, one dropsonde envelope per message.
// It counts messages without looking into them, so that it is the server that
// is measured. It answers pings, as every client does.
type Counter struct {
	conn     net.Conn
	in       *bufio.Reader
	messages atomic.Uint64
	closed   atomic.Bool // by Close
}

// OpenCounter connects to the Firehose of conf, of which the URL, TLS,
// Subscription, Query and Header count. The caller runs the counter with Run, and ends it
// with Close.
func OpenCounter(ctx context.Context, conf ReaderConfig) (*Counter, error) {
	target, err := url.Parse(conf.URL + "/firehose/" + url.PathEscape(conf.Subscription) + "?" + conf.Query.Encode())
	if err != nil {
		return nil, fmt.Errorf("open counter: %w", err)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", target.Host)
	if err != nil {
		return nil, fmt.Errorf("open counter: %w", err)
	}
	if target.Scheme == "wss" {
		conn = tls.Client(conn, conf.TLS)
	}
	c := &Counter{conn: conn, in: bufio.NewReaderSize(conn, 256<<10)}
	if err := c.shake(target, conf.Header); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open counter: %w", err)
	}
	return c, nil
}

func (c *Counter) shake(target *url.URL, header http.Header) error {
	var more strings.Builder
	_ = header.Write(&more) // cannot fail
	_, err := fmt.Fprintf(c.conn, "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%s\r\n", target.RequestURI(), target.Host, more.String())
	if err != nil {
		return err
	}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		return err
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

// Frames as RFC 6455, section 5.2 has them.
const (
	finalClose = 0x88
	finalPing  = 0x89
	maskedPong = 0x8a
	maskBit    = 0x80
)

// Run counts until ctx ends, Close is called or the server ends the stream;
// only the last is an error.
func (c *Counter) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = c.conn.Close() })
	defer stop()
	var err error
	for err == nil {
		err = c.frame()
	}
	// Over TLS the server may answer our end with its own before ours counts.
	if ctx.Err() != nil || c.closed.Load() {
		return nil
	}
	return err
}

func (c *Counter) frame() error {
	head, err := c.in.Peek(2)
	if err != nil {
		return err
	}
	first, size, n := head[0], int(head[1]&^maskBit), 2
	switch size {
	case 126:
		n = 4
	case 127:
		n = 10
	}
	if head, err = c.in.Peek(n); err != nil {
		return err
	}
	switch n {
	case 4:
		size = int(binary.BigEndian.Uint16(head[2:]))
	case 10:
		size = int(binary.BigEndian.Uint64(head[2:]))
	}
	if _, err = c.in.Discard(n); err != nil {
		return err
	}
	if first == finalPing || first == finalClose {
		return c.control(first, size)
	}
	if _, err = c.in.Discard(size); err == nil {
		c.messages.Add(1)
	}
	return err
}

func (c *Counter) control(first byte, size int) error {
	payload := make([]byte, size)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		return err
	}
	if first == finalClose {
		code := uint16(0)
		if size >= 2 {
			code = binary.BigEndian.Uint16(payload)
		}
		return fmt.Errorf("closed with %d: %s", code, payload[min(size, 2):])
	}
	pong := append([]byte{maskedPong, maskBit | byte(size), 0, 0, 0, 0}, payload...) // masked with zeros
	_, err := c.conn.Write(pong)
	return err
}

// Account has no more than the number of messages, and of envelopes received.
func (c *Counter) Account() Account {
	n := c.messages.Load()
	return Account{Ledger: Ledger{Received: n}, Batches: n}
}

// Latency is not known.
func (c *Counter) Latency(bool) *Histogram { return nil }

// Close ends the connection.
func (c *Counter) Close() error {
	c.closed.Store(true)
	return c.conn.Close()
}
