// Package fakecf is a small UAA and Cloud Controller for tests: real TLS
// listeners, the requests of protocol/05 section 8 and their answers, and any
// misbehaviour on demand. What they know is a State, which can be changed while
// they run, also over HTTP (see Fake.control). Every request is noted.
package fakecf

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

// CCName is the name in the certificate of Cloud Controller's internal API.
const CCName = "cloud-controller-ng.service.cf.internal"

// Options say where to listen; an empty address is any port of 127.0.0.1.
type Options struct {
	// Dir takes the certificates; those of an earlier run are replaced.
	Dir                                     string
	UAA, CC, External, ExternalTLS, Control string
	State                                   State
}

// Ready is how to reach a Fake: URLs and file names.
type Ready struct {
	UAA   string `json:"uaa"`
	UAACA string `json:"uaa_ca"`
	// CC is the internal API, which wants a certificate.
	CC           string `json:"cc"`
	CCCert       string `json:"cc_cert"`
	CCKey        string `json:"cc_key"`
	CCCA         string `json:"cc_ca"`
	CCServerName string `json:"cc_server_name"`
	// External is the public API in plain, ExternalTLS the same with TLS.
	External    string `json:"external"`
	ExternalTLS string `json:"external_tls"`
	ExternalCA  string `json:"external_ca"`
	Control     string `json:"control"`
}

// Fake is a running UAA and Cloud Controller. Its methods may be called from
// any number of goroutines.
type Fake struct {
	Ready Ready // static

	keys keys

	mu       sync.Mutex
	state    State
	requests []Request // newest last, at most maxRequests

	servers []*http.Server // static after Start
	serving sync.WaitGroup
}

// Start makes certificates, which takes about a second, and listens. Close the
// result.
func Start(ctx context.Context, o Options) (*Fake, error) {
	f := &Fake{state: o.State.clone()}
	if err := f.keys.rotate(); err != nil {
		return nil, err
	}
	uaa, cc, external := filepath.Join(o.Dir, "uaa"), filepath.Join(o.Dir, "cc"), filepath.Join(o.Dir, "external")
	_, err := mtls.GenerateNamed(uaa, true, mtls.NameOutside)
	if err == nil {
		_, err = mtls.GenerateNamed(cc, true, CCName, mtls.NameTrafficController)
	}
	if err == nil {
		_, err = mtls.GenerateNamed(external, true, mtls.NameOutside)
	}
	if err != nil {
		return nil, fmt.Errorf("make certificates: %w", err)
	}
	client := mtls.SetFiles(cc, mtls.NameTrafficController)
	f.Ready = Ready{
		UAACA: mtls.SetFiles(uaa, mtls.NameOutside).CA, ExternalCA: mtls.SetFiles(external, mtls.NameOutside).CA,
		CCCert: client.Cert, CCKey: client.Key, CCCA: client.CA, CCServerName: CCName,
	}
	for _, l := range []struct {
		name, addr string
		url        *string
		handler    http.Handler
		tls        func() (*tls.Config, error)
	}{
		{"uaa", o.UAA, &f.Ready.UAA, f.noted("uaa", f.uaa()), outside(uaa)},
		{"cc", o.CC, &f.Ready.CC, f.noted("cc", f.internal()), func() (*tls.Config, error) { return mtls.Server(mtls.SetFiles(cc, CCName)) }},
		{"external", o.External, &f.Ready.External, f.noted("external", f.external()), nil},
		{"external-tls", o.ExternalTLS, &f.Ready.ExternalTLS, f.noted("external", f.external()), outside(external)},
		{"control", o.Control, &f.Ready.Control, f.control(), nil},
	} {
		if err := f.listen(ctx, l.addr, l.url, l.handler, l.tls); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", l.name, err), f.Close())
		}
	}
	return f, nil
}

func outside(dir string) func() (*tls.Config, error) {
	files := mtls.SetFiles(dir, mtls.NameOutside)
	return func() (*tls.Config, error) { return mtls.Outside(files.Cert, files.Key) }
}

// listen serves handler until Close and tells its URL.
func (f *Fake) listen(ctx context.Context, addr string, url *string, handler http.Handler, secure func() (*tls.Config, error)) error {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	*url = "http://" + listener.Addr().String()
	if secure != nil {
		config, err := secure()
		if err != nil {
			return errors.Join(err, listener.Close())
		}
		listener, *url = tls.NewListener(listener, config), "https://"+listener.Addr().String()
	}
	server := &http.Server{
		Handler: handler, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // handshakes that fail on purpose
	}
	f.servers = append(f.servers, server)
	f.serving.Go(func() { _ = server.Serve(listener) })
	return nil
}

// Close ends all connections, hanging ones too.
func (f *Fake) Close() error {
	var errs []error
	for _, s := range f.servers {
		errs = append(errs, s.Close())
	}
	f.serving.Wait()
	return errors.Join(errs...)
}

// SetState replaces all that UAA and Cloud Controller know.
func (f *Fake) SetState(s State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s.clone()
}

// State returns a copy of what they know.
func (f *Fake) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state.clone()
}

// Change changes what they know in one step.
func (f *Fake) Change(change func(*State)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
}
