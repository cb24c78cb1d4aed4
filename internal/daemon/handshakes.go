package daemon

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
)

// Handshakes tells why TLS handshakes fail, and counts them. Clients that only
// look whether somebody listens are not told of. It may be used concurrently.
type Handshakes struct {
	log    *slog.Logger
	quiet  *QuietEach
	failed atomic.Uint64
}

// NewHandshakes returns one that writes to log: a line or two a minute for each host
// and each kind of failure.
func NewHandshakes(log *slog.Logger) *Handshakes {
	return &Handshakes{log: log, quiet: NewQuietEach(log, "failure")}
}

// Failed is how many failed.
func (h *Handshakes) Failed() uint64 { return h.failed.Load() }

// Tell says why the handshake with a client failed.
func (h *Handshakes) Tell(remote, why string) {
	h.failed.Add(1)
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		host = remote
	}
	h.quiet.Of(host+": "+kind(why)).Warn("TLS handshake failed", "remote", remote, "error", why)
}

// kind is the beginning of an error, in words that TLS chose: what it quotes from
// clients, such as versions and names, comes behind a bracket, a quote or a number, as
// times and addresses do.
func kind(why string) string {
	parts := strings.SplitN(ownWords.FindString(why), ": ", kindParts+1)
	said := strings.Join(parts[:min(len(parts), kindParts)], ": ")
	return strings.TrimRight(said[:min(len(said), maxKind)], " :")
}

// ownWords has the number of x509, which begins many errors.
var ownWords = regexp.MustCompile(`^(?:x509|[^0-9\[("'` + "`" + `])*`)

// kindParts is how many parts "tls: failed to verify certificate: x509: certificate
// has expired" has, maxKind how many bytes are looked at.
const (
	kindParts = 4
	maxKind   = 120
)

// handshakeLine is how net/http begins what it writes of a failed handshake.
const handshakeLine = "http: TLS handshake error from "

// Watch has a server tell of its handshakes; what else it writes is logged at debug
// level, as NewHTTPServer does.
func (h *Handshakes) Watch(server *http.Server) {
	server.ErrorLog = slog.NewLogLogger(errorHandler{h.log.Handler(), h}, slog.LevelDebug)
}

// errorHandler gets what a http.Server writes.
type errorHandler struct {
	slog.Handler
	h *Handshakes
}

// Enabled is for lines of handshakes, whose level is their own.
func (e errorHandler) Enabled(context.Context, slog.Level) bool { return true }

// Handle tells of a handshake, or passes the line on.
func (e errorHandler) Handle(ctx context.Context, r slog.Record) error {
	said, ok := strings.CutPrefix(r.Message, handshakeLine)
	remote, why, cut := strings.Cut(said, ": ")
	switch {
	case ok && cut && why == io.EOF.Error():
	case ok && cut:
		e.h.Tell(remote, why)
	case e.Handler.Enabled(ctx, r.Level):
		return e.Handler.Handle(ctx, r)
	}
	return nil
}
