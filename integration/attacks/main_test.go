package attacks

import (
	"context"
	"crypto/tls"
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.Lgr))
}

// growth is how much more memory an attack may make a Traffic Controller take,
// in bytes.
const growth = 320 << 20

// victim is a Traffic Controller.
type victim struct {
	*pipeline.Service
	tls *tls.Config // nil for plaintext
}

// dial connects as strangers do.
func (v *victim) dial(ctx context.Context, t *testing.T) net.Conn {
	t.Helper()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", v.Addrs[pipeline.Public])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	if v.tls != nil {
		nc = tls.Client(nc, v.tls)
	}
	return nc
}

func (v *victim) url() string {
	if v.tls != nil {
		return "wss://" + v.Addrs[pipeline.Public]
	}
	return "ws://" + v.Addrs[pipeline.Public]
}

// attack is what is done; it ends by itself.
type attack struct {
	name string
	run  func(ctx context.Context, t *testing.T, v *victim)
}

// TestAttacks does everything to one Traffic Controller after the other, while
// a nozzle and a tail read from it.
func TestAttacks(t *testing.T) {
	ctx := blackbox.Deadline(t)
	certs := t.TempDir()
	blackbox.Finish(ctx, t, blackbox.Launch(t, process.Lgr, process.Command{Args: []string{"certs", certs}}))
	client, err := pipeline.ReaderTLS(certs)
	if err != nil {
		t.Fatal(err)
	}
	p := blackbox.Start(t, pipeline.Config{Dopplers: 1, Controllers: 1})
	secure, err := p.AddController(ctx, "--tls-cert", certs+"/outside.crt", "--tls-key", certs+"/outside.key")
	if err == nil {
		err = p.WaitReady(ctx, secure)
	}
	if err != nil {
		t.Fatal(err)
	}
	client.ServerName = "localhost"
	plain, encrypted := &victim{p.Controllers[0], nil}, &victim{secure, client}
	readers := map[string]*load.Reader{}
	for name, v := range map[string]*victim{"plain": plain, "TLS": encrypted} {
		readers["nozzle, "+name] = blackbox.Firehose(ctx, t, 1, load.ReaderConfig{URL: v.url(), TLS: v.tls, Subscription: name})
		readers["tail, "+name] = blackbox.Read(ctx, t, load.ReaderConfig{
			URL: v.url(), TLS: v.tls, SourceID: what.SourceID(0), Query: url.Values{"recent": {"1000"}},
		})
	}
	w := &world{p: p, senders: blackbox.NewSenders(1), readers: readers}
	t.Run("plain", func(t *testing.T) { w.attack(ctx, t, plain) })
	t.Run("TLS", func(t *testing.T) { w.attack(ctx, t, encrypted) })
}

// what is sent: one source, so that a tail gets all of it.
var what = load.Plan{Shape: load.Reference, Sources: 1, Batch: 10}

// world is what has to go on.
type world struct {
	p       *pipeline.Pipeline
	senders []*load.Sender
	readers map[string]*load.Reader
	sent    uint64
}

func (w *world) attack(ctx context.Context, t *testing.T, v *victim) {
	began, err := v.Usage()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) { w.survive(ctx, t, v, a, began.Resident) })
	}
}

// survive sends during the attack and after it, and looks for what is missing.
func (w *world) survive(ctx context.Context, t *testing.T, v *victim, a attack, before int64) {
	t.Helper()
	sent := make(chan uint64, 1)
	go func() {
		sent <- blackbox.Send(ctx, t, w.senders, w.p.Dopplers, blackbox.Sending{Plan: what, Count: 2000, Rate: 1000})
	}()
	began := time.Now()
	a.run(ctx, t, v)
	w.sent += <-sent
	t.Logf("took %v", time.Since(began).Round(time.Millisecond))
	for name, r := range w.readers {
		blackbox.Complete(ctx, t, name, r, w.sent)
	}
	usage, err := v.Usage()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("memory: %d MiB before, %d now, %d at its peak", before>>20, usage.Resident>>20, usage.Peak>>20)
	if usage.Peak-before > growth && !blackbox.Race {
		t.Errorf("memory grew by %d MiB, the limit is %d MiB", (usage.Peak-before)>>20, growth>>20)
	}
}
