package auth

import (
	"log/slog"
	"sync/atomic"
	"time"
)

// Call is a kind of question to UAA or Cloud Controller.
type Call uint8

// Calls, in the order of Stats.
const (
	CallCheckToken Call = iota
	CallLogAccess
	CallApp
	CallServiceInstance
	CallApps
	CallServiceInstances
	CallTokenKeys
	CallIssuer
	CallOIDCKeys
	CallOIDCDiscovery
	calls
)

func (c Call) String() string {
	return [...]string{
		"uaa_check_token", "cc_log_access", "cc_app", "cc_service_instance", "cc_apps", "cc_service_instances",
		"uaa_token_keys", "uaa_issuer", "oidc_keys", "oidc_discovery",
	}[c]
}

// Stats is what has been decided and asked since New.
type Stats struct {
	// Decisions counts by surface and reason; every pair is there.
	Decisions []DecisionCount
	// Calls holds every kind of question.
	Calls []CallStats
	// CacheHits counts answers that were recalled; CacheEntries are held now.
	CacheHits    uint64
	CacheEntries int
	// Local counts verifications of tokens here by result; every result is there.
	Local []LocalCount
}

// LocalCount counts the verifications that ended in one way.
type LocalCount struct {
	Result string
	Count  uint64
}

// DecisionCount counts the decisions of one surface for one reason.
type DecisionCount struct {
	Surface Surface
	Reason  Reason
	Count   uint64
}

// CallStats is about one kind of question: how often it was asked, how often
// there was no clear answer, and how long the last one took.
type CallStats struct {
	Call          Call
	Count, Failed uint64
	Last          time.Duration
}

// counters is what Stats is made from.
type counters struct {
	decisions [surfaces][reasons]atomic.Uint64
	results   [localResults]atomic.Uint64
	calls     [calls]struct {
		count, failed atomic.Uint64
		last          atomic.Int64
		gate          gate
	}
}

// decided counts a decision and returns it.
func (c *counters) decided(s Surface, d Decision) Decision {
	c.decisions[s][d.Reason].Add(1)
	return d
}

// local counts a token that was looked at here.
func (c *counters) local(r localResult) { c.results[r].Add(1) }

func (c *counters) called(which Call, took time.Duration, failed bool) {
	call := &c.calls[which]
	call.count.Add(1)
	call.last.Store(int64(took))
	if failed {
		call.failed.Add(1)
	}
}

// Stats returns the counts so far.
func (a *Auth) Stats() Stats {
	var s Stats
	for surface := range surfaces {
		for reason := Allowed; reason < reasons; reason++ {
			s.Decisions = append(s.Decisions, DecisionCount{surface, reason, a.stats.decisions[surface][reason].Load()})
		}
	}
	for which := range calls {
		c := &a.stats.calls[which]
		s.Calls = append(s.Calls, CallStats{which, c.count.Load(), c.failed.Load(), time.Duration(c.last.Load())})
	}
	for r := range localResults {
		s.Local = append(s.Local, LocalCount{r.String(), a.stats.results[r].Load()})
	}
	s.CacheEntries, s.CacheHits = a.cache.size()
	return s
}

// gate lets one warning through in quietFor.
type gate struct {
	next   atomic.Int64 // Unix nanoseconds
	unsaid atomic.Uint64
}

const quietFor = 10 * time.Second

func (g *gate) warn(log *slog.Logger, err error) {
	now, next := time.Now().UnixNano(), g.next.Load()
	if now < next || !g.next.CompareAndSwap(next, now+int64(quietFor)) {
		g.unsaid.Add(1)
		return
	}
	log.Warn("no clear answer about who may read what", "error", err, "times_unsaid", g.unsaid.Swap(0))
}
