package blackbox

import (
	"context"
	"fmt"
	"testing"

	"github.com/a1ea6966/loggregator/integration/load"
)

// Read opens a reader and runs it until the test ends. It has to end well.
func Read(ctx context.Context, t *testing.T, conf load.ReaderConfig) *load.Reader {
	t.Helper()
	r, err := load.OpenReader(ctx, conf)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- r.Run(context.WithoutCancel(ctx)) }()
	t.Cleanup(func() {
		_ = r.Close() // the server may have closed it
		if err := <-ended; err != nil {
			t.Errorf("reader: %v", err)
		}
	})
	return r
}

// Firehose opens a reader of a subscription and waits until it is a member at
// n Dopplers.
func Firehose(ctx context.Context, t *testing.T, n int, conf load.ReaderConfig) *load.Reader {
	t.Helper()
	r := Read(ctx, t, conf)
	Until(ctx, t, r, "be placed at every Doppler", func(_ load.Account, places map[string]load.Place) bool {
		return len(places) >= n
	})
	return r
}

// Until waits for a reader.
func Until(ctx context.Context, t *testing.T, r *load.Reader, what string, done func(load.Account, map[string]load.Place) bool) {
	t.Helper()
	if err := r.Until(ctx, done); err != nil {
		a := r.Account()
		t.Fatalf("%v: reader did not %s: received %d, missing %d, repeated %d, gaps %d exact (%v), %d at least, %d unknown",
			err, what, a.Received, a.Missing, a.Repeated, a.Exact, a.GapReasons, a.AtLeast, a.Unknown)
	}
}

// Complete waits until a reader has n envelopes and checks that they are all
// there, once each and in order.
func Complete(ctx context.Context, t *testing.T, name string, r *load.Reader, n uint64) {
	t.Helper()
	Until(ctx, t, r, fmt.Sprintf("receive %d", n), func(a load.Account, _ map[string]load.Place) bool {
		return a.Received+a.Exact >= n
	})
	a := r.Account()
	if a.Received != n || a.Missing+a.Repeated+a.Foreign+a.Others+a.Exact+a.AtLeast+a.Unknown != 0 {
		t.Errorf("%s: received %d of %d, missing %d, repeated %d, foreign %d, others %d, gaps %d exact (%v), %d at least, %d unknown",
			name, a.Received, n, a.Missing, a.Repeated, a.Foreign, a.Others, a.Exact, a.GapReasons, a.AtLeast, a.Unknown)
	}
}
