package cli_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
)

func TestCanaryFindsNothingWhereNothingIsWrong(t *testing.T) {
	up := startPipeline(t, "--dopplers", "2")
	code, out, said := lgr(t.Context(), nil, "canary", "--addr", up.controller, "--doppler", up.ingress, "--rate", "500",
		"--for", "2s", "--interval", "1s", "--admin-addr", "127.0.0.1:0", "--lost-after", "10s")
	if code != 0 || strings.Count(out, " ok\n") < 1 || !strings.Contains(out, "nothing is wrong") {
		t.Errorf("exit %d, stderr %s, stdout %s", code, said, out)
	}
	if sent := regexp.MustCompile(`: [1-9]\d* sent, all confirmed`).FindAllString(out, -1); len(sent) != 2 {
		t.Errorf("no lane of two in:\n%s", out)
	}
	up.finish(t)
}

// TestCanariesDoNotDisturbEachOther has two with the same source.
func TestCanariesDoNotDisturbEachOther(t *testing.T) {
	up := startPipeline(t)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			code, out, said := lgr(t.Context(), nil, "canary", "--addr", up.controller, "--doppler", up.ingress, "-s", "same",
				"--for", "2s", "--admin-addr", "none", "--lost-after", "10s")
			if code != 0 || !strings.Contains(out, "of other canaries") {
				t.Errorf("exit %d, stderr %s, stdout %s", code, said, out)
			}
		})
	}
	both.Wait()
	up.finish(t)
}

// TestCanaryOverItsLimit has a Doppler that leaves out what is too much, and
// says so in the words of a log.
func TestCanaryOverItsLimit(t *testing.T) {
	up := startPipeline(t, "--source-limit", "50")
	code, out, said := lgr(t.Context(), nil, "canary", "--addr", up.controller, "--doppler", up.ingress, "--rate", "200",
		"--for", "3s", "--admin-addr", "none", "--lost-after", "3s")
	if code != 0 || !strings.Contains(out, " lost and told") || strings.Contains(out, "other canaries") {
		t.Errorf("exit %d, stderr %s, stdout %s", code, said, out)
	}
	up.finish(t)
}

// liar is an agent between producers and a Doppler. It confirms everything,
// and does wrong to some of it.
type liar struct {
	loggregatorv2.UnimplementedIngressServer
	to *emit.Sender

	mu   sync.Mutex
	seen int
	kept *loggregatorv2.Envelope
}

func (l *liar) BatchSender(stream loggregatorv2.Ingress_BatchSenderServer) error {
	for {
		b, err := stream.Recv()
		if err == io.EOF {
			return stream.SendAndClose(&loggregatorv2.BatchSenderResponse{})
		}
		if err != nil {
			return err
		}
		for _, e := range b.GetBatch() {
			for _, instead := range l.pass(e) {
				if err := l.to.Send(instead); err != nil {
					return err
				}
			}
		}
	}
}

// pass returns what becomes of an envelope.
func (l *liar) pass(e *loggregatorv2.Envelope) []*loggregatorv2.Envelope {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.Contains(string(e.GetLog().GetPayload()), " n=0 ") {
		return []*loggregatorv2.Envelope{e}
	}
	l.seen++
	switch l.seen {
	case 5, 6, 7: // lost
		return nil
	case 10:
		return []*loggregatorv2.Envelope{e, e}
	case 15:
		changed, _ := proto.Clone(e).(*loggregatorv2.Envelope)
		changed.GetLog().Payload[60] ^= 1
		return []*loggregatorv2.Envelope{changed}
	case 20:
		l.kept = e
		return nil
	case 21:
		return []*loggregatorv2.Envelope{e, l.kept}
	}
	return []*loggregatorv2.Envelope{e}
}

func TestCanaryFindsWhatIsWrong(t *testing.T) {
	up := startPipeline(t)
	to, err := emit.Dial(context.WithoutCancel(t.Context()), emit.Config{Addr: up.ingress})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	loggregatorv2.RegisterIngressServer(server, &liar{to: to})
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) })
	code, out, said := lgr(t.Context(), nil, "canary", "--addr", up.controller, "--doppler", listener.Addr().String(),
		"--rate", "100", "--for", "2s", "--interval", "1s", "--admin-addr", "none", "--lost-after", "1s")
	server.Stop()
	serving.Wait()
	if err := to.Close(); err != nil {
		t.Error(err)
	}
	if code != 1 || !strings.Contains(out, " FAULT\n") {
		t.Errorf("exit %d, stdout %s", code, out)
	}
	for _, path := range []string{"tail", "firehose"} {
		want := "lgr: " + path + ": 4 envelopes lost without a word, 1 envelopes delivered twice without a mark, 1 envelopes not as they were made, 1 envelopes out of order\n"
		if !strings.Contains(said, want) {
			t.Errorf("no %q in:\n%s", want, said)
		}
	}
	up.finish(t)
}

func TestCanaryTellsMetrics(t *testing.T) {
	up := startPipeline(t)
	p := start(t, "canary", "--addr", up.controller, "--doppler", up.ingress, "--admin-addr", "127.0.0.1:0", "--interval", "1s")
	p.out.wait(t, " ok\n", 1)
	url := regexp.MustCompile(`http://\S+/metrics`).FindString(p.err.String())
	for path, want := range map[string]string{"/metrics": `lgr_canary_unexplained_envelopes{path="firehose"} 0`, "/ready": "ready", "/health": "ok"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.Replace(url, "/metrics", path, 1), nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v, %s", path, err, text)
		}
		resp.Body.Close()
	}
	http.DefaultClient.CloseIdleConnections()
	p.stop()
	if code := p.end(t); code != 1 {
		// Its context ended without a signal, so it is not what a shell would say.
		t.Errorf("exit %d: %s", code, p.err.String())
	}
	p.out.wait(t, "sent, all confirmed", 1)
	up.finish(t)
}

func TestCanaryWithoutAPlatform(t *testing.T) {
	for _, args := range []string{
		"canary --addr 127.0.0.1:1 --doppler 127.0.0.1:1 --admin-addr none",
		"canary --addr 127.0.0.1:1 --doppler 127.0.0.1:1 --admin-addr 256.0.0.1:0",
	} {
		code, _, said := lgr(t.Context(), nil, strings.Fields(args)...)
		if code != 1 || !strings.Contains(said, "lgr: ") {
			t.Errorf("%s: exit %d, %s", args, code, said)
		}
	}
}
