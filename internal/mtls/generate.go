package mtls

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Names of the certificates GenerateSet makes, each a pair of files NAME.crt
// and NAME.key beside ca.crt and ca.key. Inside, the name is also the name in
// the certificate, which clients of that service expect.
const (
	NameCA                = "ca"
	NameDoppler           = "doppler"
	NameTrafficController = "trafficcontroller"
	// NameMetron is the agent's.
	NameMetron = "metron"
	// NameOutside is what the Traffic Controller shows to people and nozzles:
	// it holds for localhost, 127.0.0.1, ::1 and this host's name.
	NameOutside = "outside"
)

const (
	keyBits  = 2048
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 3 * 365 * 24 * time.Hour
	// Certificates are valid from a little before they are made, for hosts
	// whose clocks are behind.
	clockSkew = time.Hour
)

// SetFiles names the files of one certificate of a set in dir.
func SetFiles(dir, name string) Files {
	return Files{
		Cert: filepath.Join(dir, name+".crt"),
		Key:  filepath.Join(dir, name+".key"),
		CA:   filepath.Join(dir, NameCA+".crt"),
	}
}

// GenerateSet writes an authority and one certificate for each of the names
// above into dir, which it makes if need be, and returns the files written.
// Keys are RSA, because the internal TLS 1.2 suites are, and readable by their
// owner only. It refuses, naming them, to replace files that exist, unless
// force is set. Takes about a second.
func GenerateSet(dir string, force bool) ([]string, error) {
	return GenerateNamed(dir, force, NameDoppler, NameTrafficController, NameMetron, NameOutside)
}

// GenerateNamed is GenerateSet for other names: a new authority, and for each
// name a certificate that holds for it, or as NameOutside does.
func GenerateNamed(dir string, force bool, names ...string) ([]string, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make certificate directory: %w", err)
	}
	names = append([]string{NameCA}, names...)
	if err := refuseExisting(dir, names, force); err != nil {
		return nil, err
	}
	authority, err := newAuthority()
	if err != nil {
		return nil, err
	}
	var written []string
	for _, name := range names {
		made := authority
		if name != NameCA {
			if made, err = authority.issue(name); err != nil {
				return written, err
			}
		}
		files, err := made.write(dir, name)
		written = append(written, files...)
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

func refuseExisting(dir string, names []string, force bool) error {
	if force {
		return nil
	}
	var there []string
	for _, name := range names {
		f := SetFiles(dir, name)
		for _, file := range []string{f.Cert, f.Key} {
			if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
				there = append(there, file)
			}
		}
	}
	if len(there) > 0 {
		return fmt.Errorf("refusing to replace %s: %w", strings.Join(there, ", "), fs.ErrExist)
	}
	return nil
}

// issued is a certificate with its key, and with what it takes to sign others.
type issued struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newAuthority() (issued, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "Loggregator CA"},
		NotAfter:              time.Now().Add(caLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	return sign(template, nil)
}

func (i issued) issue(name string) (issued, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		NotAfter:    time.Now().Add(leafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames:    []string{name},
	}
	if name == NameOutside {
		template.ExtKeyUsage = template.ExtKeyUsage[:1]
		template.DNSNames = []string{"localhost"}
		template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback}
		if host, err := os.Hostname(); err == nil && host != "localhost" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return sign(template, &i)
}

// sign makes a key and a certificate for it; without a signer it signs itself.
func sign(template *x509.Certificate, by *issued) (issued, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return issued{}, fmt.Errorf("generate key: %w", err)
	}
	template.NotBefore = time.Now().Add(-clockSkew)
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return issued{}, fmt.Errorf("choose serial number: %w", err)
	}
	parent, signer := template, crypto.Signer(key)
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return issued{}, fmt.Errorf("sign certificate %q: %w", template.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return issued{}, fmt.Errorf("parse certificate %q: %w", template.Subject.CommonName, err)
	}
	return issued{cert, key}, nil
}

func (i issued) write(dir, name string) ([]string, error) {
	key, err := x509.MarshalPKCS8PrivateKey(i.key)
	if err != nil {
		return nil, fmt.Errorf("encode key %q: %w", name, err)
	}
	f := SetFiles(dir, name)
	if err := writePEM(f.Key, "PRIVATE KEY", key, 0o600); err != nil {
		return nil, err
	}
	if err := writePEM(f.Cert, "CERTIFICATE", i.cert.Raw, 0o644); err != nil {
		return []string{f.Key}, err
	}
	return []string{f.Key, f.Cert}, nil
}

// writePEM replaces file in one step, so that whoever watches it never reads
// half of it, and with the mode given also where a file was before.
func writePEM(file, kind string, der []byte, mode fs.FileMode) error {
	temporary := file + ".new"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", file, err)
	}
	data := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	if err := os.Rename(temporary, file); err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	return nil
}
