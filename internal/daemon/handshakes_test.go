package daemon

import (
	"bytes"
	"log/slog"
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
