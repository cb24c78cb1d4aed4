package stream

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"nhooyr.io/websocket"
)

// AcceptOptions tune Accept. The zero value has the defaults.
type AcceptOptions struct {
	// Subprotocols the server speaks, in order of preference. A client that
	// asks for none of them is accepted without: see Conn.Subprotocol.
	Subprotocols []string
	// SocketBuffer is the size of the kernel's send and receive buffers in
	// bytes; DefaultSocketBuffer if 0.
	SocketBuffer int
	// ReadLimit is the size in bytes of the largest message a client may send;
	// DefaultServerReadLimit if 0. A larger one closes with CloseTooBig.
	ReadLimit int64
}

// Accept makes a WebSocket of the request. Any Origin will do: who may connect
// is not decided here. After it the handler may return, the connection lives
// on; nothing of the request may be used any more then.
//
// A request that is no proper handshake gets its answer here, in plain words:
// 426 when it is plain HTTP, 400 when the handshake is broken. The error is
// for the log.
func Accept(w http.ResponseWriter, r *http.Request, o AcceptOptions) (*Conn, error) {
	if fault, status := checkUpgrade(r); fault != "" {
		if status == http.StatusUpgradeRequired && r.ProtoMajor == 1 {
			w.Header().Set("Upgrade", "websocket")
			w.Header().Set("Connection", "Upgrade")
		}
		http.Error(w, fault, status)
		return nil, fmt.Errorf("accept WebSocket: %s", fault)
	}
	h := &hijacker{ResponseWriter: w}
	ws, err := websocket.Accept(h, r, &websocket.AcceptOptions{
		Subprotocols:       o.Subprotocols,
		InsecureSkipVerify: true, // any Origin
		CompressionMode:    websocket.CompressionDisabled,
	})
	if err != nil {
		if h.conn != nil {
			_ = h.conn.Conn.Close()
		}
		return nil, fmt.Errorf("accept WebSocket: %w", err)
	}
	subprotocol := ws.Subprotocol()
	h.conn.keep.Store(true)
	_ = ws.CloseNow() // ends the library's part; the socket stays open

	c := newConn(h.conn.Conn, false, orDefault(o.ReadLimit, DefaultServerReadLimit))
	c.subprotocol = subprotocol
	c.in.preload(h.early)
	c.tune(orDefault(o.SocketBuffer, DefaultSocketBuffer))
	return c, nil
}

func orDefault[T int | int64](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// checkUpgrade says what keeps r from being a handshake.
func checkUpgrade(r *http.Request) (fault string, status int) {
	switch {
	case r.Method != http.MethodGet:
		return "a WebSocket handshake is a GET, this is a " + r.Method, http.StatusMethodNotAllowed
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor > 1:
		return "this path is a WebSocket and speaks HTTP/1.1 only, not " + r.Proto, http.StatusUpgradeRequired
	case !hasToken(r.Header, "Upgrade", "websocket") || !hasToken(r.Header, "Connection", "upgrade"):
		return "this path is a WebSocket: connect with a WebSocket client (or, behind a proxy, pass the Upgrade and Connection headers on)",
			http.StatusUpgradeRequired
	case r.Header.Get("Sec-WebSocket-Version") != "13":
		return "the Sec-WebSocket-Version header has to be 13", http.StatusBadRequest
	}
	return "", 0
}

// hasToken tells whether a comma-separated header has a token.
func hasToken(h http.Header, name, token string) bool {
	for _, line := range h.Values(name) {
		for t := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(t), token) {
				return true
			}
		}
	}
	return false
}

// hijacker keeps the connection that the library takes over.
type hijacker struct {
	http.ResponseWriter
	conn  *heldConn
	early []byte // read from the connection before the handshake was over
}

// Hijack finds the connection below any middleware that has Unwrap.
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	if n := rw.Reader.Buffered(); n > 0 {
		p, _ := rw.Peek(n)
		h.early = append(h.early, p...)
	}
	h.conn = &heldConn{Conn: nc}
	return h.conn, rw, nil
}

// heldConn does not close while it is kept.
type heldConn struct {
	net.Conn
	keep atomic.Bool
}

func (h *heldConn) Close() error {
	if h.keep.Load() {
		return nil
	}
	return h.Conn.Close()
}
