package top

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	readTimeout = 5 * time.Second
	// maxAnswer bounds what one server may answer.
	maxAnswer = 32 << 20
	// maxSources is how many sources a server is asked for.
	maxSources = "1000"
)

// Client asks servers what flows through them: a Traffic Controller for all of
// its Dopplers, or Dopplers themselves.
type Client struct {
	// HTTP is used as it is; Addrs are base URLs.
	HTTP  *http.Client
	Addrs []string
	// Header goes with every question.
	Header http.Header
}

// Read asks all servers at once. It takes no longer than a few seconds and
// never fails: what went wrong is in the reading.
func (c *Client) Read(ctx context.Context) *Reading {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	answers := make([]answer, len(c.Addrs))
	var wg sync.WaitGroup
	for i, addr := range c.Addrs {
		wg.Go(func() { answers[i] = c.ask(ctx, addr) })
	}
	wg.Wait()
	r := &Reading{At: time.Now()}
	byID := make(map[string]int)
	for i, a := range answers {
		for _, err := range a.errs {
			r.Faults = append(r.Faults, err.Error())
		}
		r.addRings(a.sources.rings())
		r.addSources(byID, a.sources.Sources)
		for _, s := range a.subscriptions.Subscriptions {
			s.server = c.Addrs[i]
			r.Subscriptions = append(r.Subscriptions, s)
		}
	}
	r.sort()
	return r
}

// addRings takes the Dopplers that answered, and the faults of the others.
func (r *Reading) addRings(rings []Ring) {
	for _, ring := range rings {
		if ring.Error == "" {
			r.Rings = append(r.Rings, ring)
		} else {
			r.Faults = append(r.Faults, fmt.Sprintf("Doppler at %s: %s", ring.Addr, ring.Error))
		}
	}
}

// addSources sums what several Dopplers say about the same source.
func (r *Reading) addSources(byID map[string]int, sources []Source) {
	for _, s := range sources {
		i, ok := byID[s.ID]
		if !ok {
			byID[s.ID] = len(r.Sources)
			r.Sources = append(r.Sources, s)
			continue
		}
		sum := &r.Sources[i]
		sum.Envelopes += s.Envelopes
		sum.Bytes += s.Bytes
		sum.Rate += s.Rate
		sum.Held += s.Held
		sum.Limited += s.Limited
		sum.LimitedRate += s.LimitedRate
	}
}

// answer is what one server said.
type answer struct {
	sources       sourcesAnswer
	subscriptions struct {
		Subscriptions []Subscription `json:"subscriptions"`
	}
	errs []error
}

// sourcesAnswer is that of a Doppler, which describes its ring, or that of a
// Traffic Controller, which describes those of all its Dopplers.
type sourcesAnswer struct {
	Ring
	Dopplers []Ring   `json:"dopplers"`
	Sources  []Source `json:"sources"`
}

func (a sourcesAnswer) rings() []Ring {
	if a.Doppler == "" {
		return a.Dopplers
	}
	return append(a.Dopplers, a.Ring)
}

func (c *Client) ask(ctx context.Context, addr string) answer {
	var a answer
	sourcesErr := c.get(ctx, addr+"/v2/sources?limit="+maxSources, &a.sources)
	subscriptionsErr := c.get(ctx, addr+"/v2/subscriptions", &a.subscriptions)
	switch {
	case sourcesErr != nil && subscriptionsErr != nil:
		// One sentence is enough for a server that is not there.
		a.errs = []error{sourcesErr}
	case sourcesErr != nil || subscriptionsErr != nil:
		a.errs = []error{errors.Join(sourcesErr, subscriptionsErr)}
	}
	return a
}

func (c *Client) get(ctx context.Context, address string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("ask %s: %w", address, err)
	}
	maps.Copy(req.Header, c.Header)
	res, err := c.HTTP.Do(req)
	if err != nil {
		// Its text would repeat method and address.
		if failure := (*url.Error)(nil); errors.As(err, &failure) {
			err = failure.Err
		}
		return fmt.Errorf("ask %s: %w", address, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 200)) // only to tell more
		return fmt.Errorf("ask %s: %s: %s", address, res.Status, strings.TrimSpace(string(text)))
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(into); err != nil {
		return fmt.Errorf("read the answer of %s: %w", address, err)
	}
	return nil
}
