package conformance

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// exchange is what the HTTP vectors have in common.
type exchange struct {
	Case            string
	Method, Path    string
	RequestHeaders  map[string]string `json:"request_headers"`
	RequestBody     string            `json:"request_body"`
	Status          int
	ResponseHeaders map[string]string `json:"response_headers"`
	ResponseBody    string            `json:"response_body"`
}

// client is a connection of one request.
type client struct {
	conn net.Conn
	in   *bufio.Reader
	*http.Response
}

// do sends a request as bytes, so that nothing mends it on its way, and reads
// the head of the answer.
func do(ctx context.Context, t *testing.T, s *pipeline.Service, e exchange) *client {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Addrs[pipeline.Public])
	if err != nil {
		t.Fatal(err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	t.Cleanup(func() {
		stop()
		_ = conn.Close()
	})
	if e.Method == "" {
		e.Method = http.MethodGet
	}
	head := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: doppler.sys.example.com\r\n", e.Method, e.Path)
	for name, value := range e.RequestHeaders {
		head += name + ": " + value + "\r\n"
	}
	if _, ok := e.RequestHeaders["Upgrade"]; ok {
		head += "Connection: Upgrade\r\n" // which the recording left out
	}
	if e.RequestBody != "" {
		head += fmt.Sprintf("Content-Length: %d\r\n", len(e.RequestBody))
	}
	if _, err := io.WriteString(conn, head+"\r\n"+e.RequestBody); err != nil {
		t.Fatal(err)
	}
	c := &client{conn: conn, in: bufio.NewReader(conn)}
	if c.Response, err = http.ReadResponse(c.in, &http.Request{Method: e.Method}); err != nil {
		t.Fatal(err)
	}
	return c
}

// local is the address the server sees.
func (c *client) local() string { return c.conn.LocalAddr().String() }

// compareHead compares status and headers.
func compareHead(e exchange, c *client) (d []difference) {
	if c.StatusCode != e.Status {
		d = append(d, difference{"status", fmt.Sprint(e.Status), fmt.Sprint(c.StatusCode)})
	}
	got := map[string]string{}
	for name, values := range c.Header {
		got[name] = strings.Join(values, ",")
	}
	if len(c.TransferEncoding) > 0 {
		got["Transfer-Encoding"] = strings.Join(c.TransferEncoding, ",")
	}
	delete(got, "Date")
	if e.ResponseHeaders["Connection"] == "" && got["Connection"] == "close" {
		delete(got, "Connection") // the recording left it out
	}
	for name, want := range e.ResponseHeaders {
		if value, ok := got[name]; !ok || value != want {
			d = append(d, difference{"header " + name, want, got[name]})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(got)) {
		if _, ok := e.ResponseHeaders[name]; !ok {
			d = append(d, difference{"header " + name, "", got[name]})
		}
	}
	return d
}

// compare compares a whole answer that ends.
func compare(t *testing.T, e exchange, c *client) []difference {
	t.Helper()
	d := compareHead(e, c)
	if c.StatusCode == http.StatusSwitchingProtocols || c.StatusCode == http.StatusOK && len(c.TransferEncoding) > 0 {
		return d // it does not end
	}
	body, err := io.ReadAll(c.Body)
	if err != nil {
		t.Fatal(err)
	}
	if string(body) != e.ResponseBody {
		d = append(d, difference{"body", e.ResponseBody, string(body)})
	}
	return d
}

// frame reads one WebSocket frame of the server: its two bytes without the
// length, and its payload.
func (c *client) frame(t *testing.T) (first byte, masked bool, payload []byte) {
	t.Helper()
	var head [2]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		t.Fatal(err)
	}
	n := uint64(head[1] & 0x7f)
	if wide := map[uint64]int{126: 2, 127: 8}[n]; wide > 0 {
		length := make([]byte, 8)
		if _, err := io.ReadFull(c.in, length[8-wide:]); err != nil {
			t.Fatal(err)
		}
		n = binary.BigEndian.Uint64(length)
	}
	payload = make([]byte, n)
	if _, err := io.ReadFull(c.in, payload); err != nil {
		t.Fatal(err)
	}
	return head[0], head[1]&0x80 != 0, payload
}

// First bytes of frames that are whole messages (RFC 6455, section 5.2).
const (
	binaryFrame = 0x82
	closeFrame  = 0x88
	pingFrame   = 0x89
)

// message reads the next message, over pings.
func (c *client) message(t *testing.T) []byte {
	t.Helper()
	for {
		first, masked, payload := c.frame(t)
		switch {
		case first == pingFrame:
		case first != binaryFrame || masked:
			t.Fatalf("frame %#x, masked %v, %q: not a whole binary message", first, masked, payload)
		default:
			return payload
		}
	}
}

// hangUp closes a WebSocket well: code 1000, masked with zeros.
func (c *client) hangUp(t *testing.T) {
	t.Helper()
	if _, err := c.conn.Write([]byte{closeFrame, 0x82, 0, 0, 0, 0, 0x03, 0xe8}); err != nil {
		t.Fatal(err)
	}
}

// ends checks that the last frame is a close with 1000 and no reason.
func (c *client) ends(t *testing.T) (d []difference) {
	t.Helper()
	for {
		first, _, payload := c.frame(t)
		if first == pingFrame {
			continue
		}
		if first != closeFrame || string(payload) != "\x03\xe8" {
			d = append(d, difference{"last frame", "8802 03e8", fmt.Sprintf("%x %x", first, payload)})
		}
		return d
	}
}
