package trafficcontroller

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
)

// ask reads a view of the Doppler at addr.
func (t *TrafficController) ask(ctx context.Context, addr, path string, query url.Values, into any) error {
	body, err := t.dialer.Get(ctx, addr, path, query)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("read answer of %s: %w", addr, err)
	}
	return nil
}

func rfc3339(at time.Time) string { return at.UTC().Format(time.RFC3339) }

// sourceRow is one source, over all Dopplers.
type sourceRow struct {
	ID        string  `json:"source_id"`
	Envelopes uint64  `json:"envelopes"`
	Bytes     uint64  `json:"bytes"`
	Rate      float64 `json:"rate"`
	Held      uint64  `json:"held"`
	Share     float64 `json:"share"`   // of the total rate
	Limited   uint64  `json:"limited"` // left out by Dopplers over their limit
	// LimitedRate is how many of those there are per second.
	LimitedRate float64 `json:"limited_rate"`
}

// dopplerRow is what one Doppler says of itself.
type dopplerRow struct {
	Addr        string  `json:"addr"`
	Doppler     string  `json:"doppler,omitempty"`
	Epoch       uint64  `json:"epoch,omitempty"`
	Head        uint64  `json:"head"`
	Oldest      uint64  `json:"oldest"`
	RingBytes   int64   `json:"ring_bytes"`
	HeldBytes   uint64  `json:"held_bytes"`
	HeldSeconds float64 `json:"held_seconds"`
	Rate        float64 `json:"rate"`
	Error       string  `json:"error,omitempty"`
}

const (
	defaultSources = 100
	askedSources   = 10_000 // of each Doppler, so that sums over them are right
	viewTimeout    = 3 * time.Second
)

// serveSources answers with the top talkers over all Dopplers. A Doppler that
// does not answer is listed with why.
func (t *TrafficController) serveSources(w http.ResponseWriter, r *http.Request) {
	limit := defaultSources
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > askedSources {
			http.Error(w, fmt.Sprintf("limit %.100q is not a number from 1 to %d", v, askedSources), http.StatusBadRequest)
			return
		}
		limit = n
	}
	ctx, cancel := context.WithTimeout(r.Context(), viewTimeout)
	defer cancel()
	dopplers, sources := t.askSources(ctx)
	rows := make([]sourceRow, 0, len(sources))
	for _, row := range sources {
		rows = append(rows, *row)
	}
	slices.SortFunc(rows, func(a, b sourceRow) int {
		return cmp.Or(cmp.Compare(b.Rate+b.LimitedRate, a.Rate+a.LimitedRate), cmp.Compare(b.Envelopes, a.Envelopes), cmp.Compare(a.ID, b.ID))
	})
	sum := dopplerRow{}
	for _, d := range dopplers {
		sum.RingBytes += d.RingBytes
		sum.HeldBytes += d.HeldBytes
		sum.Rate += d.Rate
		sum.Head += d.Head
		sum.Oldest += d.Oldest
		sum.HeldSeconds = max(sum.HeldSeconds, d.HeldSeconds)
	}
	for i := range rows {
		rows[i].Share = rows[i].Rate / max(sum.Rate, rows[i].Rate, 1e-9)
	}
	answerJSON(w, map[string]any{
		"name": t.cfg.Name, "dopplers": dopplers, "head": sum.Head, "oldest": sum.Oldest, "ring_bytes": sum.RingBytes,
		"held_bytes": sum.HeldBytes, "held_seconds": sum.HeldSeconds, "rate": sum.Rate,
		"known_sources": len(rows), "sources": rows[:min(limit, len(rows))],
	})
}

// askSources asks every Doppler at once.
func (t *TrafficController) askSources(ctx context.Context) ([]dopplerRow, map[string]*sourceRow) {
	addrs := t.relay.Addrs()
	dopplers := make([]dopplerRow, len(addrs))
	lists := make([][]sourceRow, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			dopplers[i].Addr = addr
			var answer struct {
				dopplerRow
				Sources []sourceRow `json:"sources"`
			}
			err := t.ask(ctx, addr, stream.PathSources, url.Values{"limit": {strconv.Itoa(askedSources)}}, &answer)
			if err != nil {
				dopplers[i].Error = err.Error()
				return
			}
			dopplers[i], lists[i] = answer.dopplerRow, answer.Sources
			dopplers[i].Addr = addr
		})
	}
	wg.Wait()
	sources := map[string]*sourceRow{}
	for _, list := range lists {
		for _, row := range list {
			if have := sources[row.ID]; have != nil {
				have.Envelopes += row.Envelopes
				have.Bytes += row.Bytes
				have.Rate += row.Rate
				have.Held += row.Held
				have.Limited += row.Limited
				have.LimitedRate += row.LimitedRate
			} else {
				sources[row.ID] = &row
			}
		}
	}
	return dopplers, sources
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // a client that is gone needs no answer
}
