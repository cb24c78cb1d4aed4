package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// secure are the flags of TLS.
type secure struct{ ca, cert, key, name string }

func (s *secure) flags(f *flag.FlagSet) {
	f.StringVar(&s.ca, "ca", "", "file with the authority to trust; none for plaintext")
	f.StringVar(&s.cert, "cert", "", "file with the certificate to show")
	f.StringVar(&s.key, "key", "", "file with its key")
	f.StringVar(&s.name, "server-name", "", "name in the server's certificate")
}

// config is nil for plaintext.
func (s *secure) config() (*tls.Config, error) {
	if s.ca == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(s.ca)
	if err != nil {
		return nil, fmt.Errorf("read authority: %w", err)
	}
	c := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: s.name, MinVersion: tls.VersionTLS12}
	if !c.RootCAs.AppendCertsFromPEM(pem) {
		return nil, errors.New("read authority: there is no certificate in " + s.ca)
	}
	if s.cert != "" {
		pair, err := tls.LoadX509KeyPair(s.cert, s.key)
		if err != nil {
			return nil, fmt.Errorf("read certificate: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// grpc is how to dial with gRPC.
func (s *secure) grpc() (grpc.DialOption, error) {
	c, err := s.config()
	if err != nil {
		return nil, err
	}
	if c == nil {
		return grpc.WithTransportCredentials(insecure.NewCredentials()), nil
	}
	return grpc.WithTransportCredentials(credentials.NewTLS(c)), nil
}
