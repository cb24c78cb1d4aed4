package doppler_test

import (
	"crypto/tls"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/doppler"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

// TestMutualTLS: both listeners take clients with a certificate of the
// authority, and nobody else.
func TestMutualTLS(t *testing.T) {
	dir, foreign := t.TempDir(), t.TempDir()
	for _, d := range []string{dir, foreign} {
		if _, err := mtls.GenerateSet(d, false); err != nil {
			t.Fatal(err)
		}
	}
	r := start(t, func(c *doppler.Config) { c.TLS = mtls.SetFiles(dir, mtls.NameDoppler) })
	client := func(name string) *tls.Config {
		config, err := mtls.Client(mtls.SetFiles(dir, name), "doppler")
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	send := func(config *tls.Config) error {
		conn, err := grpc.NewClient(r.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, err = loggregatorv2.NewIngressClient(conn).Send(t.Context(),
			&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{logLine("app", "line 0")}})
		return err
	}
	c := r.readTLS("wss", "shard_id=s", client(mtls.NameTrafficController))
	if err := send(client(mtls.NameMetron)); err != nil {
		t.Fatal(err)
	}
	c.lineCount(1)
	c.wantLines(0, 1)

	stranger, err := mtls.Client(mtls.Files{
		Cert: mtls.SetFiles(foreign, mtls.NameMetron).Cert, Key: mtls.SetFiles(foreign, mtls.NameMetron).Key,
		CA: mtls.SetFiles(dir, mtls.NameMetron).CA,
	}, "doppler")
	if err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]*tls.Config{
		"no certificate":      {InsecureSkipVerify: true},
		"foreign certificate": stranger,
	} {
		if err := send(config); status.Code(err) != codes.Unavailable {
			t.Errorf("gRPC, %s: %v", name, err)
		}
		conn, err := stream.Dial(t.Context(), "wss://"+r.StreamAddr()+stream.PathFirehose, stream.DialOptions{TLS: config})
		if err == nil {
			conn.CloseNow()
			t.Errorf("WebSocket, %s: accepted", name)
		}
	}
	if _, err := stream.Dial(t.Context(), "ws://"+r.StreamAddr()+stream.PathFirehose, stream.DialOptions{}); err == nil {
		t.Error("plaintext WebSocket accepted")
	}
}

func TestTLSFaultsNameTheFile(t *testing.T) {
	c := config()
	c.TLS = mtls.Files{Cert: "/no/such.crt", Key: "/no/such.key", CA: "/no/such-ca.crt"}
	_, err := doppler.New(*c, nil)
	if err == nil || !strings.Contains(err.Error(), "/no/such.crt") || !strings.Contains(err.Error(), "/no/such-ca.crt") {
		t.Errorf("got %v", err)
	}
}
