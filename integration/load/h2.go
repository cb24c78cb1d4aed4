package load

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// call is a client-streaming gRPC call on a connection of its own, which
// takes DATA frames that are already laid out. On the wire it is what any gRPC
// client says; it only spends less on saying it. write and finish are called by
// one goroutine.
type call struct {
	conn net.Conn
	done chan struct{} // closed when the reading goroutine has ended

	writing sync.Mutex // held while a frame is being written
	frames  *http2.Framer

	mu      sync.Mutex
	changed *sync.Cond
	// What flow control lets us send, on the connection and on the stream.
	connWindow, streamWindow int64
	initialWindow            int64
	err                      error // why nothing more can be sent
}

const defaultWindow = 65535

// openCall dials and sends the request's headers. tlsConfig may be nil.
func openCall(ctx context.Context, addr, method string, tlsConfig *tls.Config) (*call, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial Doppler: %w", err)
	}
	scheme := "http"
	if tlsConfig != nil {
		scheme = "https"
		tlsConfig = tlsConfig.Clone()
		tlsConfig.NextProtos = []string{http2.NextProtoTLS}
		secure := tls.Client(conn, tlsConfig)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("dial Doppler: %w", err), conn.Close())
		}
		conn = secure
	}
	c := &call{
		conn: conn, done: make(chan struct{}), frames: http2.NewFramer(conn, conn),
		connWindow: defaultWindow, streamWindow: defaultWindow, initialWindow: defaultWindow,
	}
	c.changed = sync.NewCond(&c.mu)
	c.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := c.request(scheme, addr, method); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", method, err), conn.Close())
	}
	go c.read()
	return c, nil
}

func (c *call) request(scheme, authority, method string) error {
	var block headerBlock
	block.enc = hpack.NewEncoder(&block)
	block.fields(
		":method", "POST", ":scheme", scheme, ":path", method, ":authority", authority,
		"content-type", "application/grpc", "te", "trailers", "user-agent", "lgr-loadtool",
	)
	if _, err := c.conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	if err := c.frames.WriteSettings(); err != nil {
		return err
	}
	return c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: streamID, BlockFragment: block.bytes, EndHeaders: true})
}

type headerBlock struct {
	bytes []byte
	enc   *hpack.Encoder
}

func (h *headerBlock) Write(p []byte) (int, error) {
	h.bytes = append(h.bytes, p...)
	return len(p), nil
}

func (h *headerBlock) fields(pairs ...string) {
	for i := 0; i < len(pairs); i += 2 {
		_ = h.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}) // Write cannot fail
	}
}

// write writes some frames of a template, as many at once as flow control lets
// it, and blocks meanwhile.
func (c *call) write(t *template, from, to int) error {
	for from < to {
		upTo, err := c.reserve(t, from, to)
		if err != nil {
			return err
		}
		start := 0
		if from > 0 {
			start = t.frames[from-1].end
		}
		c.writing.Lock()
		_, err = c.conn.Write(t.wire[start:t.frames[upTo-1].end])
		c.writing.Unlock()
		if err != nil {
			return c.fail(fmt.Errorf("send: %w", err))
		}
		from = upTo
	}
	return nil
}

// reserve waits until at least one frame fits the windows.
func (c *call) reserve(t *template, from, to int) (upTo int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.err != nil {
			return 0, c.err
		}
		for upTo = from; upTo < to; upTo++ {
			n := int64(t.frames[upTo].payload)
			if n > c.connWindow || n > c.streamWindow {
				break
			}
			c.connWindow -= n
			c.streamWindow -= n
		}
		if upTo > from {
			return upTo, nil
		}
		c.changed.Wait()
	}
}

// finish ends the stream and waits until the server has said that it took
// all of it. The connection is closed in any case.
func (c *call) finish(ctx context.Context) error {
	c.writing.Lock()
	err := c.frames.WriteData(streamID, true, nil)
	c.writing.Unlock()
	if err != nil {
		err = c.fail(fmt.Errorf("end stream: %w", err))
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		err = fmt.Errorf("wait for the server's last word: %w", ctx.Err())
	}
	_ = c.conn.Close() // all was said
	<-c.done
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil && !errors.Is(c.err, errEnded) {
		return c.err
	}
	return err
}

// errEnded is the good end.
var errEnded = errors.New("the server ended the stream")

// fail keeps the first reason.
func (c *call) fail(err error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = err
		c.changed.Broadcast()
	}
	return c.err
}

// read answers the server until it ends the stream or the connection.
func (c *call) read() {
	defer close(c.done)
	for {
		f, err := c.frames.ReadFrame()
		if err != nil {
			_ = c.fail(fmt.Errorf("connection lost: %w", err))
			return
		}
		if err := c.handle(f); err != nil {
			_ = c.fail(err)
			return
		}
	}
}

func (c *call) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return c.settings(f)
	case *http2.WindowUpdateFrame:
		c.mu.Lock()
		defer c.mu.Unlock()
		if f.StreamID == 0 {
			c.connWindow += int64(f.Increment)
		} else {
			c.streamWindow += int64(f.Increment)
		}
		c.changed.Broadcast()
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		c.writing.Lock()
		defer c.writing.Unlock()
		return c.frames.WritePing(true, f.Data)
	case *http2.MetaHeadersFrame:
		if f.StreamEnded() {
			return trailers(f)
		}
	case *http2.RSTStreamFrame:
		return fmt.Errorf("the server reset the stream: %s", f.ErrCode)
	case *http2.GoAwayFrame:
		if f.LastStreamID < streamID || f.ErrCode != http2.ErrCodeNo {
			return fmt.Errorf("the server went away: %s %s", f.ErrCode, f.DebugData())
		}
	}
	return nil
}

func (c *call) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if window, ok := f.Value(http2.SettingInitialWindowSize); ok {
		c.mu.Lock()
		c.streamWindow += int64(window) - c.initialWindow
		c.initialWindow = int64(window)
		c.changed.Broadcast()
		c.mu.Unlock()
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.frames.WriteSettingsAck()
}

func trailers(f *http2.MetaHeadersFrame) error {
	status, message := "", ""
	for _, field := range f.Fields {
		switch field.Name {
		case "grpc-status":
			status = field.Value
		case "grpc-message":
			message = field.Value
		}
	}
	if status == "0" {
		return errEnded
	}
	return fmt.Errorf("the server ended the stream with status %q: %s", status, message)
}
