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

// subscription is one row of the subscriptions view. For the Firehose the
// counts are those of the whole group, summed over the Dopplers.
type subscription struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"` // firehose or tail
	ShardID   string `json:"shard_id,omitempty"`
	SourceID  string `json:"source_id,omitempty"`
	Filter    string `json:"filter,omitempty"`
	Member    string `json:"member,omitempty"` // the Traffic Controller it reads through
	Remote    string `json:"remote,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	Since     string `json:"since,omitempty"`
	Lag       uint64 `json:"lag"`
	LagBytes  uint64 `json:"lag_bytes"`
	Sent      uint64 `json:"sent"`
	Bytes     uint64 `json:"bytes"`
	Accepted  uint64 `json:"accepted"`
	Acked     uint64 `json:"acked"`
	Dropped   uint64 `json:"dropped"`
	InFlight  uint64 `json:"in_flight"`
	Gaps      uint64 `json:"gaps"`
	Dopplers  int    `json:"dopplers,omitempty"`
	State     string `json:"state"`
}

// serveSubscriptions answers with who reads, those furthest behind first: the
// tails of this Traffic Controller, and the Firehose clients of all of them as
// far as the Dopplers tell.
func (t *TrafficController) serveSubscriptions(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), viewTimeout)
	defer cancel()
	rows := t.firehoseRows(t.askSubscriptions(ctx))
	for _, r := range t.hub.Rows() {
		state := "open"
		if r.Joining {
			state = "joining"
		}
		rows = append(rows, subscription{
			ID: "tail-" + strconv.FormatUint(r.Number, 10), Kind: "tail", SourceID: r.Source, Filter: r.Filter,
			Member: t.cfg.Name, Remote: r.Remote, UserAgent: r.UserAgent, Since: rfc3339(r.Opened),
			Lag: r.Lag, LagBytes: uint64(r.LagBytes), Sent: r.Sent, Bytes: r.Bytes, Dropped: r.Dropped, Gaps: r.Gaps, State: state,
		})
	}
	slices.SortFunc(rows, func(a, b subscription) int {
		return cmp.Or(cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.Dropped, a.Dropped), cmp.Compare(a.ID, b.ID))
	})
	answerJSON(w, map[string]any{"name": t.cfg.Name, "subscriptions": rows})
}

// firehoseKey tells Firehose clients apart.
type firehoseKey struct{ shard, member, remote string }

// firehoseRows puts what this Traffic Controller knows of its clients together
// with what the Dopplers know of everybody's.
func (t *TrafficController) firehoseRows(told []subscription) []subscription {
	rows := []subscription{}
	index := map[firehoseKey]int{}
	for _, r := range t.relay.Rows() {
		index[firehoseKey{r.Subscription, t.cfg.Name, r.Remote}] = len(rows)
		rows = append(rows, subscription{
			Kind: "firehose", ShardID: r.Subscription, Filter: r.Filter, Member: t.cfg.Name, Remote: r.Remote,
			UserAgent: r.UserAgent, Since: rfc3339(r.Opened), LagBytes: uint64(r.LagBytes),
			Sent: r.Sent, Bytes: r.Bytes, Gaps: r.Gaps, Dopplers: r.Dopplers, State: "open",
		})
	}
	own := len(rows)
	for _, d := range told {
		key := firehoseKey{d.ShardID, d.Member, d.Remote}
		i, known := index[key]
		if !known {
			i = len(rows)
			index[key] = i
			rows = append(rows, subscription{
				Kind: "firehose", ShardID: d.ShardID, Member: d.Member, Remote: d.Remote, Since: d.Since, State: d.State,
			})
		}
		row := &rows[i]
		row.Filter = d.Filter
		row.Lag += d.Lag
		row.LagBytes += d.LagBytes
		row.Accepted += d.Accepted
		row.Acked += d.Acked
		row.Dropped += d.Dropped
		row.InFlight += d.InFlight
		if i >= own {
			row.Sent += d.Sent
			row.Dopplers++
		}
	}
	for i := range rows {
		rows[i].ID = fmt.Sprintf("firehose-%s-%s-%s", rows[i].ShardID, rows[i].Member, rows[i].Remote)
	}
	return rows
}

// askSubscriptions asks every Doppler at once for its Firehose members. One
// that does not answer is left out.
func (t *TrafficController) askSubscriptions(ctx context.Context) []subscription {
	addrs := t.relay.Addrs()
	lists := make([][]subscription, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		wg.Go(func() {
			var answer struct {
				Subscriptions []subscription `json:"subscriptions"`
			}
			if err := t.ask(ctx, addr, stream.PathSubscriptions, nil, &answer); err != nil {
				t.log.Debug("subscriptions of a Doppler", "addr", addr, "error", err)
			}
			lists[i] = slices.DeleteFunc(answer.Subscriptions, func(s subscription) bool { return s.Kind != "firehose" })
		})
	}
	wg.Wait()
	return slices.Concat(lists...)
}

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
