// Package mtls makes TLS configurations from certificate files: mutual TLS
// between our own services, plain server TLS towards the outside, and a
// working set of certificates for a laptop or a test.
//
// Every configuration reads its files again when they change, so certificates
// are rotated by replacing files; nothing has to be restarted or told.
package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Files names the certificate files of one end of mutual TLS.
type Files struct {
	// Cert and Key are PEM files: the certificate chain, leaf first, and its
	// private key.
	Cert, Key string
	// CA is a PEM file with every authority the other end may be signed by.
	CA string
	// Suites are the names of the cipher suites that a server takes in TLS 1.2;
	// empty for all of Suites().
	Suites []string
	// Log hears about files that changed and could not be used. Nil: slog's
	// default logger.
	Log *slog.Logger
}

// Empty tells whether no file is named at all: TLS is off.
func (f Files) Empty() bool { return f.Cert == "" && f.Key == "" && f.CA == "" }

// Complete tells whether all three files are named.
func (f Files) Complete() bool { return f.Cert != "" && f.Key != "" && f.CA != "" }

func (f Files) logger() *slog.Logger {
	if f.Log == nil {
		return slog.Default()
	}
	return f.Log
}

// checkEvery bounds how often a handshake looks at the files.
const checkEvery = time.Second

// watched is a value made from files. get makes it again when one of them has
// changed; a change that cannot be used is logged and the old value stays,
// because a file that is half written now is whole a moment later.
type watched[T any] struct {
	files []string
	load  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	value   T
	stamps  []stamp
	checked time.Time
}

// stamp is what a file looks like from outside.
type stamp struct {
	modified time.Time
	size     int64
}

func watch[T any](log *slog.Logger, load func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, load: load, log: log, checked: time.Now()}
	w.stamps = w.look()
	var err error
	w.value, err = load()
	return w, err
}

// get returns the present value. It may stat and read files, at most once in
// checkEvery.
func (w *watched[T]) get() T {
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); now.Sub(w.checked) >= checkEvery {
		w.checked = now
		w.refresh()
	}
	return w.value
}

func (w *watched[T]) refresh() {
	stamps := w.look()
	same := true
	for i := range stamps {
		same = same && stamps[i] == w.stamps[i]
	}
	if same {
		return
	}
	// Remembered also on failure: the fault is told once for each change.
	w.stamps = stamps
	value, err := w.load()
	if err != nil {
		w.log.Warn("changed certificate files cannot be used, keeping the old ones", "error", err)
		return
	}
	w.value = value
	w.log.Info("certificate files read again", "files", w.files)
}

func (w *watched[T]) look() []stamp {
	stamps := make([]stamp, len(w.files))
	for i, name := range w.files {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}

func watchPair(log *slog.Logger, cert, key string) (*watched[*tls.Certificate], error) {
	return watch(log, func() (*tls.Certificate, error) { return loadPair(cert, key) }, cert, key)
}

func watchPool(log *slog.Logger, ca string) (*watched[*x509.CertPool], error) {
	return watch(log, func() (*x509.CertPool, error) { return loadPool(ca) }, ca)
}

func loadPair(certFile, keyFile string) (*tls.Certificate, error) {
	certPEM, err := os.ReadFile(certFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	keyPEM, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, fmt.Errorf("read private key: %w", err)
	}
	if _, err := parseCertificates(certPEM); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", certFile, err)
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("private key %s for certificate %s: %w", keyFile, certFile, err)
	}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("certificate %s: expired on %s", certFile, pair.Leaf.NotAfter.Format(time.RFC3339))
	} else if now.Before(pair.Leaf.NotBefore) {
		return nil, fmt.Errorf("certificate %s: not valid before %s", certFile, pair.Leaf.NotBefore.Format(time.RFC3339))
	}
	return &pair, nil
}

func loadPool(caFile string) (*x509.CertPool, error) {
	data, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("CA certificates %s: %w", caFile, err)
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, nil
}

// parseCertificates reads every certificate of a PEM file; none is an error.
func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate %d: %w", len(certs)+1, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("holds no PEM certificate")
	}
	return certs, nil
}
