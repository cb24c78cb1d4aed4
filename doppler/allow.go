package doppler

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

// right is what a client may do.
type right int

// The rights.
const (
	rightWrite   right = iota // envelopes into the ring
	rightRead                 // envelopes
	rightInspect              // who reads and who writes
	numRights
)

func (r right) String() string { return [...]string{"write", "read", "inspect"}[r] }

// anyName on a list allows every client with a certificate of the authority.
const anyName = "*"

// allowed are the names of clients, by what they may do.
type allowed [numRights][]string

// defaultAllowed are the names that Loggregator's certificates have (protocol/05,
// section 9).
func defaultAllowed() allowed {
	return allowed{
		rightWrite:   {mtls.NameMetron, mtls.NameDoppler, mtls.NameTrafficController},
		rightRead:    {mtls.NameTrafficController, "reverselogproxy"},
		rightInspect: {mtls.NameTrafficController},
	}
}

func (a *allowed) flags(f *daemon.Flags) {
	for r, what := range []string{
		rightWrite:   "send envelopes",
		rightRead:    "read envelopes",
		rightInspect: "see who reads and who writes, on the stream listener",
	} {
		f.Strings(&a[r], "allow-"+right(r).String(),
			"`name` in the certificate of clients that may "+what+"; may be given again; * for all with a certificate of the authority")
	}
}

func (a *allowed) validate(f *daemon.Faults) {
	for r := range a {
		for _, name := range a[r] {
			if name == "" || len(name) > 253 {
				f.Addf("allow-"+right(r).String(), fmt.Sprintf("%.100q", name), "has to have 1 to 253 bytes")
			}
		}
	}
}

// guard lets clients do what their names allow. Without TLS it lets everybody do
// everything. It may be used concurrently.
type guard struct {
	allowed allowed
	on      bool
	log     *daemon.QuietEach
	refused [numRights]atomic.Uint64
}

func newGuard(a allowed, on bool, log *slog.Logger) *guard {
	return &guard{allowed: a, on: on, log: daemon.NewQuietEach(log, "client")}
}

// check returns nil if a client may, else why not.
func (g *guard) check(r right, state *tls.ConnectionState, remote string) error {
	if !g.on {
		return nil
	}
	names := mtls.Names(state)
	for _, name := range g.allowed[r] {
		if len(names) > 0 && name == anyName || slices.Contains(names, name) {
			return nil
		}
	}
	g.refused[r].Add(1)
	who := strings.Join(names, ", ")
	err := fmt.Errorf("the client's certificate is of %.300q, which may not %s here (--allow-%s)", who, r, r)
	g.log.Of(who).Warn("client refused", "remote", remote, "error", err)
	return err
}

// call checks a gRPC call before it begins.
func (g *guard) call(ctx context.Context, method string) error {
	if !g.on {
		return nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return status.Error(codes.PermissionDenied, "it is not known who calls")
	}
	var state *tls.ConnectionState
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		state = &info.State
	}
	if err := g.check(rightOf(method), state, p.Addr.String()); err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return nil
}

// rightOf is what a method needs; what is not known is for readers.
func rightOf(method string) right {
	if strings.HasPrefix(method, "/loggregator.v2.Ingress/") || strings.HasPrefix(method, "/plumbing.DopplerIngestor/") {
		return rightWrite
	}
	return rightRead
}

// path checks requests on the stream listener.
func (g *guard) path(path string, next http.Handler) http.Handler {
	need := rightRead
	if path == stream.PathSources || path == stream.PathSubscriptions {
		need = rightInspect
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := g.check(need, r.TLS, r.RemoteAddr); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
