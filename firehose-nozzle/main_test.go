package nozzle_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

func newServer(t *testing.T) *nozzletest.Server {
	t.Helper()
	s := nozzletest.NewServer()
	t.Cleanup(s.Close)
	return s
}

// open opens a subscription that is closed with the test.
func open(t *testing.T, s *nozzletest.Server, change func(*nozzle.Config)) *nozzle.Stream {
	t.Helper()
	cfg := nozzle.Config{Addr: s.Addr(), Subscription: "sub"}
	if change != nil {
		change(&cfg)
	}
	start := nozzle.Open
	if cfg.Source != "" {
		cfg.Subscription = ""
		start = nozzle.Tail
	}
	n, err := start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	return n
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func recv(t *testing.T, n *nozzle.Stream) *nozzle.Batch {
	t.Helper()
	b, err := n.Recv(within(t))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// line makes a log envelope.
func line(source string, i int) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		Timestamp: int64(i), SourceId: source,
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: fmt.Appendf(nil, "line %d", i)}},
	}
}

func lines(source string, from, to int) []*loggregatorv2.Envelope {
	var all []*loggregatorv2.Envelope
	for i := from; i < to; i++ {
		all = append(all, line(source, i))
	}
	return all
}

// payloads is what the lines of a batch say.
func payloads(t *testing.T, b *nozzle.Batch) []string {
	t.Helper()
	envelopes, err := b.Decode()
	if err != nil {
		t.Fatal(err)
	}
	all := make([]string, len(envelopes))
	for i, e := range envelopes {
		all[i] = string(e.GetLog().GetPayload())
	}
	return all
}

func wantCode(t *testing.T, err error, want nozzle.Code) *nozzle.Error {
	t.Helper()
	var e *nozzle.Error
	if !errors.As(err, &e) || e.Code != want {
		t.Fatalf("got error %v, want code %v", err, want)
	}
	return e
}

func waitAcked(t *testing.T, s *nozzletest.Server, n int) {
	t.Helper()
	if err := s.WaitAcked(within(t), n); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func unix(ns int64) time.Time { return time.Unix(0, ns) }
