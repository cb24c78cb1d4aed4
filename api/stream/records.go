package stream

import (
	"crypto/tls"
	"net"
	"sync"
	"time"
)

// NewTLSListener is tls.NewListener for servers that call Accept: the records of a
// message go to the socket together, and a write over TLS waits for the socket no
// more than one without. Other connections are as those of tls.NewListener.
func NewTLSListener(inner net.Listener, config *tls.Config) net.Listener {
	return tls.NewListener(recordListener{inner}, config)
}

type recordListener struct{ net.Listener }

// Accept puts a place for records on the connection.
func (l recordListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &records{Conn: nc}, nil
}

const (
	maxRecord  = 16 << 10 // payload (RFC 8446, 5.1)
	maxUnasked = 64 << 10 // bytes that a peer can make TLS write by itself, and not take
)

// records is a socket below TLS. Until a Conn takes it over it passes everything on.
// From then on it keeps what TLS writes, and the Conn writes that: so TLS never
// waits for the socket, and what fails for a while can be tried again.
type records struct {
	net.Conn

	mu      sync.Mutex
	unasked func()  // called when TLS writes by itself: an alert, new keys; nil before it is taken over
	sealing bool    // TLS writes what seal gives it
	kept    *Buffer // written and not taken
	size    int     // bytes of it
	closed  bool
}

// NetConn is the socket.
func (r *records) NetConn() net.Conn { return r.Conn }

// takeOver has r keep what is written from now on. The function is called with the
// locks of TLS held.
func (r *records) takeOver(unasked func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.unasked = unasked
}

// Write is for TLS.
func (r *records) Write(p []byte) (int, error) {
	if r.passes() {
		return r.Conn.Write(p)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return 0, net.ErrClosed
	case r.sealing:
		r.keep(p, 0)
	case r.size > maxUnasked:
		return 0, ErrStuck
	default:
		r.keep(p, 0)
		r.unasked()
	}
	return len(p), nil
}

// SetWriteDeadline is for the handshake: later nothing waits here, and the socket's
// deadline is the Conn's.
func (r *records) SetWriteDeadline(t time.Time) error {
	if r.passes() {
		return r.Conn.SetWriteDeadline(t)
	}
	return nil
}

// passes tells whether r was not taken over yet.
func (r *records) passes() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.unasked == nil
}

// keep appends p, and makes room for at least so many more bytes. mu is held.
func (r *records) keep(p []byte, more int) {
	need := r.size + len(p) + more
	if r.kept == nil || need > r.kept.Cap() {
		if r.kept != nil {
			need += r.size // as it has grown, it grows further
		}
		b := NewBuffer(need)
		b.Resize(b.Cap())
		if r.kept != nil {
			copy(b.Bytes(), r.kept.Bytes()[:r.size])
			r.kept.Release()
		}
		r.kept = b
	}
	r.size += copy(r.kept.Bytes()[r.size:], p)
}

// seal returns, encrypted, bufs behind what was kept before, or nil if that is
// nothing. It is called by one goroutine at a time, and does not wait for the socket.
func (r *records) seal(t *tls.Conn, bufs [][]byte) (*Buffer, error) {
	total := 0
	for _, p := range bufs {
		total += len(p)
	}
	r.mu.Lock()
	r.sealing = true
	if total > 0 && !r.closed {
		r.keep(nil, total+total/128+128)
	}
	r.mu.Unlock()
	err := encrypt(t, bufs)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sealing = false
	sealed := r.take()
	if err != nil && sealed != nil {
		sealed.Release()
		sealed = nil
	}
	return sealed, err
}

// take returns what was kept. mu is held.
func (r *records) take() *Buffer {
	b := r.kept
	if b == nil {
		return nil
	}
	b.Resize(r.size)
	if r.kept, r.size = nil, 0; b.Len() == 0 {
		b.Release()
		return nil
	}
	return b
}

// back takes back what the socket did not take, and releases it.
func (r *records) back(b *Buffer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer b.Release()
	if r.closed {
		return
	}
	later := r.take()
	r.keep(b.Bytes(), 0)
	if later != nil {
		r.keep(later.Bytes(), 0)
		later.Release()
	}
}

// Close forgets what was kept.
func (r *records) Close() error {
	r.mu.Lock()
	r.closed = true
	if b := r.take(); b != nil {
		b.Release()
	}
	r.mu.Unlock()
	return r.Conn.Close()
}

// encrypt writes bufs in as few records as there can be without copying much: each
// costs something, but so does a copy.
func encrypt(t *tls.Conn, bufs [][]byte) error {
	p := packer{to: t}
	defer p.drop()
	for _, b := range bufs {
		if err := p.add(b); err != nil {
			return err
		}
	}
	return p.flush()
}

// packer has small pieces share a record.
type packer struct {
	to    *tls.Conn
	small *Buffer // made for the first of them
	n     int     // bytes in it
}

// add writes what of b fills records of its own, and keeps the rest.
func (p *packer) add(b []byte) error {
	if whole := len(b) - len(b)%maxRecord; whole > 0 {
		if err := p.flush(); err != nil {
			return err
		}
		if _, err := p.to.Write(b[:whole]); err != nil {
			return err
		}
		b = b[whole:]
	}
	for len(b) > 0 {
		if p.small == nil {
			p.small = NewBuffer(maxRecord - room)
		}
		took := copy(p.small.Bytes()[p.n:], b)
		if p.n, b = p.n+took, b[took:]; p.n < p.small.Len() {
			continue
		}
		if err := p.flush(); err != nil {
			return err
		}
	}
	return nil
}

// flush writes what was kept.
func (p *packer) flush() error {
	if p.n == 0 {
		return nil
	}
	_, err := p.to.Write(p.small.Bytes()[:p.n])
	p.n = 0
	return err
}

func (p *packer) drop() {
	if p.small != nil {
		p.small.Release()
	}
}
