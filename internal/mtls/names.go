package mtls

import (
	"crypto/tls"
	"slices"
)

// Names are what the certificate of the other end of a connection is called: its
// common name and its DNS names. nil when it has shown none. They are to be
// trusted only if the certificate was verified, as Server does.
func Names(state *tls.ConnectionState) []string {
	if state == nil || len(state.PeerCertificates) == 0 {
		return nil
	}
	leaf := state.PeerCertificates[0]
	names := slices.Clone(leaf.DNSNames)
	if cn := leaf.Subject.CommonName; cn != "" && !slices.Contains(names, cn) {
		names = append(names, cn)
	}
	return names
}
