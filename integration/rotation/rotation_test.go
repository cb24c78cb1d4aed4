package rotation

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/internal/mtls"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.Nozzle))
}

// sets makes a set of certificates that is in use, and one to replace it.
func sets(t *testing.T) (used, next string) {
	t.Helper()
	used, next = t.TempDir(), t.TempDir()
	for _, dir := range []string{used, next} {
		if _, err := mtls.GenerateSet(dir, false); err != nil {
			t.Fatal(err)
		}
	}
	return used, next
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// replace puts a file in the place of another, in one step.
func replace(t *testing.T, path string, text []byte) {
	t.Helper()
	if err := os.WriteFile(path+".next", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
}

// seen is longer than it takes until a changed file is looked at.
const seen = 1500 * time.Millisecond

// Everything is replaced under load, the authority included: no stream ends, and
// whoever comes at any time is let in.
func TestRotation(t *testing.T) {
	ctx := blackbox.Deadline(t)
	used, next := sets(t)
	p := blackbox.Start(t, pipeline.Config{Dopplers: 2, Controllers: 1, Certs: used})
	old := pair(t, mtls.SetFiles(used, mtls.NameMetron))
	quiet := slog.New(slog.DiscardHandler)
	outside, err := mtls.Trusting(filepath.Join(used, "ca.crt"), "127.0.0.1", quiet)
	if err != nil {
		t.Fatal(err)
	}
	files := mtls.SetFiles(used, mtls.NameMetron)
	files.Log = quiet
	inside, err := mtls.Client(files, mtls.NameDoppler)
	if err != nil {
		t.Fatal(err)
	}
	plan := load.Plan{Shape: load.Reference, Sources: 10, Batch: 100}
	reader := blackbox.Firehose(ctx, t, 2, load.ReaderConfig{URL: p.URL(0), TLS: outside, Subscription: "all", Ack: true})
	tail := blackbox.Read(ctx, t, load.ReaderConfig{URL: p.URL(0), TLS: outside, SourceID: plan.SourceID(0), Source: 0})
	nozzle := blackbox.Launch(t, process.Nozzle, process.Command{Args: []string{
		"--addr", p.URL(0), "--subscription", "nozzle", "--tls-ca", filepath.Join(used, "ca.crt"), "--admin-addr", "127.0.0.1:0",
		"--sink", "file", "--file", filepath.Join(t.TempDir(), "sink.json"),
	}})
	blackbox.Poll(ctx, t, "the nozzle to be a member", func() bool { return blackbox.Members(ctx, t, p.Dopplers[0], "nozzle") == 1 })

	sending, stop := context.WithCancel(ctx)
	sent := make([]load.Sent, len(p.Dopplers))
	done := make(chan error, len(p.Dopplers))
	for i, d := range p.Dopplers {
		go func() {
			var err error
			sent[i], err = load.NewSender(i).Run(sending, load.Run{Plan: plan, Addr: d.Addrs[pipeline.GRPC], TLS: inside, Rate: 5000})
			done <- err
		}()
	}
	for _, stage := range rotate(t, used, next) {
		stage()
		select {
		case <-time.After(seen):
		case <-ctx.Done():
		}
		comes(ctx, t, p, inside, outside)
	}
	stop()
	total := uint64(0)
	for range p.Dopplers {
		if err := <-done; err != nil {
			t.Errorf("a producer: %v", err)
		}
	}
	for _, s := range sent {
		total += s.Envelopes
	}
	const came = 3 * 2 * 100 // of those who came, all of the first source
	blackbox.Complete(ctx, t, "Firehose", reader, total+came)
	blackbox.Complete(ctx, t, "tail", tail, total/uint64(plan.Sources)+came)
	t.Logf("%d envelopes while everything was replaced", total)
	for _, s := range slices.Concat(p.Controllers, []*pipeline.Service{{Process: nozzle, Name: "nozzle"}}) {
		if log := s.Log(); strings.Contains(log, "lost") || strings.Contains(log, "not connected") {
			t.Errorf("%s lost a stream:\n%s", s.Name, log)
		}
	}
	if _, err := nozzle.Stop(ctx); err != nil {
		t.Error(err)
	}
	refused(ctx, t, p, next, old)
}

// rotate are the steps of a rotation: both authorities are trusted, then come the
// certificates of the new one, then the old one is trusted no more.
func rotate(t *testing.T, used, next string) []func() {
	authority := func(dirs ...string) (text []byte) {
		for _, dir := range dirs {
			text = append(text, read(t, filepath.Join(dir, "ca.crt"))...)
		}
		return text
	}
	both, last := authority(used, next), authority(next)
	return []func(){
		func() { replace(t, filepath.Join(used, "ca.crt"), both) },
		func() {
			for _, name := range []string{mtls.NameDoppler, mtls.NameTrafficController, mtls.NameMetron, mtls.NameOutside} {
				from, to := mtls.SetFiles(next, name), mtls.SetFiles(used, name)
				replace(t, to.Cert, read(t, from.Cert))
				replace(t, to.Key, read(t, from.Key))
			}
		},
		func() { replace(t, filepath.Join(used, "ca.crt"), last) },
	}
}

// comes has a producer and a reader come anew.
func comes(ctx context.Context, t *testing.T, p *pipeline.Pipeline, inside, outside *tls.Config) {
	t.Helper()
	plan := load.Plan{Shape: load.Reference, Sources: 1, Batch: 100}
	for _, d := range p.Dopplers {
		run := load.Run{Plan: plan, Addr: d.Addrs[pipeline.GRPC], TLS: inside, Count: 100}
		if _, err := nextSender().Run(ctx, run); err != nil {
			t.Errorf("a producer that comes: %v", err)
		}
	}
	r, err := load.OpenReader(ctx, load.ReaderConfig{URL: p.URL(0), TLS: outside, Subscription: "new"})
	if err != nil {
		t.Errorf("a reader that comes: %v", err)
		return
	}
	r.Close()
}

// numbered senders are told apart.
var numbered = 10

func nextSender() *load.Sender {
	numbered++
	return load.NewSender(numbered)
}

// refused tries certificates that must not do, on both listeners, and looks for why
// in the log. The old one is of the authority that is trusted no more.
func refused(ctx context.Context, t *testing.T, p *pipeline.Pipeline, now string, old tls.Certificate) {
	t.Helper()
	foreign := t.TempDir()
	if _, err := mtls.GenerateNamed(foreign, false, mtls.NameMetron); err != nil {
		t.Fatal(err)
	}
	stranger := pair(t, mtls.SetFiles(foreign, mtls.NameMetron))
	for name, test := range map[string]struct {
		shows []tls.Certificate
		words string
	}{
		"expired": {[]tls.Certificate{signed(t, now, -time.Hour)}, "expired"},
		"foreign": {[]tls.Certificate{stranger}, "unknown authority"},
		"old":     {[]tls.Certificate{old}, "unknown authority"},
		"none":    {nil, "didn't provide a certificate"},
	} {
		for _, listener := range []string{pipeline.GRPC, pipeline.Stream} {
			d := p.Dopplers[0]
			before := blackbox.Metric(ctx, t, d, "doppler_tls_handshakes_failed_total")
			if err := shake(ctx, d.Addrs[listener], test.shows); err == nil {
				t.Errorf("%s: let in at %s", name, listener)
			}
			blackbox.Poll(ctx, t, name+" to be told of", func() bool {
				return strings.Contains(d.Log(), test.words) && blackbox.Metric(ctx, t, d, "doppler_tls_handshakes_failed_total") > before
			})
		}
	}
	if err := shake(ctx, p.Dopplers[0].Addrs[pipeline.Stream], []tls.Certificate{signed(t, now, time.Hour)}); err != nil {
		t.Errorf("what the test signs itself would never do: %v", err)
	}
}

func pair(t *testing.T, files mtls.Files) tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shake makes a handshake, and reads: in TLS 1.3 it is then that a client is told.
func shake(ctx context.Context, addr string, certs []tls.Certificate) error {
	dialer := &tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true, Certificates: certs}} //nolint:gosec // it is the server's check that counts
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
	_, err = conn.Read(make([]byte, 1))
	if os.IsTimeout(err) {
		return nil // it waits for us to speak
	}
	return err
}

// signed is a certificate of the authority in dir that ends in some time.
func signed(t *testing.T, dir string, in time.Duration) tls.Certificate {
	t.Helper()
	parent, err := tls.LoadX509KeyPair(filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: mtls.NameMetron}, DNSNames: []string{mtls.NameMetron},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(in),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent.Leaf, key.Public(), parent.PrivateKey.(crypto.Signer))
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw}))
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
