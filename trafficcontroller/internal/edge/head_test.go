package edge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestHeads: what is over a limit is told which, as long as there is room to tell.
func TestHeads(t *testing.T) {
	const small, large = 4 << 10, 1 << 20
	target := func(n int) string {
		return "GET /" + strings.Repeat("x", n-1) + " HTTP/1.1\r\nHost: tc\r\n\r\n"
	}
	header := func(n int) string { // a head of n bytes
		head := "GET / HTTP/1.1\r\nHost: tc\r\nX-Long: %s\r\n\r\n"
		return fmt.Sprintf(head, strings.Repeat("x", n-len(head)+len("%s")))
	}
	many := func(n int) string {
		return "GET / HTTP/1.1\r\nHost: tc\r\n" + strings.Repeat("A: b\r\n", n) + "\r\n"
	}
	for _, c := range []struct {
		name   string
		limit  int64
		text   string
		status int
		says   string
	}{
		{"headers at the limit", small, header(small), 200, ""},
		{"headers over it", small, header(small + 1), 431, "first line and headers have 4097 bytes, the limit is 4096 (--max-header-bytes)"},
		{"headers up to the room", small, header(2 * small), 431, "have 8192 bytes, the limit is 4096"},
		{"headers far over it", small, header(4 * small), 431, "Request Header Fields Too Large"}, // by net/http
		{"many headers", small, many(1000), 431, "the limit is 4096"},
		{"path over it", small, target(small + 1), 414, "path and query have 4097 bytes, the limit is 4096"},
		{"path that leaves no room for headers", small, target(small), 431, "the limit is 4096"},
		{"path far over it", small, target(4 * small), 431, ""},
		{"path at its own limit", large, target(maxTarget), 200, ""},
		{"path over its own limit", large, target(maxTarget + 1), 414, "path and query have 524289 bytes, the limit is 524288"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := made(t, func(cfg *Config) { cfg.MaxHeaderBytes = c.limit })
			addr := served(t, e, func(http.ResponseWriter, *http.Request) {})
			status, body := ask(t, dial(t, addr), c.text)
			if status != c.status || !strings.Contains(body, c.says) {
				t.Errorf("%d %.200q, want %d with %q", status, body, c.status, c.says)
			}
			told := uint64(0)
			if strings.Contains(c.says, "the limit") {
				told = 1
			}
			if n := e.Refused()[Head]; n != told {
				t.Errorf("%d are counted", n)
			}
		})
	}
}
