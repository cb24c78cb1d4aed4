package stream

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// accepting serves one WebSocket after the other.
func accepting(tb testing.TB, o AcceptOptions) (url string, conns <-chan *Conn) {
	got := make(chan *Conn, 16)
	srv := httptest.NewServer(acceptHandler(tb, o, got))
	tb.Cleanup(srv.Close)
	return srv.URL, got
}

func acceptHandler(tb testing.TB, o AcceptOptions, got chan<- *Conn) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, err := Accept(w, r, o)
		if err != nil {
			tb.Errorf("accept: %v", err)
			return
		}
		tb.Cleanup(c.CloseNow)
		got <- c
	})
}

// pair is a server and a client that are connected over TCP.
func pair(tb testing.TB, ao AcceptOptions, do DialOptions) (server, client *Conn) {
	tb.Helper()
	url, conns := accepting(tb, ao)
	client = dial(tb, url, do)
	return <-conns, client
}

func dial(tb testing.TB, url string, o DialOptions) *Conn {
	tb.Helper()
	c, err := Dial(tb.Context(), url, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.CloseNow)
	return c
}

// pairTLS is the same over TLS.
func pairTLS(tb testing.TB, ao AcceptOptions, do DialOptions) (server, client *Conn) {
	tb.Helper()
	return pairBehind(tb, ao, do, func(l net.Listener) net.Listener { return recordListener{l} })
}

// pairBehind is the same over TLS of a server that has a listener of its own.
func pairBehind(tb testing.TB, ao AcceptOptions, do DialOptions, own func(net.Listener) net.Listener) (server, client *Conn) {
	tb.Helper()
	got := make(chan *Conn, 1)
	srv := httptest.NewUnstartedServer(acceptHandler(tb, ao, got))
	srv.Listener = own(srv.Listener)
	cert, roots := certificate(tb)
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	do.TLS = &tls.Config{RootCAs: roots}
	client = dial(tb, srv.URL, do)
	return <-got, client
}

func certificate(tb testing.TB) (tls.Certificate, *x509.CertPool) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

// rawClient is a TCP connection that has done the handshake by hand.
func rawClient(tb testing.TB, o AcceptOptions) (server *Conn, nc net.Conn) {
	tb.Helper()
	url, conns := accepting(tb, o)
	nc, err := net.Dial("tcp", url[len("http://"):])
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = nc.Close() })
	shake(tb, nc)
	return <-conns, nc
}

const handshakeRequest = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

// shake sends the request and takes the answer byte by byte, not more.
func shake(tb testing.TB, nc net.Conn) {
	tb.Helper()
	if _, err := io.WriteString(nc, handshakeRequest); err != nil {
		tb.Fatal(err)
	}
	answer := make([]byte, 0, 512)
	for len(answer) < 4 || string(answer[len(answer)-4:]) != "\r\n\r\n" {
		answer = answer[:len(answer)+1]
		if _, err := io.ReadFull(nc, answer[len(answer)-1:]); err != nil {
			tb.Fatal(err)
		}
	}
}

// clientFrame is a masked frame of any kind.
func clientFrame(first byte, payload []byte) []byte {
	key := [4]byte{0x12, 0x34, 0x56, 0x78}
	p := appendHeader(nil, 0, len(payload), maskBit)
	p[0] = first
	p = append(p, key[:]...)
	at := len(p)
	p = append(p, payload...)
	for i := range payload {
		p[at+i] ^= key[i&3]
	}
	return p
}

// readFrame reads one unmasked frame.
func readFrame(r io.Reader) (op opcode, payload []byte, err error) {
	var h [2]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(h[1])
	more := map[byte]int{126: 2, 127: 8}[h[1]]
	ext := make([]byte, 8)
	if _, err := io.ReadFull(r, ext[8-more:]); err != nil {
		return 0, nil, err
	}
	if more > 0 {
		size = binary.BigEndian.Uint64(ext)
	}
	payload = make([]byte, size)
	_, err = io.ReadFull(r, payload)
	return opcode(h[0] & opcodeBits), payload, err
}

// pump reads c in the background until its end, and hands over what comes.
func pump(c *Conn) (messages <-chan []byte, end <-chan error) {
	m, e := make(chan []byte, 1024), make(chan error, 1)
	go func() {
		for {
			b, err := c.Read(context.Background())
			if err != nil {
				e <- err
				return
			}
			m <- append([]byte(nil), b.Bytes()...)
			b.Release()
		}
	}()
	return m, e
}

// pattern is size bytes that tell their place.
func pattern(size int, seed byte) []byte {
	p := make([]byte, size)
	for i := range p {
		p[i] = byte(i*7) + byte(i>>8) + seed
	}
	return p
}

// within fails the test if ch gives nothing for a long time.
func within[T any](tb testing.TB, ch <-chan T) T {
	tb.Helper()
	var v T
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		tb.Fatal("nothing came for 20 s")
	}
	return v
}

// eventually waits for what happens soon.
func eventually(tb testing.TB, ok func() bool) {
	tb.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			tb.Fatal("did not happen within 20 s")
		}
		time.Sleep(time.Millisecond)
	}
}
