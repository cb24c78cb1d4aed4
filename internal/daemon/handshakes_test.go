package daemon

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestHandshakes(t *testing.T) {
	var out bytes.Buffer
	h := NewHandshakes(slog.New(slog.NewTextHandler(&out, nil)))
	server := &http.Server{}
	h.Watch(server)
	log := server.ErrorLog
	for range 10 {
		log.Print("http: TLS handshake error from 192.0.2.1:99: tls: failed to verify certificate: x509: certificate has expired: current time")
	}
	log.Print("http: TLS handshake error from 192.0.2.1:99: tls: failed to verify certificate: x509: certificate signed by unknown authority")
	log.Print("http: TLS handshake error from 192.0.2.1:99: EOF") // a port scan
	log.Print("http: superfluous response.WriteHeader call")
	h.Tell("somewhere", "tls: client didn't provide a certificate")
	if n := h.Failed(); n != 12 {
		t.Errorf("%d counted", n)
	}
	text := out.String()
	for words, want := range map[string]int{
		"expired": 2, "unknown authority": 1, "didn't provide": 1, "superfluous": 0, "EOF": 0, "remote=192.0.2.1:99": 3, "remote=somewhere": 1,
	} {
		got := 0
		for line := range strings.Lines(text) {
			if strings.Contains(line, "error=") && strings.Contains(line[strings.Index(line, "msg="):], words) {
				got++
			}
		}
		if got != want {
			t.Errorf("%d lines with %q, not %d: %s", got, words, want, text)
		}
	}
}

// Kinds have nothing in them that a client chose.
func TestKindsOfHandshakes(t *testing.T) {
	for why, want := range map[string]string{
		"tls: client offered only unsupported versions: [7f00 1]":                                                      "tls: client offered only unsupported versions",
		"tls: client requested unsupported application protocols ([\"a\" \"b\"])":                                      "tls: client requested unsupported application protocols",
		"tls: received record with version 7f00 when expecting version 303":                                            "tls: received record with version",
		"tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026":      "tls: failed to verify certificate: x509: certificate has expired or is not yet valid",
		"tls: failed to parse client certificate: x509: cannot parse URI \"spiffe://a\": parse":                        "tls: failed to parse client certificate: x509: cannot parse URI",
		"tls: failed to verify certificate: x509: certificate signed by unknown authority (possibly because of \"a\")": "tls: failed to verify certificate: x509: certificate signed by unknown authority",
		"remote error: tls: bad certificate":                                                                           "remote error: tls: bad certificate",
		"read tcp 192.0.2.1:99->192.0.2.2:443: read: connection reset by peer":                                         "read tcp",
		"tls: first record does not look like a TLS handshake":                                                         "tls: first record does not look like a TLS handshake",
		"a: b: c: d: e":           "a: b: c: d",
		strings.Repeat("a", 1000): strings.Repeat("a", maxKind),
		"":                        "",
	} {
		if got := kind(why); got != want {
			t.Errorf("%.100q: %q, want %q", why, got, want)
		}
	}
}

// hello is a ClientHello that offers these versions.
func hello(versions ...uint16) []byte {
	extension := binary.BigEndian.AppendUint16([]byte{0, 43}, uint16(1+2*len(versions)))
	extension = append(extension, byte(2*len(versions)))
	for _, v := range versions {
		extension = binary.BigEndian.AppendUint16(extension, v)
	}
	body := append([]byte{3, 3}, make([]byte, 32)...) // random
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)       // no session, one cipher, no compression
	body = binary.BigEndian.AppendUint16(body, uint16(len(extension)))
	body = append(body, extension...)
	message := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(message) >> 8), byte(len(message))}, message...)
}

// TestHandshakesOfOneHost: whatever it offers, it makes two lines and one entry.
func TestHandshakesOfOneHost(t *testing.T) {
	var out bytes.Buffer
	h := NewHandshakes(slog.New(slog.NewTextHandler(&out, nil)))
	config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }}
	for i := range uint16(100) {
		client, server := net.Pipe()
		go func() {
			_, _ = client.Write(hello(0x7f00+i, i))
			_, _ = io.Copy(io.Discard, client)
		}()
		err := tls.Server(server, config).Handshake()
		if err == nil || !strings.Contains(err.Error(), "unsupported versions") {
			t.Fatalf("handshake: %v", err)
		}
		h.Tell("192.0.2.1:99", err.Error())
		_, _ = client.Close(), server.Close()
	}
	if n := strings.Count(out.String(), "\n"); n != 1+spare || len(h.quiet.gates) != 1 || h.Failed() != 100 {
		t.Errorf("%d lines, %d entries, %d counted", n, len(h.quiet.gates), h.Failed())
	}
}
