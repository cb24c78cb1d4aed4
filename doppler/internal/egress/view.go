package egress

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// view is what the subscriptions page says of a connection from its start.
type view struct {
	id        string
	remote    string
	user      string
	userAgent string
	framing   string // of a gRPC call its method; empty for batches over WebSocket
	since     time.Time
}

func newView(r *http.Request, user, remote, id string) view {
	if remote == "" {
		remote = r.RemoteAddr
	}
	return view{id: id, remote: remote, user: user, userAgent: r.UserAgent(), since: time.Now()}
}

// Subscription is one row of the subscriptions page.
type Subscription struct {
	ID        string `json:"id"`
	Kind      string `json:"kind"` // firehose or link
	ShardID   string `json:"shard_id,omitempty"`
	Filter    string `json:"filter,omitempty"`
	Name      string `json:"deterministic_name,omitempty"`
	Framing   string `json:"framing,omitempty"` // of a gRPC call its method
	Member    string `json:"member,omitempty"`
	Remote    string `json:"remote,omitempty"`
	UserAgent string `json:"user_agent,omitempty"`
	Since     string `json:"since,omitempty"`
	Lag       uint64 `json:"lag"`
	// LagBytes is about as many bytes as they have; LagAge is since the oldest of
	// them came, in seconds.
	LagBytes uint64  `json:"lag_bytes"`
	LagAge   float64 `json:"lag_age_seconds"`
	Sent     uint64  `json:"sent"`
	Accepted uint64  `json:"accepted"`
	Acked    uint64  `json:"acked"`
	Dropped  uint64  `json:"dropped"`
	InFlight uint64  `json:"in_flight"`
	Watches  int     `json:"watches,omitempty"`
	State    string  `json:"state"` // open, slow, lingers or closed
	// Of one that is closed. Code is that of the close frame, or of the status
	// of a call.
	ClosedAt    string `json:"closed_at,omitempty"`
	CloseCode   int    `json:"close_code,omitempty"`
	CloseReason string `json:"close_reason,omitempty"`
}

func (row *Subscription) behind(l slow.Lag) {
	row.Lag, row.LagBytes, row.LagAge, row.Dropped = l.Envelopes, l.Bytes, l.Age.Seconds(), l.Dropped
}

// closed is the row of a connection that has just ended.
func (row Subscription) closed(now time.Time, why stream.CloseError) Subscription {
	row.State, row.ClosedAt, row.CloseCode, row.CloseReason = "closed", rfc3339(now), int(why.Code), why.Reason
	return row
}

// ServeSubscriptions answers with who reads and how far behind.
func (s *Server) ServeSubscriptions(w http.ResponseWriter, _ *http.Request) {
	answerJSON(w, map[string]any{"doppler": s.cfg.Doppler, "epoch": s.cfg.Epoch, "subscriptions": s.Subscriptions()})
}

// Subscriptions lists every group, with a row per member, and every link;
// those furthest behind first. Then come those that have gone of late.
func (s *Server) Subscriptions() []Subscription {
	now, mean, head := time.Now(), s.meanBytes(), s.log.Head()
	s.mu.Lock()
	rows := make([]Subscription, 0, s.conns)
	for _, g := range s.groups {
		rows = append(rows, g.rows(now, s, mean)...)
	}
	for l := range s.links {
		rows = append(rows, l.row(now, head, mean))
	}
	s.mu.Unlock()
	slices.SortFunc(rows, func(a, b Subscription) int {
		return cmp.Or(cmp.Compare(b.LagAge, a.LagAge), cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.Dropped, a.Dropped))
	})
	return append(rows, s.closed.List(now)...)
}

// rows are the group's members; a group that lingers is one row.
func (g *group) rows(now time.Time, s *Server, mean uint64) []Subscription {
	g.mu.Lock()
	defer g.mu.Unlock()
	base := g.base(now, s, mean)
	if len(g.sessions) == 0 {
		base.ID = g.key
		base.Since = rfc3339(g.left)
		return []Subscription{base}
	}
	rows := make([]Subscription, 0, len(g.sessions))
	for _, m := range g.sessions {
		rows = append(rows, g.row(m, base))
	}
	return rows
}

// base is what the group's rows have in common. mu is held.
func (g *group) base(now time.Time, s *Server, mean uint64) Subscription {
	a := g.state.Account()
	base := Subscription{
		Kind: "firehose", ShardID: g.shardID, Filter: g.filter.Key(), Name: g.name,
		Accepted: a.Accepted, Acked: a.Acked, InFlight: a.InFlight, State: "lingers",
	}
	base.behind(g.lagLocked(now, s, mean, a))
	return base
}

