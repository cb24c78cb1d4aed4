package ingress

import (
	"errors"
	"io"
	"net"

	"google.golang.org/grpc/credentials"
)

// telling are credentials that say why a handshake fails.
type telling struct {
	credentials.TransportCredentials
	failed func(remote, why string)
}

// ServerHandshake is the inner one's. A client that leaves at once is not told of:
// it may have wanted to know whether somebody listens.
func (t telling) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, info, err := t.TransportCredentials.ServerHandshake(conn)
	if err != nil && !errors.Is(err, io.EOF) {
		t.failed(conn.RemoteAddr().String(), err.Error())
	}
	return secured, info, err
}

// Clone makes a copy that tells likewise.
func (t telling) Clone() credentials.TransportCredentials {
	return telling{t.TransportCredentials.Clone(), t.failed}
}
