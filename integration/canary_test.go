package integration

import (
	"bytes"
	"context"
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// canary is lgr canary and where its metrics are.
type canary struct {
	*process.Process
	out bytes.Buffer // to be read when it has ended
	url string
}

// startCanary starts one for all Dopplers of a pipeline, and waits until it is
// ready.
func startCanary(ctx context.Context, t *testing.T, p *pipeline.Pipeline, args ...string) *canary {
	t.Helper()
	all := append([]string{"canary", "--addr", p.URL(0), "--admin-addr", "127.0.0.1:0"}, args...)
	for _, d := range p.Dopplers {
		all = append(all, "--doppler", d.Addrs[pipeline.GRPC])
	}
	c := &canary{}
	c.Process = blackbox.Launch(t, process.Lgr, process.Command{Args: all, Stdout: &c.out})
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	metrics := regexp.MustCompile(`http://\S+/metrics`)
	blackbox.Poll(ctx, t, "the canary to tell where its metrics are", func() bool {
		c.url = metrics.FindString(c.Log())
		return c.url != ""
	})
	c.wait(ctx, t, "receive something", func(metrics string) bool {
		return !strings.Contains(metrics, "lgr_canary_received_envelopes_total{path=\"tail\"} 0\n") &&
			!strings.Contains(metrics, "lgr_canary_received_envelopes_total{path=\"firehose\"} 0\n")
	})
	return c
}

// wait waits until its metrics are as they should.
func (c *canary) wait(ctx context.Context, t *testing.T, what string, done func(metrics string) bool) {
	t.Helper()
	blackbox.Poll(ctx, t, "the canary to "+what, func() bool {
		select {
		case <-c.Done():
			t.Fatalf("it ended before it could %s:\n%s", what, c.Log())
		default:
		}
		return done(blackbox.Get(ctx, t, c.url, http.StatusOK))
	})
}

// TestCanaryOutlivesEveryTier kills the Traffic Controller and then a Doppler:
// all that is lost is told.
func TestCanaryOutlivesEveryTier(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 2, Controllers: 1})
	c := startCanary(ctx, t, p, "--rate", "200", "--for", "15s", "--lost-after", "10s", "--interval", "1s")

	controller := p.Controllers[0]
	controller.Kill()
	if err := p.Restart(ctx, controller); err != nil {
		t.Fatal(err)
	}
	c.wait(ctx, t, "be back at the Traffic Controller", func(metrics string) bool {
		return strings.Contains(metrics, "lgr_canary_connects_total{path=\"tail\"} 2\n") &&
			strings.Contains(metrics, "lgr_canary_connects_total{path=\"firehose\"} 2\n")
	})

	doppler := p.Dopplers[0]
	doppler.Kill()
	if err := p.Restart(ctx, doppler); err != nil {
		t.Fatal(err)
	}
	c.wait(ctx, t, "be told of the loss", func(metrics string) bool {
		return strings.Contains(metrics, `lgr_canary_gaps_total{path="tail",precision="unknown",reason="doppler_lost"} 1`+"\n") &&
			strings.Contains(metrics, `lgr_canary_gaps_total{path="firehose",precision="unknown",reason="doppler_lost"} 1`+"\n")
	})

	code, err := c.Wait(ctx)
	if err != nil || code != 0 || !strings.Contains(c.out.String(), "nothing is wrong") || strings.Contains(c.out.String(), "FAULT") {
		t.Errorf("code %d, %v\n%s\n%s", code, err, c.out.String(), c.Log())
	}
}
