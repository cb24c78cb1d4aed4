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

// stream is a client-streaming gRPC call on a connection of its own, which
// takes DATA frames that are already laid out. On the wire it is what any gRPC
// client says; it only spends less on saying it. write and finish are called by
// one goroutine.
type stream struct {
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

// openStream dials and sends the request's headers. tlsConfig may be nil.
func openStream(ctx context.Context, addr, method string, tlsConfig *tls.Config) (*stream, error) {
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
	s := &stream{
		conn: conn, done: make(chan struct{}), frames: http2.NewFramer(conn, conn),
		connWindow: defaultWindow, streamWindow: defaultWindow, initialWindow: defaultWindow,
	}
	s.changed = sync.NewCond(&s.mu)
	s.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := s.request(scheme, addr, method); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", method, err), conn.Close())
	}
	go s.read()
	return s, nil
}

func (s *stream) request(scheme, authority, method string) error {
	var block headerBlock
	block.enc = hpack.NewEncoder(&block)
	block.fields(
		":method", "POST", ":scheme", scheme, ":path", method, ":authority", authority,
		"content-type", "application/grpc", "te", "trailers", "user-agent", "lgr-loadtool",
	)
	if _, err := s.conn.Write([]byte(http2.ClientPreface)); err != nil {
		return err
	}
	if err := s.frames.WriteSettings(); err != nil {
		return err
	}
	return s.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: streamID, BlockFragment: block.bytes, EndHeaders: true})
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
func (s *stream) write(t *template, from, to int) error {
	for from < to {
		upTo, err := s.reserve(t, from, to)
		if err != nil {
			return err
		}
		start := 0
		if from > 0 {
			start = t.frames[from-1].end
		}
		s.writing.Lock()
		_, err = s.conn.Write(t.wire[start:t.frames[upTo-1].end])
		s.writing.Unlock()
		if err != nil {
			return s.fail(fmt.Errorf("send: %w", err))
		}
		from = upTo
	}
	return nil
}

// reserve waits until at least one frame fits the windows.
func (s *stream) reserve(t *template, from, to int) (upTo int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.err != nil {
			return 0, s.err
		}
		for upTo = from; upTo < to; upTo++ {
			n := int64(t.frames[upTo].payload)
			if n > s.connWindow || n > s.streamWindow {
				break
			}
			s.connWindow -= n
			s.streamWindow -= n
		}
		if upTo > from {
			return upTo, nil
		}
		s.changed.Wait()
	}
}

// finish ends the stream and waits until the server has said that it took
// all of it. The connection is closed in any case.
func (s *stream) finish(ctx context.Context) error {
	s.writing.Lock()
	err := s.frames.WriteData(streamID, true, nil)
	s.writing.Unlock()
	if err != nil {
		err = s.fail(fmt.Errorf("end stream: %w", err))
	}
	select {
	case <-s.done:
	case <-ctx.Done():
		err = fmt.Errorf("wait for the server's last word: %w", ctx.Err())
	}
	_ = s.conn.Close() // all was said
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil && !errors.Is(s.err, errEnded) {
		return s.err
	}
	return err
}

// errEnded is the good end.
var errEnded = errors.New("the server ended the stream")

// fail keeps the first reason.
func (s *stream) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.changed.Broadcast()
	}
	return s.err
}

// read answers the server until it ends the stream or the connection.
func (s *stream) read() {
	defer close(s.done)
	for {
		f, err := s.frames.ReadFrame()
		if err != nil {
			_ = s.fail(fmt.Errorf("connection lost: %w", err))
			return
		}
		if err := s.handle(f); err != nil {
			_ = s.fail(err)
			return
		}
	}
}

func (s *stream) handle(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return s.settings(f)
	case *http2.WindowUpdateFrame:
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.StreamID == 0 {
			s.connWindow += int64(f.Increment)
		} else {
			s.streamWindow += int64(f.Increment)
		}
		s.changed.Broadcast()
	case *http2.PingFrame:
		if f.IsAck() {
			return nil
		}
		s.writing.Lock()
		defer s.writing.Unlock()
		return s.frames.WritePing(true, f.Data)
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

func (s *stream) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if window, ok := f.Value(http2.SettingInitialWindowSize); ok {
		s.mu.Lock()
		s.streamWindow += int64(window) - s.initialWindow
		s.initialWindow = int64(window)
		s.changed.Broadcast()
		s.mu.Unlock()
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.frames.WriteSettingsAck()
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
