package trafficcontroller

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/slow"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
)

// class is a kind of reader with a policy of its own.
type class int

// The classes.
const (
	classFirehose    class = iota
	classFirehoseOld       // one envelope per message
	classTail
	classTailOld
	classRead // /v2/read
	numClasses
)

// String is the name that views and metrics have for it.
func (c class) String() string {
	return [...]string{"firehose", "firehose_old", "tail", "tail_old", "read"}[c]
}

// slowPolicies say when readers are slow, by class.
type slowPolicies [numClasses]slow.Policy

// defaultSlow leaves those who are told what they miss their connection. Old
// clients expect to be cut.
func defaultSlow() (p slowPolicies) {
	for c := range p {
		p[c] = slow.Policy{Age: 30 * time.Second, Bytes: 64 << 20}
	}
	p[classFirehoseOld].Cut = true
	p[classTailOld] = slow.Policy{Cut: true, Age: 30 * time.Second, Bytes: 4 << 20}
	p[classTail].Bytes = 4 << 20 // of --tail-queue-bytes
	return p
}

// flag is the name of the class's setting.
func (c class) flag() string { return "slow-" + strings.ReplaceAll(c.String(), "_", "-") }

func (p *slowPolicies) flags(f *daemon.Flags) {
	for c, what := range []string{
		classFirehose:    "nozzles of the batch framing",
		classFirehoseOld: "nozzles of the old framing, one envelope per message,",
		classTail:        "tails of the batch framing",
		classTailOld:     "tails of the old framing",
		classRead:        "clients of /v2/read",
	} {
		f.Var(slow.NewFlag(&p[c]), class(c).flag(), "`policy` for "+what+" that stay further behind than age or bytes: drop or cut")
	}
}

func (p *slowPolicies) validate(f *daemon.Faults) {
	for c := range p {
		p[c].Validate(f, class(c).flag())
	}
}

// readers is what is counted and remembered of the streams that are over.
type readers struct {
	cuts   [numClasses][slow.NumCuts]atomic.Uint64
	closed slow.Closed[subscription]
}

// cut is how many readers were cut.
func (r *readers) cut() (n uint64) {
	for c := range r.cuts {
		for why := range r.cuts[c] {
			n += r.cuts[c][why].Load()
		}
	}
	return n
}

// whoIs describes a client to views.
func whoIs(c class, client api.Client) slow.Who {
	return slow.Who{Class: c.String(), Remote: client.Remote, Forwarded: client.Forwarded, UserAgent: client.UserAgent, User: client.User}
}

// over is a stream that is over.
type over struct {
	kind   string // in the log
	class  class
	status int // of the answer that it was
	client api.Client
	opened time.Time
	cut    slow.Cut
	row    subscription
	what   slog.Attr // that was read
}

// streamClosed counts and remembers a stream that is over, and writes the one
// line about it.
func (t *TrafficController) streamClosed(o over, why stream.CloseError) {
	now := time.Now()
	row := o.row
	row.State, row.ClosedAt, row.CloseCode, row.CloseReason = "closed", rfc3339(now), int(why.Code), why.Reason
	t.readers.closed.Add(now, row)
	t.log.LogAttrs(context.Background(), slog.LevelInfo, "stream closed",
		slog.String("kind", o.kind), slog.String("user", o.client.User), slog.String("path", o.client.Path), slog.String("remote", o.client.Remote),
		slog.String("forwarded", o.client.Forwarded), slog.String("user_agent", o.client.UserAgent), slog.Int("status", o.status),
		slog.Float64("duration_seconds", now.Sub(o.opened).Seconds()), slog.Int("code", int(why.Code)), slog.String("reason", why.Reason),
		o.what, slog.Uint64("bytes", row.Bytes), slog.Uint64("envelopes", row.Sent), slog.Uint64("gaps", row.Gaps),
		slog.Uint64("dropped", row.Dropped))
	if o.cut != slow.NotCut {
		t.readers.cuts[o.class][o.cut].Add(1)
		t.tellSlow(o.client, why.Reason)
	}
}
