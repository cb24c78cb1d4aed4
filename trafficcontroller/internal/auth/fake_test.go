package auth

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir, _ := certificates(); dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

const ccName = "cloud-controller.service"

// certificates holds one set of each authority, shared by all tests: keys are
// slow.
var certificates = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "auth")
	if err == nil {
		_, err = mtls.GenerateNamed(dir+"/uaa", false, mtls.NameOutside)
	}
	if err == nil {
		_, err = mtls.GenerateNamed(dir+"/cc", false, ccName, mtls.NameTrafficController)
	}
	return dir, err
})

func certificateDir(t testing.TB) string {
	t.Helper()
	dir, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// outside is UAA and Cloud Controller as handlers that can be changed at any
// time, with the requests they got.
type outside struct {
	mu       sync.Mutex
	uaa, cc  http.HandlerFunc // cc serves the internal API and the public one
	requests []string
	quiet    bool // requests are not noted
	connects int  // to UAA and to the internal API

	uaaServer, inside, external *httptest.Server
}

func (o *outside) serve(which func(*outside) http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		h := which(o)
		if !o.quiet {
			o.requests = append(o.requests, describe(r))
		}
		o.mu.Unlock()
		h(w, r)
	})
}

// describe writes a request as the vectors do.
func describe(r *http.Request) string {
	if r.Method == http.MethodGet {
		return fmt.Sprintf("GET %s Authorization=%q", r.RequestURI, r.Header.Get("Authorization"))
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	user, secret, _ := r.BasicAuth()
	return fmt.Sprintf("%s %s basic=%s:%s ct=%s body=%s", r.Method, r.RequestURI, user, secret, r.Header.Get("Content-Type"), body)
}

func (o *outside) set(uaa, cc http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.uaa, o.cc, o.requests = uaa, cc, nil
}

// asked returns the requests since set.
func (o *outside) asked() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]string(nil), o.requests...)
}

func (o *outside) connected(_ net.Conn, s http.ConnState) {
	if s == http.StateNew {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.connects++
	}
}

// says answers everything with one status and body.
func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// newOutside starts servers that say yes to everything, and returns the
// configuration to reach them, without a cache.
func newOutside(t testing.TB) (*outside, Config) {
	t.Helper()
	dir := certificateDir(t)
	o := &outside{}
	o.set(says(200, `{"scope":["doppler.firehose"],"user_id":"u","client_id":"c"}`), says(200, "{}"))
	uaaFiles, ccFiles := mtls.SetFiles(dir+"/uaa", mtls.NameOutside), mtls.SetFiles(dir+"/cc", ccName)
	quiet := slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	// Not StartTLS: it would show its own certificate.
	start := func(h http.Handler, config *tls.Config, err error) *httptest.Server {
		if err != nil {
			t.Fatal(err)
		}
		s := httptest.NewUnstartedServer(h)
		s.Config.ErrorLog = quiet
		if config != nil {
			s.Config.ConnState = o.connected
			s.Listener = tls.NewListener(s.Listener, config)
		}
		s.Start()
		if config != nil {
			s.URL = strings.Replace(s.URL, "http:", "https:", 1)
		}
		t.Cleanup(s.Close)
		return s
	}
	uaa := o.serve(func(o *outside) http.HandlerFunc { return o.uaa })
	cc := o.serve(func(o *outside) http.HandlerFunc { return o.cc })
	config, err := mtls.Outside(uaaFiles.Cert, uaaFiles.Key)
	o.uaaServer = start(uaa, config, err)
	config, err = mtls.Server(ccFiles)
	o.inside = start(cc, config, err)
	o.external = start(cc, nil, nil)
	cfg := DefaultConfig()
	cfg.UAAAddr, cfg.UAACA, cfg.UAASecret = o.uaaServer.URL, uaaFiles.CA, "secret"
	cfg.CCAddr, cfg.CCTLS, cfg.CCServerName = o.inside.URL, mtls.SetFiles(dir+"/cc", mtls.NameTrafficController), ccName
	cfg.CCExternalAddr = o.external.URL
	cfg.CacheFor = 0
	return o, cfg
}

func newAuth(t *testing.T, cfg Config) *Auth {
	t.Helper()
	a, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// request is one with a token in its header.
func request(authorization string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

// scope is what UAA says about a good token.
func scope(scopes ...string) string {
	return `{"scope":["` + strings.Join(scopes, `","`) + `"],"user_id":"u","client_id":"c"}`
}
