package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// request writes a request by hand and returns the first line of the answer and
// what follows.
func request(ctx context.Context, t *testing.T, addr, target string) (status, rest string) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	go func() { // the answer may come before the server has read it all
		_, _ = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: tc\r\nConnection: close\r\n\r\n", target)
	}()
	answer, _ := io.ReadAll(io.LimitReader(conn, 64<<10)) // a reset may follow the answer
	status, rest, _ = strings.Cut(string(answer), "\r\n")
	return status, rest
}

// TestQueriesThatAreTooLong: each gets an answer that names the limit, and is
// counted.
func TestQueriesThatAreTooLong(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1, ControllerArgs: []string{"--read-timeout", "1s", "--max-header-bytes", "1MiB"}})
	addr := p.Controllers[0].Addrs[pipeline.Public]
	for name, c := range map[string]struct{ target, status, says string }{
		"10,001 selectors":  {"/v2/read?" + strings.Repeat("log&", 10_000), "400", "selects in more than 10000 ways"},
		"a long query":      {"/v2/read?log&source_id=" + strings.Repeat("x", 600<<10), "414", "the limit is 524288"},
		"a longer query":    {"/" + strings.Repeat("x", 2<<20), "414", "the limit is 524288"},
		"large headers":     {"/ HTTP/1.1\r\nX: " + strings.Repeat("x", 3<<19) + "\r\nY:", "431", "the limit is 1048576 (--max-header-bytes)"},
		"endless headers":   {"/" + strings.Repeat("x", 3<<20), "431", "Request Header Fields Too Large"}, // by net/http, which counts nothing
		"a long source id":  {"/v2/read?log&source_id=" + strings.Repeat("x", 1025), "400", "1024"},
		"a long shard id":   {"/v2/read?log&shard_id=" + strings.Repeat("x", 1025), "400", "1024"},
		"an old client's":   {"/firehose/a?" + strings.Repeat("x&", 10_000), "400", "10001 parameters"},
		"an unknown filter": {"/firehose/a?filter-type=all", "400", "WebSocket"},
	} {
		status, rest := request(ctx, t, addr, c.target)
		if !strings.Contains(status, c.status) || !strings.Contains(status+rest, c.says) {
			t.Errorf("%s: %q, %.300q, want %s with %q", name, status, rest, c.status, c.says)
		}
	}
	if n := metric(ctx, t, p.Controllers[0], "trafficcontroller_http_refused_total"); n != 8 {
		t.Errorf("%v requests are counted as refused, want 8", n)
	}
}

// TestUnrulyClients: an old client that talks all the time, one that sends more
// than a message may have, and a reader of server-sent events that stops
// reading. None of them costs others an envelope, or much memory.
func TestUnrulyClients(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1,
		DopplerArgs: []string{"--ring-bytes", "64MiB"}, ControllerArgs: []string{"--stuck-timeout", "2s", "--socket-buffer-bytes", "16KiB"}})
	other := firehose(ctx, t, 1, load.ReaderConfig{URL: p.URL(0), Subscription: "reads"})

	talker, err := stream.Dial(ctx, p.URL(0)+"/firehose/talks", stream.DialOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer talker.CloseNow()
	ended := make(chan error, 1)
	go func() { ended <- drainOld(context.WithoutCancel(ctx), talker) }()
	frame := bytes.Repeat([]byte{0xff}, 512<<10)
	for range 200 {
		if err := talker.Send(ctx, frame); err != nil {
			t.Fatalf("what an old client says is not ignored: %v", err)
		}
	}
	stalled, err := new(net.Dialer).DialContext(ctx, "tcp", p.Controllers[0].Addrs[pipeline.Public])
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if err := stalled.(*net.TCPConn).SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(stalled, "GET /v2/read?log HTTP/1.1\r\nHost: tc\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	poll(ctx, t, "three members and the tail link", func() bool { return subscribers(ctx, t, p.Dopplers[0]) == 4 })

	senders := newSenders(1)
	plan := load.Plan{Shape: load.Reference, Sources: 10, Batch: 100}
	sent := send(ctx, t, senders, p.Dopplers, sending{Plan: plan, Count: 50_000})
	complete(ctx, t, "the other reader", other, sent)
	poll(ctx, t, "the stalled reader to be cut and counted", func() bool {
		return metric(ctx, t, p.Controllers[0], "trafficcontroller_slow_consumers_total") >= 1
	})
	huge := make([]byte, 2<<20)
	_ = talker.Send(ctx, huge) // it may be cut while it sends
	var closed *stream.CloseError
	if err := <-ended; !errors.As(err, &closed) || closed.Code != stream.CloseTooBig {
		t.Errorf("a message over the limit ends with %v", err)
	}
	checkMemory(t, p)
}

// drainOld reads until the stream ends and returns why.
func drainOld(ctx context.Context, c *stream.Conn) error {
	for {
		b, err := c.Read(ctx)
		if err != nil {
			return err
		}
		b.Release()
	}
}

// subscribers is how many connections of readers a Doppler has.
func subscribers(ctx context.Context, t *testing.T, s *pipeline.Service) int {
	t.Helper()
	return int(metric(ctx, t, s, "doppler_subscriptions"))
}
