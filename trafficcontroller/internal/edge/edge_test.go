package edge

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func made(t *testing.T, change func(*Config)) *Edge {
	t.Helper()
	cfg := DefaultConfig()
	if change != nil {
		change(&cfg)
	}
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestConfig(t *testing.T) {
	cfg := Config{ProxyProtocol: true, TrustedProxies: []string{"10.0.0.0/33"}, AllowedOrigins: []string{"example.com"}, MaxPending: 1, MaxPerUser: -1, MaxPerAddress: -1}
	f := &daemon.Faults{}
	cfg.Validate(f)
	for _, flag := range []string{"trusted-proxy", "allowed-origin", "max-pending", "max-pending-bytes", "max-connections-per-user", "max-connections-per-address", "max-header-bytes", "answer-timeout"} {
		if !strings.Contains(f.Err().Error(), "--"+flag+" ") {
			t.Errorf("--%s is not told: %v", flag, f.Err())
		}
	}
	f = &daemon.Faults{}
	cfg = DefaultConfig()
	cfg.ProxyProtocol = true
	if cfg.Validate(f); f.Err() == nil || !strings.Contains(f.Err().Error(), "--proxy-protocol true: needs --trusted-proxy") {
		t.Errorf("PROXY headers of everybody: %v", f.Err())
	}
}

func TestClient(t *testing.T) {
	e := made(t, func(c *Config) { c.TrustedProxies = []string{"10.0.0.0/8", "2001:db8:1::/48", "192.0.2.1"} })
	for _, c := range []struct {
		peer, forwarded, proto, want, scheme string
	}{
		{"198.51.100.1:7", "1.2.3.4", "https", "198.51.100.1:7", "http"}, // believed from nobody else
		{"10.0.0.1:7", "", "", "10.0.0.1:7", "http"},
		{"10.0.0.1:7", "1.2.3.4", "https", "1.2.3.4", "https"},
		{"10.0.0.1:7", "6.6.6.6, 1.2.3.4", "http, HTTPS", "1.2.3.4", "https"}, // what the client made up is before
		{"10.0.0.1:7", "6.6.6.6, 1.2.3.4, 10.9.9.9,192.0.2.1", "gopher", "1.2.3.4", "http"},
		{"10.0.0.1:7", "10.0.0.3, 10.0.0.2", "", "10.0.0.3", "http"},
		{"10.0.0.1:7", "1.2.3.4:99", "", "1.2.3.4:99", "http"},
		{"10.0.0.1:7", "[2001:db8::1]:99", "", "[2001:db8::1]:99", "http"},
		{"10.0.0.1:7", "2001:db8::1", "", "2001:db8::1", "http"},
		{"10.0.0.1:7", "[2001:db8::1]", "", "2001:db8::1", "http"},
		{"10.0.0.1:7", "::ffff:1.2.3.4", "", "1.2.3.4", "http"},
		{"10.0.0.1:7", "1.2.3.4, garbage", "", "10.0.0.1:7", "http"},
		{"10.0.0.1:7", "1.2.3.4,", "", "10.0.0.1:7", "http"},
		{"[::ffff:10.0.0.1]:7", "1.2.3.4", "", "1.2.3.4", "http"},
		{"[2001:db8:1::5]:7", "1.2.3.4", "", "1.2.3.4", "http"},
		{"pipe", "1.2.3.4", "", "", "http"},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = c.peer
		r.Header.Set("X-Forwarded-For", c.forwarded)
		r.Header.Set("X-Forwarded-Proto", c.proto)
		if got := e.client(r); got.String() != c.want || got.Scheme != c.scheme {
			t.Errorf("%s, %q, %q: %v %s, want %v %s", c.peer, c.forwarded, c.proto, got, got.Scheme, c.want, c.scheme)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "10.0.0.1:7"
	r.Header["X-Forwarded-For"] = []string{"6.6.6.6", "1.2.3.4, 10.0.0.2", "10.0.0.3"}
	if got := e.client(r); got.String() != "1.2.3.4" || !got.Forwarded {
		t.Errorf("three lines: %v", got)
	}
}

func TestOrigins(t *testing.T) {
	const cookie, header, path = "cookie", "header", "/apps/a/stream"
	e := made(t, func(c *Config) {
		c.AllowedOrigins = []string{"https://logs.example.com", "http://dev:3000", "*.apps.example.com"}
	})
	anyOrigin := made(t, func(c *Config) { c.AnyOrigin = true })
	for _, c := range []struct {
		origin, token, path string
		want                bool
	}{
		{"", cookie, path, true}, // no browser
		{"https://evil.example", header, path, true},
		{"wss://doppler.example.com:443", header, path, true}, // noaa
		{"https://evil.example", "", path, true},              // nothing to use
		{"https://evil.example", cookie, path, false},
		{"null", cookie, path, false},
		{"http://tc.example.com", cookie, path, true},
		{"http://TC.example.com:80", cookie, path, true},
		{"https://tc.example.com", cookie, path, false}, // another port
		{"http://tc.example.com.evil.example", cookie, path, false},
		{"https://logs.example.com", cookie, path, true},
		{"https://logs.example.com:443", cookie, path, true},
		{"http://logs.example.com", cookie, path, false},
		{"https://logs.example.com:8443", cookie, path, false},
		{"http://dev:3000", cookie, path, true},
		{"https://a.b.apps.example.com:4443", cookie, path, true},
		{"http://a.apps.example.com", cookie, path, false},
		{"https://apps.example.com", cookie, path, false},
		{"https://evilapps.example.com", cookie, path, false},
		{"https://x@logs.example.com", cookie, path, false},
		{"https://evil.example", "", "/set-cookie", false},
		{"https://evil.example", header, "//set-cookie", false},
		{"https://logs.example.com", "", "/set-cookie", true},
	} {
		r := httptest.NewRequest(http.MethodGet, "http://tc.example.com/", nil)
		r.URL.Path = c.path
		if c.origin != "" {
			r.Header.Set("Origin", c.origin)
		}
		switch c.token {
		case cookie:
			r.Header.Set("Cookie", "authorization=bearer+x")
		case header:
			r.Header.Set("Authorization", "bearer x")
		}
		status := func(e *Edge) int {
			w := httptest.NewRecorder()
			e.Identify(e.Check(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))).ServeHTTP(w, r)
			return w.Code
		}
		want := http.StatusForbidden
		if c.want {
			want = http.StatusOK
		}
		if got := status(e); got != want {
			t.Errorf("%q %q %s: %d, want %d", c.origin, c.token, c.path, got, want)
		}
		if got := status(anyOrigin); got != http.StatusOK {
			t.Errorf("any origin, %q: %d", c.origin, got)
		}
	}
}

func TestLimits(t *testing.T) {
	e := made(t, func(c *Config) { c.MaxPerUser, c.MaxPerAddress = 2, 3 })
	from := func(addr string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		return r.WithContext(context.WithValue(r.Context(), clientKey{}, Client{Addr: netip.MustParseAddr(addr)}))
	}
	var releases []func()
	for _, c := range []struct{ addr, user, why string }{
		{"1.1.1.1", "u", ""}, {"2.2.2.2", "u", ""}, {"3.3.3.3", "u", "this user: the limit is 2"},
		{"2001:db8::1", "", ""}, {"2001:db8::2", "", ""}, {"2001:db8::3", "", ""}, {"2001:db8::4", "", "from 2001:db8::/64: the limit is 3"},
		{"1.1.1.1", "v", ""},
	} {
		release, why := e.Take(from(c.addr), c.user)
		if !strings.Contains(why, c.why) || (why == "") != (c.why == "") {
			t.Errorf("%s %q: %q, want %q", c.addr, c.user, why, c.why)
		}
		if release != nil {
			releases = append(releases, release)
		}
	}
	for _, release := range releases {
		release()
		release() // once is enough
	}
	if len(e.limits.users) != 0 || len(e.limits.addrs) != 0 {
		t.Errorf("left: %v", e.limits.users)
	}
	if n := e.Refused(); n[User] != 1 || n[Address] != 1 {
		t.Errorf("refused %v", n)
	}
}

// served is a server behind an edge.
func served(t *testing.T, e *Edge, h http.HandlerFunc) string {
	t.Helper()
	l, err := daemon.Listen("127.0.0.1:0", 16<<10) // buffers that are full soon
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: e.Identify(e.Receive(h)), ConnState: e.ConnState, ConnContext: e.ConnContext, ReadHeaderTimeout: 10 * time.Second, MaxHeaderBytes: e.HeadRoom()}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(e.Listener(l))
	}()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
	return nc
}

