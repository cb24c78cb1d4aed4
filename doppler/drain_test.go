package doppler_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/doppler"
)

// TestDrain: after SIGTERM producers are sent away, readers get everything
// that was accepted and then fin, and Run returns without an error.
func TestDrain(t *testing.T) {
	r := start(t, nil)
	c := r.read("shard_id=nozzle")
	c.until(func() bool { return c.hello != nil })
	producer, err := loggregatorv2.NewIngressClient(r.producer()).BatchSender(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const lines = 20_000
	r.emitLines("app", 0, lines) // far more than the reader's window
	r.cancel()
	// The stream was opened for good; it is ended.
	if err := producer.RecvMsg(new(loggregatorv2.BatchSenderResponse)); status.Code(err) != codes.Unavailable {
		t.Errorf("producer: %v", err)
	}
	if status, _, body := r.get(r.AdminAddr(), "/ready"); status != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
		t.Errorf("ready: %d %s", status, body)
	}
	c.until(func() bool { return false })
	c.wantLines(0, lines)
	if len(c.gaps) != 0 || c.fin == nil || c.fin.GetEnd() != lines || c.fin.GetDoppler() != "doppler-0" {
		t.Errorf("gaps %v, fin %v", c.gaps, c.fin)
	}
	var closed *stream.CloseError
	if !errors.As(c.err, &closed) || !closed.Code.Reconnect() {
		t.Errorf("closed with %v", c.err)
	}
	r.stop()
}

// TestDrainWaitsForLingeringGroups: a nozzle that restarts meanwhile still
// gets what it left behind.
func TestDrainWaitsForLingeringGroups(t *testing.T) {
	r := start(t, nil)
	c := r.read("shard_id=nozzle")
	c.until(func() bool { return c.hello != nil })
	r.emitLines("app", 0, 10)
	c.lineCount(10)
	c.conn.CloseNow()
	r.emitLines("app", 10, 30)
	r.cancel()
	c = r.read("shard_id=nozzle")
	c.until(func() bool { return false })
	// Not acked before the connection broke means once more.
	for len(c.lines) > 20 {
		c.lines = c.lines[1:]
	}
	c.wantLines(10, 30)
	if c.fin.GetEnd() != 30 {
		t.Errorf("fin %v", c.fin)
	}
	r.stop()
}

// TestDrainEndsWithItsGrace: a reader that takes nothing cannot hold it up.
func TestDrainEndsWithItsGrace(t *testing.T) {
	r := start(t, func(c *doppler.Config) { c.DrainGrace = 300 * time.Millisecond })
	c := r.read("shard_id=stuck")
	c.until(func() bool { return c.hello != nil })
	r.emitLines("app", 0, 20_000)
	started := time.Now()
	r.stop()
	if took := time.Since(started); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

// TestDrainServesOldReaders: who reads over gRPC gets everything too, and the
// listener ends after that.
func TestDrainServesOldReaders(t *testing.T) {
	r := start(t, nil)
	calls, err := plumbingpb.NewDopplerClient(r.producer()).BatchSubscribe(t.Context(), &plumbingpb.SubscriptionRequest{ShardId: "old"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := calls.Header(); err != nil {
		t.Fatal(err)
	}
	const lines = 20_000
	r.emitLines(strings.Repeat("app", 50), 0, lines) // far more than is on its way
	r.cancel()
	got := 0
	for {
		m, err := calls.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("after %d lines: %v", got, err)
		}
		got += len(m.GetPayload())
	}
	if got != lines {
		t.Errorf("%d lines, want %d", got, lines)
	}
	r.stop()
}
