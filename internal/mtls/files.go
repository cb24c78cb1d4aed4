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
	"time"

	"github.com/a1ea6966/loggregator/internal/watch"
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

func watchPair(log *slog.Logger, cert, key string) (*watch.Value[*tls.Certificate], error) {
	return watch.New(log, func() (*tls.Certificate, error) { return loadPair(cert, key) }, cert, key)
}

func watchPool(log *slog.Logger, ca string) (*watch.Value[*x509.CertPool], error) {
	return watch.New(log, func() (*x509.CertPool, error) { return loadPool(ca) }, ca)
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