func ask(t *testing.T, nc net.Conn, text string) (status int, body string) {
	t.Helper()
	if _, err := io.WriteString(nc, text); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(nc), nil)
	if err != nil {
		return 0, err.Error()
	}
	b, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b)
}

const get = "GET / HTTP/1.1\r\nHost: tc\r\n\r\n"

// TestPending: the oldest silent connection goes, and nobody else.
func TestPending(t *testing.T) {
	e := made(t, func(c *Config) { c.MaxPending = 16 })
	hold := make(chan struct{})
	busy := make(chan struct{}, 1)
	addr := served(t, e, func(_ http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hold" {
			busy <- struct{}{}
			<-hold
		}
	})
	working := dial(t, addr)
	_, _ = io.WriteString(working, "GET /hold HTTP/1.1\r\nHost: tc\r\n\r\n")
	<-busy
	var silent []net.Conn
	for range 20 {
		silent = append(silent, dial(t, addr))
	}
	for i, nc := range silent[:4] {
		if _, err := nc.Read(make([]byte, 1)); err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("silent connection %d is still open: %v", i, err)
		}
	}
	if status, body := ask(t, silent[19], get); status != http.StatusOK {
		t.Errorf("the newest: %d %s", status, body)
	}
	close(hold)
	if status, body := ask(t, working, ""); status != http.StatusOK {
		t.Errorf("the one in progress: %d %s", status, body)
	}
	if n := e.Refused()[Pending]; n < 4 || n > 6 { // two have become idle since
		t.Errorf("%d are counted", n)
	}
}

