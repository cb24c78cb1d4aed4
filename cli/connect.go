package cli

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strings"

	"github.com/a1ea6966/loggregator/internal/mtls"
)

// tlsFlags say how to trust a server and how to be known to it.
type tlsFlags struct {
	CA         string `name:"tls-ca" env:"LGR_TLS_CA" placeholder:"FILE" help:"Authorities to trust, instead of the system's."`
	Cert       string `name:"tls-cert" env:"LGR_TLS_CERT" placeholder:"FILE" help:"Our certificate."`
	Key        string `name:"tls-key" env:"LGR_TLS_KEY" placeholder:"FILE" help:"Its key."`
	ServerName string `name:"tls-server-name" env:"LGR_TLS_SERVER_NAME" placeholder:"NAME" help:"Name to expect in the server's certificate."`
}

func (f tlsFlags) check() error {
	if (f.Cert == "") != (f.Key == "") {
		return errors.New("--tls-cert and --tls-key: one is of no use without the other")
	}
	return nil
}

func (f tlsFlags) files() mtls.Files { return mtls.Files{Cert: f.Cert, Key: f.Key, CA: f.CA} }

// outside is for servers that people talk to: a Traffic Controller, which asks
// for no certificate, or a Doppler's stream listener, which does.
func (f tlsFlags) outside() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if f.CA != "" {
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("read the authorities to trust: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read the authorities to trust: %s holds no certificate", f.CA)
		}
	}
	if f.Cert != "" {
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("read our certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// inside is for a Doppler's gRPC listener; nil without any file: plaintext.
func (f tlsFlags) inside() (*tls.Config, error) {
	if f.files().Empty() {
		return nil, nil
	}
	name := f.ServerName
	if name == "" {
		name = "doppler"
	}
	return mtls.Client(f.files(), name)
}

// baseURL makes an address, host:port or a URL, one that begins with http or
// https.
func baseURL(address string) (string, error) {
	if !strings.Contains(address, "://") {
		address = "http://" + address
	}
	u, err := url.Parse(address)
	if err != nil {
		return "", fmt.Errorf("--addr: %w", err)
	}
	scheme, ok := map[string]string{"http": "http", "ws": "http", "https": "https", "wss": "https"}[u.Scheme]
	if !ok || u.Host == "" {
		return "", fmt.Errorf("--addr: %q is no address like http://127.0.0.1:8081", address)
	}
	return scheme + "://" + u.Host + strings.TrimRight(u.Path, "/"), nil
}

// checkHostPorts returns all addresses at fault, joined.
func checkHostPorts(flag string, addrs []string) error {
	var faults []error
	for _, addr := range addrs {
		if _, port, err := net.SplitHostPort(addr); err != nil || port == "" {
			faults = append(faults, fmt.Errorf("%s: %q is no address like 127.0.0.1:8082", flag, addr))
		}
	}
	return errors.Join(faults...)
}
