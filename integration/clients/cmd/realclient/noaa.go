package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/cloudfoundry/noaa/v2/consumer"
	"github.com/cloudfoundry/sonde-go/events"

	"github.com/a1ea6966/loggregator/integration/clients/mix"
)

// reader is what the noaa subcommands have in common.
type reader struct {
	addr, token, mode, id, refresh string
	tls                            secure
	check                          check
	lines                          bool
	first                          time.Duration
}

// readNoaa reads with noaa. With -lines it says every envelope, error and
// connection as it comes; else it checks a run.
func readNoaa(ctx context.Context, args []string) error {
	var r reader
	f := newFlags("noaa")
	f.StringVar(&r.addr, "addr", "", "ws or wss URL of a Traffic Controller")
	f.StringVar(&r.token, "token", "bearer none", "access token")
	f.StringVar(&r.refresh, "refresh", "", "URL that gives a new token, for the refresher")
	f.StringVar(&r.mode, "mode", "firehose", "firehose, logs or metrics (filtered), stream or tail (of an app)")
	f.StringVar(&r.id, "id", "", "subscription, or app")
	f.BoolVar(&r.lines, "lines", false, "say what comes")
	f.DurationVar(&r.first, "retry", 0, "first pause before a new connection; 0 for noaa's own")
	r.tls.flags(f)
	r.check.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	config, err := r.tls.config()
	if err != nil {
		return err
	}
	c := consumer.New(r.addr, config, nil)
	defer func() { _ = c.Close() }() // an error tells that it is closed
	if r.first > 0 {
		c.SetMinRetryDelay(r.first)
	}
	if r.refresh != "" {
		c.RefreshTokenFrom(refresher(r.refresh))
	}
	if !r.lines {
		r.check.expect, r.check.gap = r.expected, dropped
		r.check.prepare()
	}
	connects := make(chan struct{}, 100)
	c.SetOnConnectCallback(func() { connects <- struct{}{} })
	envelopes, faults := r.open(c)
	if r.lines {
		return r.say(ctx, envelopes, faults, connects)
	}
	return follow(ctx, &r.check, func(ctx context.Context) ([]*events.Envelope, error) {
		select {
		case e := <-envelopes:
			return []*events.Envelope{e}, nil
		case err := <-faults:
			return nil, err
		case <-connects:
			return nil, nil
		case <-ctx.Done():
			return nil, nil
		}
	})
}

func (r *reader) open(c *consumer.Consumer) (<-chan *events.Envelope, <-chan error) {
	switch r.mode {
	case "stream":
		return c.Stream(r.id, r.token)
	case "tail":
		logs, faults := c.TailingLogs(r.id, r.token)
		return wrapped(logs), faults
	case "logs":
		return c.FilteredFirehose(r.id, r.token, consumer.LogMessages)
	case "metrics":
		return c.FilteredFirehose(r.id, r.token, consumer.Metrics)
	}
	return c.Firehose(r.id, r.token)
}

// wrapped puts logs into envelopes.
func wrapped(logs <-chan *events.LogMessage) <-chan *events.Envelope {
	envelopes := make(chan *events.Envelope)
	go func() {
		defer close(envelopes)
		for l := range logs {
			envelopes <- &events.Envelope{EventType: events.Envelope_LogMessage.Enum(), LogMessage: l}
		}
	}()
	return envelopes
}

// expected is what the mode gets of an envelope.
func (r *reader) expected(via string, n int) (all []numbered) {
	for _, e := range mix.V1(r.check.run, via, n) {
		switch {
		case r.mode == "logs" && !mix.IsLog(e), r.mode == "metrics" && mix.IsLog(e), r.mode == "stream" && !mix.IsOfApp(e, r.id):
		default:
			all = append(all, e)
		}
	}
	return all
}

// dropped is how many envelopes a client of the old framing is told it misses:
// a counter on the Firehose, a line of a tail.
func dropped(e numbered) (n int) {
	v1, ok := e.(*events.Envelope)
	switch {
	case !ok:
	case v1.GetCounterEvent().GetName() == "TruncatingBuffer.DroppedMessages" && v1.GetOrigin() == "doppler":
		n = int(v1.GetCounterEvent().GetDelta())
	case v1.GetLogMessage().GetSourceType() == "LGR":
		_, _ = fmt.Sscan(string(v1.GetLogMessage().GetMessage()), &n) // else it is no number
	}
	return n
}

// say says what comes until ctx ends.
func (r *reader) say(ctx context.Context, envelopes <-chan *events.Envelope, faults <-chan error, connects <-chan struct{}) error {
	for {
		var err error
		select {
		case e, ok := <-envelopes:
			if !ok {
				return say(map[string]string{"ended": "the stream"})
			}
			err = say(map[string]any{"envelope": e})
		case fault, ok := <-faults:
			if !ok {
				return say(map[string]string{"ended": "errors"})
			}
			err = say(map[string]string{"error": fault.Error(), "type": fmt.Sprintf("%T", fault)})
		case <-connects:
			err = say(map[string]bool{"connected": true})
		case <-ctx.Done():
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// refresher is the URL of a UAA that gives tokens.
type refresher string

// RefreshAuthToken fetches a new token and says so.
func (u refresher) RefreshAuthToken() (string, error) {
	resp, err := http.Get(string(u)) //nolint:noctx // noaa gives none
	if err != nil {
		return "", fmt.Errorf("refresh token: %w", err)
	}
	defer resp.Body.Close()
	token, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err == nil {
		err = say(map[string]string{"refreshed": strings.TrimSpace(string(token))})
	}
	if err != nil {
		return "", fmt.Errorf("refresh token: %w", err)
	}
	return strings.TrimSpace(string(token)), nil
}

// plainReads reads an app's container metrics with noaa and says them.
func plainReads(_ context.Context, args []string) error {
	var tls secure
	f := newFlags("reads")
	addr := f.String("addr", "", "ws or wss URL of a Traffic Controller")
	token := f.String("token", "bearer none", "access token")
	app := f.String("id", "", "app")
	tls.flags(f)
	if err := f.Parse(args); err != nil {
		return err
	}
	config, err := tls.config()
	if err != nil {
		return err
	}
	metrics, err := consumer.New(*addr, config, nil).ContainerMetrics(*app, *token)
	if err != nil {
		return fmt.Errorf("read container metrics: %w", err)
	}
	for _, m := range metrics {
		if err := say(map[string]any{"metric": m}); err != nil {
			return err
		}
	}
	return nil
}