// TestPendingBytes: who has sent most goes, and what is taken over is bare.
func TestPendingBytes(t *testing.T) {
	e := made(t, func(c *Config) { c.MaxPendingBytes = 1 << 10 })
	taken := make(chan net.Conn, 1)
	addr := served(t, e, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/take" {
			nc, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
			}
			taken <- nc
		}
	})
	small, large := dial(t, addr), dial(t, addr)
	_, _ = io.WriteString(small, get[:20])
	_, _ = io.WriteString(large, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 2<<10))
	if _, err := large.Read(make([]byte, 1)); err == nil {
		t.Error("the large one is served")
	}
	if status, body := ask(t, small, get[20:]); status != http.StatusOK {
		t.Errorf("the small one: %d %s", status, body)
	}
	_, _ = io.WriteString(small, "GET /take HTTP/1.1\r\nHost: tc\r\n\r\n")
	nc := <-taken
	defer nc.Close()
	if _, ok := nc.(*net.TCPConn); !ok {
		t.Errorf("a %T is taken over", nc)
	}
	if e.PendingNow() != 0 || e.bytes != 0 || len(e.conns) != 0 {
		t.Errorf("left: %d pending, %d bytes, %d connections", e.PendingNow(), e.bytes, len(e.conns))
	}
}

func v2(command byte, family byte, payload string) string {
	return string(signatureV2) + string([]byte{command, family, byte(len(payload) >> 8), byte(len(payload))}) + payload
}

const four = "\xc6\x33\x64\x07\x0a\x00\x00\x01\x04\xd2\x1f\x91" // 198.51.100.7:1234 to 10.0.0.1:8081

func TestPROXY(t *testing.T) {
	for _, c := range []struct{ name, head, want, fault string }{
		{"version 1", "PROXY TCP4 198.51.100.7 10.0.0.1 1234 8081\r\n", "198.51.100.7:1234", ""},
		{"version 1, IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 1234 8081\r\n", "[2001:db8::1]:1234", ""},
		{"version 1, unknown", "PROXY UNKNOWN\r\n", "invalid AddrPort", ""},
		{"version 2", v2(0x21, 0x11, four), "198.51.100.7:1234", ""},
		{"version 2, local", v2(0x20, 0, ""), "invalid AddrPort", ""},
		{"version 2, more", v2(0x21, 0x11, four+"\x04\x00\x03abc"), "198.51.100.7:1234", ""},
		{"version 2, too much", string(signatureV2) + "\x21\x11\xff\xff", "", "the limit is 4096"},
		{"version 2, short", v2(0x21, 0x11, "\x01\x02"), "", "PROXY header"},
		{"version 1, endless", "PROXY TCP4 " + strings.Repeat("1", 200), "", "over 107 bytes"},
		{"version 1, bad address", "PROXY TCP4 1.2.3 10.0.0.1 1234 8081\r\n", "", "PROXY header"},
		{"none", "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "", "no PROXY header"},
		{"cut", "PROXY", "", "EOF"},
	} {
		after := "GET"
		in := bytes.NewReader([]byte(c.head + after))
		got, err := readPROXY(in)
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%s: %v, %v, want %q", c.name, got, err, c.fault)
			}
			continue
		}
		rest, _ := io.ReadAll(in)
		if err != nil || got.String() != c.want || string(rest) != after {
			t.Errorf("%s: %v, %v, rest %q", c.name, got, err, rest)
		}
	}
}

