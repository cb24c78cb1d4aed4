package integration

import (
	"crypto/tls"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// TestMutualTLS runs the pipeline with what `lgr certs` makes, and lets nobody
// in who shows no certificate.
func TestMutualTLS(t *testing.T) {
	ctx := deadline(t)
	certs, err := certificates()
	if err != nil {
		t.Fatal(err)
	}
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1, Certs: certs})
	producer, err := p.IngressTLS()
	if err != nil {
		t.Fatal(err)
	}
	outside, err := p.ReaderTLS()
	if err != nil {
		t.Fatal(err)
	}
	plan := load.Plan{Shape: load.Random, Sources: 10, Batch: 100}
	reader := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), TLS: outside, Subscription: "s", Ack: true})
	addr := p.Dopplers[0].Addrs[pipeline.GRPC]
	sent, err := load.NewSender(0).Run(ctx, load.Run{Plan: plan, Addr: addr, TLS: producer, Count: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	complete(ctx, t, "Firehose over TLS", reader, sent.Envelopes)

	stranger := producer.Clone()
	stranger.Certificates = nil
	run := load.Run{Plan: plan, Addr: addr, Count: 100}
	for name, conf := range map[string]*tls.Config{"no certificate": stranger, "no TLS": nil} {
		run.TLS = conf
		if _, err := load.NewSender(1).Run(ctx, run); err == nil {
			t.Errorf("a producer with %s was let in", name)
		}
	}
	for name, url := range map[string]string{"no certificate": "wss://", "no TLS": "ws://"} {
		conn, err := stream.Dial(ctx, url+p.Dopplers[0].Addrs[pipeline.Stream]+stream.PathFirehose, stream.DialOptions{TLS: stranger})
		if err == nil {
			conn.CloseNow()
			t.Errorf("a reader with %s was let in at the Doppler", name)
		}
	}
	if conn, err := stream.Dial(ctx, p.URL(0)+"/firehose/s", stream.DialOptions{Subprotocol: stream.Subprotocol}); err == nil {
		conn.CloseNow()
		t.Error("the Traffic Controller's certificate holds without its authority")
	}
}
