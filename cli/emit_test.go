package cli_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

// ingress is a Doppler that only takes in.
type ingress struct {
	loggregatorv2.UnimplementedIngressServer
	arrived chan struct{} // closed with the first envelope

	mu  sync.Mutex
	got []*loggregatorv2.Envelope
}

func listen(t *testing.T, config *tls.Config) (*ingress, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var options []grpc.ServerOption
	if config != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(config)))
	}
	in := &ingress{arrived: make(chan struct{})}
	g := grpc.NewServer(options...)
	loggregatorv2.RegisterIngressServer(g, in)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := g.Serve(l); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() { g.Stop(); <-done })
	return in, l.Addr().String()
}

func (in *ingress) BatchSender(stream loggregatorv2.Ingress_BatchSenderServer) error {
	for {
		b, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&loggregatorv2.BatchSenderResponse{})
		}
		if err != nil {
			return err
		}
		in.mu.Lock()
		if len(in.got) == 0 {
			close(in.arrived)
		}
		in.got = append(in.got, b.GetBatch()...)
		in.mu.Unlock()
	}
}

func (in *ingress) received() []*loggregatorv2.Envelope {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.got
}

func TestEmitSendsEveryLine(t *testing.T) {
	in, addr := listen(t, nil)
	var text strings.Builder
	for n := range 5000 {
		fmt.Fprintf(&text, "line %d\n", n)
	}
	text.WriteString("the end")
	code, out, said := lgr(t.Context(), strings.NewReader(text.String()), "emit", "--addr", addr, "-s", "app",
		"--stderr", "--instance", "7", "--source-type", "APP/PROC/WEB", "--tag", "a=b", "--tag", "c=d,e=f")
	if code != 0 || out != "" || !strings.Contains(said, "5001 envelopes") || !strings.Contains(said, "all accepted") {
		t.Fatalf("exit %d, stdout %q, stderr %q", code, out, said)
	}
	got := in.received()
	if len(got) != 5001 {
		t.Fatalf("%d arrived", len(got))
	}
	for n, e := range got[:5000] {
		if string(e.GetLog().GetPayload()) != fmt.Sprintf("line %d", n) {
			t.Fatalf("line %d is %v", n, e)
		}
	}
	last := got[5000]
	if string(last.GetLog().GetPayload()) != "the end" || last.GetLog().GetType() != loggregatorv2.Log_ERR || last.GetSourceId() != "app" ||
		last.GetInstanceId() != "7" || len(last.GetTags()) != 3 || last.GetTags()["source_type"] != "APP/PROC/WEB" || last.GetTags()["c"] != "d,e=f" {
		t.Errorf("last is %v", last)
	}
}

func TestEmitTellsOfLongLines(t *testing.T) {
	in, addr := listen(t, nil)
	code, _, said := lgr(t.Context(), strings.NewReader("a\n"+strings.Repeat("x", 10_000)), "emit", "--addr", addr, "-s", "app", "--max-envelope-bytes", "4KiB")
	if code != 0 || len(in.received()) != 4 || !strings.Contains(said, "line 2 is longer than") ||
		!strings.Contains(said, "1 of 2 lines were too long and sent in 3 pieces") {
		t.Errorf("exit %d, %d arrived, stderr %q", code, len(in.received()), said)
	}
}

func TestEmitMakesEnvelopesUp(t *testing.T) {
	in, addr := listen(t, nil)
	code, _, said := lgr(t.Context(), nil, "emit", "--addr", addr, "--count", "1000", "--sources", "4", "--kind", "mix", "-q")
	if code != 0 || said != "" || len(in.received()) != 1000 {
		t.Errorf("exit %d, %d arrived, stderr %q", code, len(in.received()), said)
	}
	if id := in.received()[3].GetSourceId(); id != "lgr-4" {
		t.Errorf("fourth source is %q", id)
	}
	code, _, said = lgr(t.Context(), nil, "emit", "--addr", addr, "--rate", "max", "--duration", "50ms")
	if code != 0 || !strings.Contains(said, "all accepted") {
		t.Errorf("for a while: exit %d, stderr %q", code, said)
	}
}

func TestEmitOverMutualTLS(t *testing.T) {
	dir := t.TempDir()
	if _, err := mtls.GenerateSet(dir, false); err != nil {
		t.Fatal(err)
	}
	config, err := mtls.Server(mtls.SetFiles(dir, mtls.NameDoppler))
	if err != nil {
		t.Fatal(err)
	}
	in, addr := listen(t, config)
	code, _, said := lgr(t.Context(), strings.NewReader("a\n"), "emit", "--addr", addr, "-s", "app",
		"--tls-ca", dir+"/ca.crt", "--tls-cert", dir+"/metron.crt", "--tls-key", dir+"/metron.key")
	if code != 0 || len(in.received()) != 1 {
		t.Errorf("exit %d, %d arrived, stderr %q", code, len(in.received()), said)
	}
	if code, _, said := lgr(t.Context(), strings.NewReader("a\n"), "emit", "--addr", addr, "-s", "app"); code != 1 {
		t.Errorf("without certificates: exit %d, stderr %q", code, said)
	}
}

func TestEmitWithoutADoppler(t *testing.T) {
	code, _, said := lgr(t.Context(), strings.NewReader("a\n"), "emit", "--addr", "127.0.0.1:1", "-s", "app")
	if code != 1 || !strings.Contains(said, "connection refused (is it running?") {
		t.Errorf("exit %d, stderr %q", code, said)
	}
}

func TestAnInterruptedEmitHasSentWhatItRead(t *testing.T) {
	in, addr := listen(t, nil)
	r, w := io.Pipe()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	go func() {
		io.WriteString(w, "a\n") // an error would show below
		<-in.arrived
		cancel(errors.New("enough"))
	}()
	code, _, said := lgr(ctx, r, "emit", "--addr", addr, "-s", "app")
	w.Close()
	if code != 1 || len(in.received()) != 1 || !strings.Contains(said, "all accepted; interrupted") {
		t.Errorf("exit %d, %d arrived, stderr %q", code, len(in.received()), said)
	}
	ctx, cancelTimeout := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancelTimeout()
	if code, _, said := lgr(ctx, nil, "emit", "--addr", addr, "--rate", "100"); code != 0 || !strings.Contains(said, "all accepted") {
		t.Errorf("endless load: exit %d, stderr %q", code, said)
	}
}