// TestProxyListener: headers count where a request comes from; who goes around
// the proxies is refused.
func TestProxyListener(t *testing.T) {
	where := func(w http.ResponseWriter, r *http.Request) { _, _ = fmt.Fprint(w, From(r), " ", r.RemoteAddr) }
	e := made(t, func(c *Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{"127.0.0.0/8"} })
	addr := served(t, e, where)
	for range 3 {
		dial(t, addr) // says nothing
	}
	if _, body := ask(t, dial(t, addr), v2(0x21, 0x11, four)+get); body != "198.51.100.7:1234 198.51.100.7:1234" {
		t.Errorf("version 2: %q", body)
	}
	if _, body := ask(t, dial(t, addr), v2(0x20, 0, "")+get); !strings.HasPrefix(body, "127.0.0.1:") {
		t.Errorf("local: %q", body)
	}
	if status, body := ask(t, dial(t, addr), get); status != 0 {
		t.Errorf("no header: %d %q", status, body)
	}
	stranger := made(t, func(c *Config) { c.ProxyProtocol, c.TrustedProxies = true, []string{"10.0.0.0/8"} })
	nc := dial(t, served(t, stranger, where))
	if n, err := nc.Read(make([]byte, 1)); err == nil {
		t.Errorf("a stranger gets %d bytes", n)
	}
	if e.Refused()[ProxyHeader] != 1 || stranger.Refused()[NotProxy] != 1 {
		t.Errorf("counted: %v, %v", e.Refused(), stranger.Refused())
	}
}

func TestBodies(t *testing.T) {
	e := made(t, nil)
	addr := served(t, e, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprint(w, len(b))
	})
	post := "POST / HTTP/1.1\r\nHost: tc\r\nContent-Encoding: gzip\r\n"
	for _, c := range []struct {
		name, text string
		status     int
		body       string
	}{
		{"small", post + "Content-Length: 3\r\n\r\nabc", 200, "3"}, // as it came, gzip or not
		{"large", post + "Content-Length: 65537\r\n\r\n", 413, "the limit is 65536 bytes"},
		{"chunks", post + "Transfer-Encoding: chunked\r\n\r\n11000\r\n" + strings.Repeat("x", 0x11000) + "\r\n0\r\n\r\n", 413, "the limit is 65536 bytes"},
	} {
		if status, body := ask(t, dial(t, addr), c.text); status != c.status || !strings.Contains(body, c.body) {
			t.Errorf("%s: %d %q", c.name, status, body)
		}
	}
	nc := dial(t, addr) // says that there is much to come, and nothing more
	if _, err := io.WriteString(nc, post+"Content-Length: 100000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if answer, err := io.ReadAll(nc); err != nil || !strings.Contains(string(answer), " 413 ") {
		t.Errorf("not closed: %.100q, %v", answer, err)
	}
	if e.Refused()[Body] != 3 {
		t.Errorf("counted: %v", e.Refused())
	}
}

// TestHTTP2: a client that knows better is told, in frames.
func TestHTTP2(t *testing.T) {
	e := made(t, nil)
	nc := dial(t, served(t, e, func(http.ResponseWriter, *http.Request) { t.Error("served") }))
	_, _ = io.WriteString(nc, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	answer, err := io.ReadAll(nc)
	want := "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x29\x07\x00\x00\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x0dthis service speaks HTTP/1.1 only"
	if err != nil || string(answer) != want {
		t.Errorf("%q, %v", answer, err)
	}
}

func FuzzPROXY(f *testing.F) {
	for _, seed := range []string{
		"PROXY TCP4 198.51.100.7 10.0.0.1 1234 8081\r\n", "PROXY TCP6 2001:db8::1 2001:db8::2 1234 8081\r\n", "PROXY UNKNOWN\r\n",
		v2(0x21, 0x11, four), v2(0x20, 0, ""), v2(0x21, 0x11, four+"\x04\x00\x03abc"), v2(0x21, 0x31, strings.Repeat("a", 216)), "GET / HTTP/1.1\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		addr, err := readPROXY(in)
		if taken := len(data) - in.Len(); taken > fixedV2+longestV2 {
			t.Fatalf("%d bytes were read", taken)
		}
		if err != nil && addr.IsValid() {
			t.Fatalf("%v in spite of %v", addr, err)
		}
	})
}

func FuzzForwarded(f *testing.F) {
	f.Add("1.2.3.4, 10.0.0.1", "https")
	f.Add("[2001:db8::1]:99,,", "http, ftp")
	f.Fuzz(func(t *testing.T, forwarded, proto string) {
		e, err := New(Config{TrustedProxies: []string{"10.0.0.0/8"}})
		if err != nil {
			t.Fatal(err)
		}
		r := &http.Request{RemoteAddr: "10.0.0.1:7", Header: http.Header{"X-Forwarded-For": {forwarded}, "X-Forwarded-Proto": {proto}}}
		if c := e.client(r); !c.Addr.IsValid() || c.Scheme != "http" && c.Scheme != "https" {
			t.Fatalf("%+v", c)
		}
	})
}

func FuzzOrigin(f *testing.F) {
	f.Add("https://tc.example.com")
	f.Add("null")
	f.Fuzz(func(t *testing.T, s string) {
		if o, err := splitOrigin(s); err == nil && (o.host == "" || o.port == "" || o.below) {
			t.Fatalf("%+v", o)
		}
	})
}
