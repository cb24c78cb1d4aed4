// Package top shows what flows through a pipeline and who reads it: rates per
// source, and every subscription with its lag and its drops.
package top

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Source is what a server says about one source.
type Source struct {
	ID        string  `json:"source_id"`
	Envelopes uint64  `json:"envelopes"`
	Bytes     uint64  `json:"bytes"`
	Rate      float64 `json:"rate"` // per second
	Held      uint64  `json:"held"`
	Limited   uint64  `json:"limited"` // left out over the Dopplers' limit
	// LimitedRate is how many of those there are per second.
	LimitedRate float64 `json:"limited_rate"`
}

// Subscription is what a server says about one reader. Counts are envelopes.
type Subscription struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	ShardID  string `json:"shard_id"`
	SourceID string `json:"source_id"`
	Filter   string `json:"filter"`
	Member   string `json:"member"`
	// Who reads, as far as the server knows.
	User      string `json:"user"`
	UserAgent string `json:"user_agent"`
	Remote    string `json:"remote"`
	Forwarded string `json:"forwarded"` // X-Forwarded-For
	Lag       uint64 `json:"lag"`
	LagBytes  uint64 `json:"lag_bytes"`
	// LagAge is for how long the oldest of what it lags has been there, in
	// seconds.
	LagAge   float64 `json:"lag_age_seconds"`
	Sent     uint64  `json:"sent"`
	Dropped  uint64  `json:"dropped"`
	InFlight uint64  `json:"in_flight"`
	State    string  `json:"state"`
	// Of one that is closed.
	ClosedAt    time.Time `json:"closed_at"`
	CloseCode   int       `json:"close_code"`
	CloseReason string    `json:"close_reason"`

	// server tells equal ids of several servers apart.
	server string
}

// Ring is what one Doppler holds.
type Ring struct {
	Addr        string  `json:"addr"`
	Doppler     string  `json:"doppler"`
	Error       string  `json:"error"` // why it says nothing else
	Head        uint64  `json:"head"`
	Oldest      uint64  `json:"oldest"`
	RingBytes   uint64  `json:"ring_bytes"`
	HeldBytes   uint64  `json:"held_bytes"`
	HeldSeconds float64 `json:"held_seconds"`
	Rate        float64 `json:"rate"` // envelopes per second
	Known       int     `json:"known_sources"`
}

// Reading is what all servers said at one moment.
type Reading struct {
	At            time.Time
	Rings         []Ring
	Sources       []Source
	Subscriptions []Subscription
	// Faults say in plain words which servers did not answer.
	Faults []string
}

// sort puts the busiest source and the reader in most trouble first; those that
// are gone come last, as they went.
func (r *Reading) sort() {
	slices.SortFunc(r.Rings, func(a, b Ring) int { return cmp.Compare(a.Doppler, b.Doppler) })
	slices.SortFunc(r.Sources, func(a, b Source) int {
		return cmp.Or(cmp.Compare(b.rank(), a.rank()), cmp.Compare(a.ID, b.ID))
	})
	slices.SortFunc(r.Subscriptions, func(a, b Subscription) int {
		return cmp.Or(cmp.Compare(a.rank(), b.rank()), b.ClosedAt.Compare(a.ClosedAt),
			cmp.Compare(b.LagAge, a.LagAge), cmp.Compare(b.Lag, a.Lag), cmp.Compare(b.Dropped, a.Dropped), cmp.Compare(a.key(), b.key()))
	})
}

// rate is how many envelopes all Dopplers take per second.
func (r *Reading) rate() (perSecond float64) {
	for _, ring := range r.Rings {
		perSecond += ring.Rate
	}
	return perSecond
}

// rank is about the same for rates that are about the same, with what is left
// out: sources of equal rate are not to change places with every reading.
func (s Source) rank() float64 {
	const perE = 6
	return math.Round(perE * math.Log(s.Rate+s.LimitedRate+0.1))
}

func (s Subscription) key() string { return s.server + "\x00" + s.ID + "\x00" + s.Member }

func (s Subscription) closed() bool { return s.State == "closed" }

// rank has slow ones first and closed ones last.
func (s Subscription) rank() int {
	switch s.State {
	case "slow":
		return 0
	case "closed":
		return 2
	}
	return 1
}

// who is the reader as a person knows it, from is where it is.
func (s Subscription) who() string { return cmp.Or(s.User, s.UserAgent, "-") }

func (s Subscription) from() string {
	if first, _, _ := strings.Cut(s.Forwarded, ","); strings.TrimSpace(first) != "" {
		return strings.TrimSpace(first) + " via " + s.Remote
	}
	return cmp.Or(strings.TrimSpace(s.Remote), "-")
}

// state says of a closed one why it was closed.
func (s Subscription) state(now time.Time) string {
	if !s.closed() {
		return s.State
	}
	ago := now.Sub(s.ClosedAt).Truncate(time.Second)
	return strings.TrimSpace(fmt.Sprintf("closed %s ago: %d %s", max(ago, 0), s.CloseCode, s.CloseReason))
}

// name is how a person knows the subscription.
func (s Subscription) name() string {
	name := cmp.Or(s.SourceID, s.ShardID)
	switch {
	case name == "":
		return cmp.Or(s.Filter, s.ID)
	case s.Filter != "":
		return name + " (" + s.Filter + ")"
	}
	return name
}

// perSecond is how fast a count grew since before; false if that is unknown.
func (s Subscription) perSecond(now, before *Reading, count func(Subscription) uint64) (float64, bool) {
	if before == nil {
		return 0, false
	}
	passed := now.At.Sub(before.At).Seconds()
	i := slices.IndexFunc(before.Subscriptions, func(old Subscription) bool { return old.key() == s.key() })
	if i < 0 || passed <= 0 || count(before.Subscriptions[i]) > count(s) {
		return 0, false
	}
	return float64(count(s)-count(before.Subscriptions[i])) / passed, true
}
