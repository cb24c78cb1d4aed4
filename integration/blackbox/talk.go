package blackbox

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// Seeded returns the chance of a test, which LGR_SEED repeats.
func Seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("LGR_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("LGR_SEED: %v", err)
		}
	}
	t.Logf("LGR_SEED=%d repeats this", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// Talk sends what said returns to a Doppler, 20 times a second, until the test
// ends. It waits for the first to be there.
func Talk(ctx context.Context, t *testing.T, doppler *pipeline.Service, said func() *loggregatorv2.EnvelopeBatch) {
	t.Helper()
	conn, err := grpc.NewClient(doppler.Addrs[pipeline.GRPC], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var talking sync.WaitGroup
	t.Cleanup(func() {
		cancel()
		talking.Wait()
		_ = conn.Close()
	})
	sender, err := loggregatorv2.NewIngressClient(conn).BatchSender(ctx)
	if err != nil {
		t.Fatal(err)
	}
	talking.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			if err := sender.Send(said()); err != nil && ctx.Err() == nil {
				t.Error(err)
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	})
	Poll(ctx, t, "the first logs", func() bool { return Metric(ctx, t, doppler, "doppler_ingress_envelopes_total") > 0 })
}
