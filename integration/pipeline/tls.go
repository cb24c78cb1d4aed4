package pipeline

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
)

// IngressTLS is what a producer needs to reach a Doppler, from a directory made
// by `lgr certs`; nil when dir is empty.
func IngressTLS(dir string) (*tls.Config, error) {
	conf, err := ReaderTLS(dir)
	if err != nil || conf == nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(dir+"/metron.crt", dir+"/metron.key")
	if err != nil {
		return nil, fmt.Errorf("load the producer's certificate: %w", err)
	}
	conf.Certificates = []tls.Certificate{cert}
	conf.ServerName = "doppler"
	return conf, nil
}

// ReaderTLS is what a reader needs to reach a Traffic Controller; nil when dir
// is empty.
func ReaderTLS(dir string) (*tls.Config, error) {
	if dir == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(dir + "/ca.crt")
	if err != nil {
		return nil, fmt.Errorf("load the authority: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("load the authority: no certificate in %s/ca.crt", dir)
	}
	return &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}
