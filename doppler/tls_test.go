package doppler_test

import (
	"context"
	"crypto/tls"
	"net/http"
	"strings"
	"testing"
	"time"

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

// TestClientNames: what a client may do is decided by the names in its certificate.
func TestClientNames(t *testing.T) {
	dir := t.TempDir()
	names := []string{mtls.NameDoppler, mtls.NameMetron, mtls.NameTrafficController, "reverselogproxy", "gorouter"}
	if _, err := mtls.GenerateNamed(dir, false, names...); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*doppler.Config)
		may    map[string]string // by client: of w, r and i what it may
	}{
		"by default": {func(*doppler.Config) {}, map[string]string{
			mtls.NameMetron: "w", mtls.NameTrafficController: "wri", "reverselogproxy": "r", "gorouter": "", mtls.NameDoppler: "w",
		}},
		"nobody": {func(c *doppler.Config) { clear(c.Allowed[:]) }, map[string]string{
			mtls.NameMetron: "", mtls.NameTrafficController: "", "gorouter": "",
		}},
		"any": {func(c *doppler.Config) { c.Allowed[0], c.Allowed[1] = []string{"gorouter"}, []string{"*"} }, map[string]string{
			mtls.NameMetron: "r", mtls.NameTrafficController: "ri", "gorouter": "wr",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, func(c *doppler.Config) {
				c.TLS = mtls.SetFiles(dir, mtls.NameDoppler)
				test.change(c)
			})
			for client, may := range test.may {
				config, err := mtls.Client(mtls.SetFiles(dir, client), "doppler")
				if err != nil {
					t.Fatal(err)
				}
				if got := rightsOf(t, r, config); got != may {
					t.Errorf("%s may %q, not %q", client, got, may)
				}
			}
		})
	}
}

// rightsOf tries everything: w for each way to write, r to read, i to inspect. It
// fails where ways of one kind differ.
func rightsOf(t *testing.T, r *rig, config *tls.Config) (may string) {
	t.Helper()
	conn, err := grpc.NewClient(r.GRPCAddr(), grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	get := func(path string) bool {
		resp, err := client.Get("https://" + r.StreamAddr() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode != http.StatusForbidden
	}
	call := func(desc *grpc.StreamDesc, method string) bool {
		calling, stop := context.WithCancel(ctx)
		defer stop()
		s, err := conn.NewStream(calling, desc, method)
		if err != nil {
			t.Fatal(err)
		}
		_ = s.CloseSend()
		err = s.RecvMsg(&loggregatorv2.EnvelopeBatch{})
		return status.Code(err) != codes.PermissionDenied
	}
	in, both := &grpc.StreamDesc{ClientStreams: true}, &grpc.StreamDesc{ServerStreams: true}
	_, sendErr := loggregatorv2.NewIngressClient(conn).Send(ctx, &loggregatorv2.EnvelopeBatch{})
	for what, ways := range map[string][]bool{
		"w": {status.Code(sendErr) != codes.PermissionDenied, call(in, "/loggregator.v2.Ingress/Sender"), call(in, "/loggregator.v2.Ingress/BatchSender"),
			call(in, "/plumbing.DopplerIngestor/Pusher")},
		"r": {get(stream.PathFirehose), get(stream.PathTails), get(stream.PathHistory + "app"), call(both, "/loggregator.v2.Egress/BatchedReceiver"),
			call(both, "/plumbing.Doppler/Subscribe")},
		"i": {get(stream.PathSources), get(stream.PathSubscriptions)},
	} {
		for i, ok := range ways {
			if ok != ways[0] {
				t.Errorf("way %d to %s differs", i, what)
			}
		}
		if ways[0] {
			may += what
		}
	}
	return inOrder(may)
}

func inOrder(may string) (sorted string) {
	for _, what := range "wri" {
		if strings.ContainsRune(may, what) {
			sorted += string(what)
		}
	}
	return sorted
}
