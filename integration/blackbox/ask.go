package blackbox

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/pipeline"
)

// Poll waits until done says so, looking again and again.
func Poll(ctx context.Context, t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not in time", what)
		}
	}
}

// Metric reads a counter or gauge of a service, summed up over its labels.
func Metric(ctx context.Context, t *testing.T, s *pipeline.Service, name string) float64 {
	t.Helper()
	sum, found := 0.0, false
	for line := range strings.Lines(Get(ctx, t, "http://"+s.Addrs[pipeline.Admin]+"/metrics", http.StatusOK)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || !strings.HasSuffix(name, "}") && rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			t.Fatalf("metric %q: %v", line, err)
		}
		sum, found = sum+value, true
	}
	if !found {
		t.Fatalf("%s has no metric %s", s.Name, name)
	}
	return sum
}

// Get returns the body of an answer that has to have this status.
func Get(ctx context.Context, t *testing.T, url string, status int) string {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != status {
		t.Fatalf("GET %s: %s, want %d: %s", url, resp.Status, status, body)
	}
	return string(body)
}

// Subscription is what a service shows of a reader.
type Subscription struct {
	Kind   string `json:"kind"`
	Shard  string `json:"shard_id"`
	Member string `json:"member"` // empty for a group that lingers
	State  string `json:"state"`
	// The account of its group, but for Lag of a link.
	Accepted uint64 `json:"accepted"`
	Acked    uint64 `json:"acked"`
	Dropped  uint64 `json:"dropped"`
	InFlight uint64 `json:"in_flight"`
	Lag      uint64 `json:"lag"`
}

// Subscriptions are the readers that a service shows, but for those that are
// closed.
func Subscriptions(ctx context.Context, t *testing.T, s *pipeline.Service) []Subscription {
	t.Helper()
	var view struct {
		Subscriptions []Subscription `json:"subscriptions"`
	}
	body := Get(ctx, t, "http://"+s.Addrs[pipeline.Admin]+"/subscriptions", http.StatusOK)
	if err := json.Unmarshal([]byte(body), &view); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	return slices.DeleteFunc(view.Subscriptions, func(s Subscription) bool { return s.State == "closed" })
}

// Links counts the tail links of a Doppler.
func Links(ctx context.Context, t *testing.T, d *pipeline.Service) (n int) {
	t.Helper()
	for _, s := range Subscriptions(ctx, t, d) {
		if s.Kind == "link" {
			n++
		}
	}
	return n
}

// Members counts the members of a subscription at a Doppler.
func Members(ctx context.Context, t *testing.T, d *pipeline.Service, shard string) (n int) {
	t.Helper()
	for _, s := range Subscriptions(ctx, t, d) {
		if s.Shard == shard && s.Kind == "firehose" && s.Member != "" {
			n++
		}
	}
	return n
}