// row is that of a member. mu is held.
func (g *group) row(m *seat, base Subscription) Subscription {
	base.ID, base.Member, base.Remote = m.id, m.user, m.remote
	base.UserAgent, base.Framing, base.Since, base.State = m.userAgent, m.framing, rfc3339(m.since), "open"
	if m.slow {
		base.State = "slow"
	}
	base.Sent, _ = m.state.Counters()
	return base
}

func (l *linkSession) row(now time.Time, head, mean uint64) Subscription {
	row := Subscription{
		ID: l.id, Kind: "link", Member: l.user, Remote: l.remote, UserAgent: l.userAgent,
		Since: rfc3339(l.since), State: "open",
	}
	row.behind(l.lag(now, head, mean))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != nil {
		row.Sent, _ = l.state.Counters()
		row.Watches = l.state.Watches()
	}
	return row
}

// rates remembers two samples of the sources, so that a view can show what
// happened since.
type rates struct {
	mu         sync.Mutex
	old, fresh sample
}

type sample struct {
	at     time.Time
	counts map[string]sourceCounts
}

// sourceCounts are what grows of a source: taken, and left out over its limit.
type sourceCounts struct{ envelopes, limited uint64 }

const minSampleAge = 500 * time.Millisecond

// rate returns how to tell the envelopes per second of a source that are taken,
// and that are left out.
func (r *rates) rate(now time.Time, began time.Time, list []ring.SourceStats) func(ring.SourceStats) (taken, limited float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.fresh.at) >= minSampleAge {
		counts := make(map[string]sourceCounts, len(list))
		for _, st := range list {
			counts[st.ID] = sourceCounts{st.Envelopes, st.Limited}
		}
		r.old, r.fresh = r.fresh, sample{now, counts}
	}
	old := r.old
	if old.counts == nil {
		old.at = began
	}
	seconds := max(now.Sub(old.at).Seconds(), 0.001)
	perSecond := func(before, now uint64) float64 { return float64(now-min(before, now)) / seconds }
	return func(st ring.SourceStats) (taken, limited float64) {
		before := old.counts[st.ID]
		return perSecond(before.envelopes, st.Envelopes), perSecond(before.limited, st.Limited)
	}
}

type sourceRow struct {
	ID        string  `json:"source_id"`
	Envelopes uint64  `json:"envelopes"`
	Bytes     uint64  `json:"bytes"`
	Rate      float64 `json:"rate"`
	Held      uint64  `json:"held"`
	Share     float64 `json:"share"`   // of the total rate
	Limited   uint64  `json:"limited"` // left out over --source-limit
	// LimitedRate is how many of those there are per second.
	LimitedRate float64 `json:"limited_rate"`
}

// offered is what producers send of a source per second.
func (r *sourceRow) offered() float64 { return r.Rate + r.LimitedRate }

const defaultSourceRows = 100

// ServeSources answers with what is held and who talks most.
func (s *Server) ServeSources(w http.ResponseWriter, r *http.Request) {
	limit := defaultSourceRows
	if v := r.URL.Query().Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("limit %q is not a number above 0", v), http.StatusBadRequest)
			return
		}
		limit = n
	}
	var list []ring.SourceStats
	s.log.EachSource(func(st ring.SourceStats) { list = append(list, st) })
	now := time.Now()
	rate := s.rates.rate(now, s.began, list)
	rows := make([]sourceRow, len(list))
	total := 0.0
	for i, st := range list {
		rows[i] = sourceRow{ID: st.ID, Envelopes: st.Envelopes, Bytes: st.Bytes, Held: st.Held, Limited: st.Limited}
		rows[i].Rate, rows[i].LimitedRate = rate(st)
		total += rows[i].Rate
	}
	for i := range rows {
		rows[i].Share = rows[i].Rate / max(total, rows[i].Rate, 1e-9)
	}
	slices.SortFunc(rows, func(a, b sourceRow) int {
		switch {
		case a.offered() != b.offered():
			if a.offered() > b.offered() {
				return -1
			}
			return 1
		case a.Envelopes > b.Envelopes:
			return -1
		case a.Envelopes < b.Envelopes:
			return 1
		}
		return 0
	})
	st := s.log.Stats()
	held := 0.0
	if total > 0 {
		held = float64(st.Head-st.Oldest) / total
	}
	answerJSON(w, map[string]any{
		"doppler": s.cfg.Doppler, "epoch": s.cfg.Epoch, "head": st.Head, "oldest": st.Oldest,
		"ring_bytes": st.Budget, "held_bytes": st.HeldBytes, "held_seconds": held, "rate": total,
		"known_sources": len(list), "sources": rows[:min(limit, len(rows))],
	})
}

func answerJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		return // the client is gone
	}
}
