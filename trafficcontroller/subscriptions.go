package trafficcontroller

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/slow"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/fanout"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/relay"
)

// subscription is one row of the subscriptions view. For the Firehose the
// counts are those of the whole group, summed over the Dopplers.
type subscription struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"` // firehose, tail or read
	Class     string `json:"class,omitempty"`
	Framing   string `json:"framing,omitempty"` // of a gRPC call to a Doppler its method
	ShardID   string `json:"shard_id,omitempty"`
	SourceID  string `json:"source_id,omitempty"`
	Filter    string `json:"filter,omitempty"`
	Member    string `json:"member,omitempty"` // the Traffic Controller it reads through
	User      string `json:"user,omitempty"`   // id in UAA
	UserAgent string `json:"user_agent,omitempty"`
	Remote    string `json:"remote,omitempty"`
	Forwarded string `json:"forwarded,omitempty"` // X-Forwarded-For
	Since     string `json:"since,omitempty"`
	Lag       uint64 `json:"lag"`
	// LagBytes is about as many bytes as they have; LagAge is since the oldest of
	// them came, in seconds. Both include what waits in the Traffic Controller.
	LagBytes uint64  `json:"lag_bytes"`
	LagAge   float64 `json:"lag_age_seconds"`
	Sent     uint64  `json:"sent"`
	Bytes    uint64  `json:"bytes"`
	Accepted uint64  `json:"accepted"`
	Acked    uint64  `json:"acked"`
	Dropped  uint64  `json:"dropped"`
	InFlight uint64  `json:"in_flight"`
	Gaps     uint64  `json:"gaps"`
	Dopplers int     `json:"dopplers,omitempty"`
	State    string  `json:"state"` // joining, open, slow, lingers or closed
	// Of one that is closed.
	ClosedAt    string `json:"closed_at,omitempty"`
	CloseCode   int    `json:"close_code,omitempty"`
	CloseReason string `json:"close_reason,omitempty"`
}

// serveSubscriptions answers with who reads, those in most trouble first: the
// tails of this Traffic Controller, and the Firehose clients of all of them as
// far as the Dopplers tell. Then come those that have gone of late.
func (t *TrafficController) serveSubscriptions(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), viewTimeout)
	defer cancel()
	told, closed := t.askSubscriptions(ctx)
	rows := t.firehoseRows(told)
	for _, r := range t.hub.Rows() {
		rows = append(rows, t.tailRow(r))
	}
	slices.SortFunc(rows, func(a, b subscription) int {
		return cmp.Or(-compareBool(a.State == "slow", b.State == "slow"), cmp.Compare(b.LagAge, a.LagAge),
			cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.Dropped, a.Dropped), cmp.Compare(a.ID, b.ID))
	})
	closed = append(closed, t.readers.closed.List(time.Now())...)
	slices.SortStableFunc(closed, func(a, b subscription) int { return cmp.Compare(b.ClosedAt, a.ClosedAt) })
	answerJSON(w, map[string]any{"name": t.cfg.Name, "subscriptions": append(rows, closed...)})
}

// compareBool puts false before true.
func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// reader fills in who it is.
func (s *subscription) reader(who slow.Who) {
	s.Class, s.Remote, s.Forwarded, s.UserAgent, s.User = who.Class, who.Remote, who.Forwarded, who.UserAgent, who.User
}

// behind fills in how far it is behind.
func (s *subscription) behind(l slow.Lag) {
	s.Lag, s.LagBytes, s.LagAge, s.Dropped = l.Envelopes, l.Bytes, l.Age.Seconds(), l.Dropped
}

func stateOf(joining, isSlow bool) string {
	switch {
	case isSlow:
		return "slow"
	case joining:
		return "joining"
	}
	return "open"
}

func (t *TrafficController) tailRow(r fanout.Row) subscription {
	s := subscription{
		ID: "tail-" + strconv.FormatUint(r.Number, 10), Kind: "tail", SourceID: r.Options.Source, Filter: r.Filter, Member: t.cfg.Name,
		Since: rfc3339(r.Opened), Sent: r.Sent, Bytes: r.Bytes, Gaps: r.Gaps, State: stateOf(r.Joining, r.Slow),
	}
	s.reader(r.Options.Who)
	s.behind(r.Lag)
	return s
}

func (t *TrafficController) relayRow(r relay.Row) subscription {
	s := subscription{
		Kind: "firehose", ShardID: r.Options.Subscription, Filter: r.Filter, Member: t.cfg.Name, Since: rfc3339(r.Opened),
		Sent: r.Sent, Bytes: r.Bytes, Gaps: r.Gaps, Dopplers: r.Dopplers, State: stateOf(false, r.Slow),
	}
	s.reader(r.Options.Who)
	if s.Class == classRead.String() {
		s.Kind = "read"
	}
	s.name()
	s.behind(r.Lag)
	return s
}

// name gives a Firehose row its id.
func (s *subscription) name() { s.ID = fmt.Sprintf("firehose-%s-%s-%s", s.ShardID, s.Member, s.Remote) }

// firehoseKey tells Firehose clients apart.
type firehoseKey struct{ shard, member, remote string }

// firehoseRows puts what this Traffic Controller knows of its clients together
// with what the Dopplers know, now, of everybody's.
func (t *TrafficController) firehoseRows(told []subscription) []subscription {
	rows := []subscription{}
	index := map[firehoseKey]int{}
	var here []slow.Lag
	for _, r := range t.relay.Rows() {
		here = append(here, r.Here)
		index[firehoseKey{r.Options.Subscription, t.cfg.Name, r.Options.Remote}] = len(rows)
		rows = append(rows, t.relayRow(r))
	}
	own := len(rows)
	fresh := make([]bool, own) // rows of which a Doppler has told
	for _, d := range told {
		key := firehoseKey{d.ShardID, d.Member, d.Remote}
		i, known := index[key]
		if !known {
			i = len(rows)
			index[key] = i
			rows = append(rows, subscription{
				Kind: "firehose", Framing: d.Framing, ShardID: d.ShardID, Member: d.Member, Remote: d.Remote, UserAgent: d.UserAgent,
				Since: d.Since, State: d.State,
			})
			rows[i].name()
		}
		row := &rows[i]
		if i < own && !fresh[i] {
			fresh[i] = true
			row.Lag, row.LagBytes, row.Dropped = here[i].Envelopes, here[i].Bytes, 0 // it was as of the last heartbeats
		}
		row.Filter = d.Filter
		row.add(d)
		if i >= own {
			row.Sent += d.Sent
			row.Dopplers++
		}
	}
	return rows
}

// add adds what a Doppler knows.
func (s *subscription) add(d subscription) {
	s.Lag += d.Lag
	s.LagBytes += d.LagBytes
	s.LagAge = max(s.LagAge, d.LagAge)
	s.Accepted += d.Accepted
	s.Acked += d.Acked
	s.Dropped += d.Dropped
	s.InFlight += d.InFlight
}

// askSubscriptions asks every Doppler at once for its Firehose members, and the
// calls over gRPC that have gone. One that does not answer is left out.
func (t *TrafficController) askSubscriptions(ctx context.Context) (open, closed []subscription) {
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
			lists[i] = answer.Subscriptions
		})
	}
	wg.Wait()
	for _, s := range slices.Concat(lists...) {
		switch {
		case s.Kind != "firehose":
		case s.State != "closed":
			open = append(open, s)
		case s.Framing != "": // of its own clients a Traffic Controller knows more
			s.name()
			closed = append(closed, s)
		}
	}
	return open, closed
}
