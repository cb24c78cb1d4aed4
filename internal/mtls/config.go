package mtls

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
)

// The suites our services and Loggregator's agents speak in TLS 1.2. TLS 1.3
// chooses its own. RSA only: an ECDSA certificate needs TLS 1.3.
func insideSuites() []uint16 {
	return []uint16{
		tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	}
}

// Suites names the cipher suites that Files.Suites may have.
func Suites() (names []string) {
	for _, id := range insideSuites() {
		names = append(names, tls.CipherSuiteName(id))
	}
	return names
}

// suites are those of f.
func (f Files) suites() ([]uint16, error) {
	if len(f.Suites) == 0 {
		return insideSuites(), nil
	}
	var ids []uint16
	for _, name := range f.Suites {
		i := slices.Index(Suites(), name)
		if i < 0 {
			return nil, fmt.Errorf("cipher suite %.100q is not known; there are %v", name, Suites())
		}
		ids = append(ids, insideSuites()[i])
	}
	return ids, nil
}

// Server returns the configuration of a listener that takes only clients with
// a certificate of f.CA; any name in it will do. TLS 1.2 and 1.3. Changed
// files count from the next handshake on. The error names the file at fault.
// The result may be shared and must not be changed.
func Server(f Files) (*tls.Config, error) {
	pair, err := watchPair(f.logger(), f.Cert, f.Key)
	pool, poolErr := watchPool(f.logger(), f.CA)
	suites, suitesErr := f.suites()
	if err := errors.Join(err, poolErr, suitesErr); err != nil {
		return nil, fmt.Errorf("server TLS: %w", err)
	}
	config := &tls.Config{
		MinVersion:     tls.VersionTLS12,
		CipherSuites:   suites,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      pool.Get(),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.Get(), nil },
	}
	base, first := config.Clone(), config.ClientCAs
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := pool.Get()
		if now == first {
			return nil, nil // the outer configuration still holds
		}
		renewed := base.Clone()
		renewed.ClientCAs = now
		return renewed, nil
	}
	return config, nil
}

// Client returns the configuration of a dialler that shows its certificate
// and accepts a server whose certificate is signed by f.CA and carries
// serverName, a fixed string such as "doppler" and not the host dialled. TLS
// 1.2 and 1.3. Changed files count from the next handshake on. The error
// names the file at fault. The result may be shared and must not be changed.
func Client(f Files, serverName string) (*tls.Config, error) {
	pair, err := watchPair(f.logger(), f.Cert, f.Key)
	pool, poolErr := watchPool(f.logger(), f.CA)
	if err := errors.Join(err, poolErr); err != nil {
		return nil, fmt.Errorf("client TLS: %w", err)
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS12,
		CipherSuites:         insideSuites(),
		ServerName:           serverName,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return pair.Get(), nil },
		// RootCAs cannot change with its file, so the check that crypto/tls
		// would make is made by VerifyConnection, against the present pool;
		// it runs on resumed connections too.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			return verifyServer(state.PeerCertificates, serverName, pool.Get())
		},
	}, nil
}

// Trusting returns the configuration of a dialler that shows no certificate and
// accepts a server whose certificate is signed by an authority in caFile, or
// without one by an authority that this host trusts, and carries serverName:
// the name or address dialled. TLS 1.2 and 1.3 with Go's own suites. A changed
// file counts from the next handshake on. The error names the file at fault.
// The result may be shared and must not be changed.
func Trusting(caFile, serverName string, log *slog.Logger) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName}
	if caFile == "" {
		return config, nil
	}
	pool, err := watchPool(Files{Log: log}.logger(), caFile)
	if err != nil {
		return nil, fmt.Errorf("client TLS: %w", err)
	}
	config.InsecureSkipVerify = true // VerifyConnection does it, see Client
	config.VerifyConnection = func(state tls.ConnectionState) error {
		return verifyServer(state.PeerCertificates, serverName, pool.Get())
	}
	return config, nil
}

func verifyServer(chain []*x509.Certificate, name string, roots *x509.CertPool) error {
	if len(chain) == 0 {
		return errors.New("server showed no certificate")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range chain[1:] {
		intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: intermediates})
	if err != nil {
		return fmt.Errorf("verify server certificate: %w", err)
	}
	return nil
}

// Outside returns the configuration of a listener for clients of the outside
// world, who show no certificate. TLS 1.2 and 1.3 with Go's own suites. Changed
// files count from the next handshake on. The error names the file at fault.
// The result may be shared and must not be changed.
func Outside(certFile, keyFile string) (*tls.Config, error) {
	pair, err := watchPair(Files{}.logger(), certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("server TLS: %w", err)
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return pair.Get(), nil },
	}, nil
}
