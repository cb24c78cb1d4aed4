package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// TestLateArrivals: somebody asks /api/v1/read again and again, as clients of Log
// Cache do, each time from the timestamp after the last one on. Two Dopplers
// take envelopes in that are up to 2 s late; each is read once.
func TestLateArrivals(t *testing.T) {
	const (
		n      = 1000
		settle = 6 * time.Second // what is late, and some for a machine that has a lot to do
		late   = 2 * time.Second
	)
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 2, Controllers: 1, ControllerArgs: []string{"--log-cache-settle", settle.String()}})
	var senders []loggregatorv2.Ingress_BatchSenderClient
	for _, d := range p.Dopplers {
		sender, err := loggregatorv2.NewIngressClient(grpcTo(t, d)).BatchSender(ctx)
		if err != nil {
			t.Fatal(err)
		}
		senders = append(senders, sender)
	}
	next := time.Now().Add(-late).UnixNano()
	var emitting sync.WaitGroup
	emitting.Go(func() { emitLate(ctx, t, senders, n, late) })
	defer emitting.Wait()
	var got []int
	poll(ctx, t, "all to be read", func() bool {
		url := fmt.Sprintf("http://%s/api/v1/read/app?start_time=%d&limit=%d", p.Controllers[0].Addrs[pipeline.Public], next, 1+rand.IntN(100))
		for _, e := range readCache(ctx, t, url) {
			got, next = append(got, e.number), e.at+1
		}
		return len(got) >= n
	})
	slices.Sort(got)
	for i, number := range got {
		if number != i {
			t.Fatalf("envelope %d is missing, or was read twice", i)
		}
	}
}

// numbered is a numbered log.
type numbered struct {
	at     int64
	number int
}

// readCache reads numbered logs.
func readCache(ctx context.Context, t *testing.T, url string) (list []numbered) {
	t.Helper()
	var answer struct {
		Envelopes struct {
			Batch []struct {
				Timestamp int64 `json:",string"`
				Log       struct{ Payload []byte }
			}
		}
	}
	if err := json.Unmarshal([]byte(get(ctx, t, url, http.StatusOK)), &answer); err != nil {
		t.Fatal(err)
	}
	for _, e := range answer.Envelopes.Batch {
		number, err := strconv.Atoi(string(e.Log.Payload))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, numbered{e.Timestamp, number})
	}
	return list
}

// emitLate sends n numbered logs over about 3 s, by turns. Each is up to late
// behind its timestamp, so they come in no order.
func emitLate(ctx context.Context, t *testing.T, senders []loggregatorv2.Ingress_BatchSenderClient, n int, late time.Duration) {
	tick := time.NewTicker(3 * time.Millisecond)
	defer tick.Stop()
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		e := &loggregatorv2.Envelope{
			Timestamp: time.Now().Add(-rand.N(late)).UnixNano(), SourceId: "app",
			Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(strconv.Itoa(i))}},
		}
		if err := senders[i%len(senders)].Send(&loggregatorv2.EnvelopeBatch{Batch: []*loggregatorv2.Envelope{e}}); err != nil {
			t.Error(err)
			return
		}
	}
}
