package integration

import (
	"context"
	"io"
	"strconv"
	"testing"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// ways by which producers send, all at once.
const ways = "sender,batch,push"

// lawful checks a reader of a mixed fleet: nothing wrong, nothing twice, each
// way in order, and what has come and what was told to be missing is all that
// was sent.
func (c *realClient) lawful(ctx context.Context, t *testing.T, name string) line {
	t.Helper()
	r := c.result(ctx, t)
	if name == "gateway" {
		r.Order = 0 // its client decodes batches in any order
	}
	if r.WantWhole == 0 || r.Whole+r.Gaps != r.WantWhole || r.Wrong+r.Others+r.Order != 0 {
		t.Errorf("%s: %d of %d, gaps %d, %d wrong, %d of others, %d out of order: %s", name, r.Whole, r.WantWhole, r.Gaps, r.Wrong, r.Others, r.Order, r.First)
	}
	return r
}

// TestMixedFleet has producers of every generation send at once, and readers
// of every generation read, one of which only begins when the ring has turned
// over. For each: accepted = delivered + told as gaps.
func TestMixedFleet(t *testing.T) {
	ctx := deadline(t)
	p := startReal(t, pipeline.Config{
		Dopplers: 1, Controllers: 1, DopplerArgs: []string{"--ring-bytes", "16MiB"},
		ControllerArgs: []string{"--slow-timeout", "10m", "--tail-queue-bytes", "256MiB"},
	})
	const each = 10_000
	count := strconv.Itoa(each)
	reader := func(mode, id, token string, stdin io.Reader, more ...string) *realClient {
		args := []string{"noaa", "-addr", p.URL(0), "-mode", mode, "-id", id, "-token", token, "-run", "r", "-via", ways, "-count", count, "-limit", patience(), "-lossy"}
		return p.runWith(t, process.Command{Args: append(args, more...), Stdin: stdin})
	}
	held, release := io.Pipe()
	t.Cleanup(func() { _ = release.Close() }) // or the end of the process is not seen
	readers := map[string]*realClient{
		"firehose": reader("firehose", "whole", "bearer nia", nil), "logs": reader("logs", "logs", "bearer nia", nil),
		"metrics": reader("metrics", "metrics", "bearer nia", nil), "stream": reader("stream", realApp, "bearer alice", nil),
	}
	gateway := p.run(t, "gateway", "-addr", "https://"+p.Controllers[0].Addrs[pipeline.Public], "-shard", "gateway", "-token", "bearer nia",
		"-run", "r", "-via", ways, "-count", count, "-limit", patience(), "-lossy")
	connector := p.inside(t, "connector", 0, "-shard", "connector", "-preferred=false", "-run", "r", "-via", ways, "-count", count, "-limit", patience(), "-lossy")
	slow := reader("firehose", "slow", "bearer nia", held, "-hold")
	sdk := openCounting(ctx, t, p, "sdk")
	for _, shard := range []string{"whole", "logs", "metrics", "slow", "sdk", "gateway"} {
		p.hasMembers(ctx, t, shard, 1)
	}
	p.hasCalls(ctx, t, "connector")
	p.hasTails(ctx, t, 1)

	var producers []*realClient
	for _, way := range []string{"sender", "batch", "push"} {
		producers = append(producers, p.inside(t, "send", 0, "-run", "r", "-via", way, "-count", count, "-rate", "20000"))
	}
	sent := 0
	for _, c := range producers {
		sent += c.result(ctx, t).Sent
	}
	poll(ctx, t, "everything to be accepted", func() bool {
		return metric(ctx, t, p.Dopplers[0], "doppler_ingress_envelopes_total") == float64(sent)
	})
	_, _ = io.WriteString(release, "go\n")
	_ = release.Close()
	for name, c := range readers {
		c.lawful(ctx, t, name)
	}
	gateway.lawful(ctx, t, "gateway")
	connector.lawful(ctx, t, "connector")
	if r := slow.lawful(ctx, t, "slow"); r.Gaps == 0 {
		t.Errorf("the slow reader missed nothing")
	}
	sdk.until(ctx, t, uint64(sent))
}

// counting is a reader of the batch framing.
type counting struct {
	stream         *nozzle.Stream
	received, gaps uint64
}

func openCounting(ctx context.Context, t *testing.T, p *realPlatform, subscription string) *counting {
	t.Helper()
	outside, err := p.ReaderTLS()
	if err != nil {
		t.Fatal(err)
	}
	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: p.URL(0), Subscription: subscription, TLS: outside, AutoAck: true, Header: as("nia")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stream.Close() })
	return &counting{stream: stream}
}

// until reads until n envelopes have come or were told as gaps, and not more.
func (c *counting) until(ctx context.Context, t *testing.T, n uint64) {
	t.Helper()
	for c.received+c.gaps < n {
		b, err := c.stream.Recv(ctx)
		if err != nil {
			t.Fatalf("%v: %d envelopes, gaps %d, of %d", err, c.received, c.gaps, n)
		}
		c.received += uint64(b.Len())
		for _, g := range b.Gaps {
			c.gaps += g.GetCount()
		}
		b.Release()
	}
	if c.received+c.gaps != n {
		t.Errorf("%d envelopes, gaps %d, of %d", c.received, c.gaps, n)
	}
}
