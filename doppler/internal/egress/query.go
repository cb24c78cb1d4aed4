package egress

import (
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
)

// Limits of what a query may ask for.
const (
	maxShardID   = 1024
	maxSelectors = 10_000 // selectors, source ids and names, of each
	maxHistory   = 100_000
)

type firehoseQuery struct {
	shardID      string
	name         string // deterministic; empty for none
	filter       reader.Filter
	cursor       *streampb.Cursor
	origin       bool
	acking       bool
	session      stream.Session
	user, remote string
}

func parseFirehose(v url.Values) (q firehoseQuery, err error) {
	q.shardID, q.user, q.remote = v.Get("shard_id"), v.Get("user"), v.Get("remote")
	if len(q.shardID) > maxShardID {
		return q, fmt.Errorf("shard_id has %d bytes, the limit is %d", len(q.shardID), maxShardID)
	}
	if q.name = v.Get("deterministic_name"); len(q.name) > maxShardID {
		return q, fmt.Errorf("deterministic_name has %d bytes, the limit is %d", len(q.name), maxShardID)
	}
	if q.filter, err = parseFilter(v); err != nil {
		return q, err
	}
	if c := v.Get("cursor"); c != "" {
		if q.cursor, err = stream.DecodeCursor(c); err != nil {
			return q, fmt.Errorf("cursor: %w", err)
		}
	}
	if q.session, err = stream.ParseSession(v.Get("session")); err != nil {
		return q, err
	}
	switch start := v.Get("start"); start {
	case "", "head":
	case "origin":
		q.origin = true
	default:
		return q, fmt.Errorf("start %q is not known; use head or origin", start)
	}
	switch ack := v.Get("ack"); ack {
	case "", "auto":
	case "client":
		q.acking = true
	default:
		return q, fmt.Errorf("ack %q is not known; use auto or client", ack)
	}
	return q, nil
}

// parseFilter reads one selector, spread over the query, or any number of
// selectors, each a query of its own.
func parseFilter(v url.Values) (reader.Filter, error) {
	for _, name := range []string{"source_id", "name", "selector"} {
		if n := len(v[name]); n > maxSelectors {
			return nil, fmt.Errorf("%d values of %s, the limit is %d", n, name, maxSelectors)
		}
	}
	if !v.Has("selector") {
		s, err := envelope.SelectorOf(v)
		return reader.Filter{s}, err
	}
	for _, name := range []string{"type", "class", "source_id", "name", "exact"} {
		if v.Has(name) {
			return nil, fmt.Errorf("%s and selector do not go together: put it into each selector", name)
		}
	}
	return parseSelectors(v["selector"])
}

func parseSelectors(list []string) (f reader.Filter, err error) {
	f = make(reader.Filter, len(list))
	values := 0
	for i, query := range list {
		if f[i], err = envelope.ParseSelector(query); err != nil {
			return nil, err
		}
		if values += len(f[i].Sources) + len(f[i].Names); values > maxSelectors {
			return nil, fmt.Errorf("more than %d source ids and names in selectors, which is the limit", maxSelectors)
		}
	}
	return f, nil
}

// parseMask reads what kinds of envelopes are asked for: by type as v2 clients
// know them, or by class, which old filters need.
func parseMask(v url.Values) (envelope.ClassMask, error) {
	classes, err := envelope.MaskOfClasses(v["class"]...)
	if err != nil {
		return 0, err
	}
	if len(v["type"]) == 0 && classes != 0 {
		return classes, nil
	}
	types, err := envelope.MaskOf(v["type"]...)
	return types | classes, err
}

type historyQuery struct {
	mask     envelope.ClassMask
	forward  bool // everything from from on, instead of the newest
	epoch    uint64
	from, to uint64
	matched  uint64
	since    int64
	limit    int
}

func parseHistory(v url.Values, head uint64) (q historyQuery, err error) {
	if q.mask, err = parseMask(v); err != nil {
		return q, err
	}
	limit := uint64(0)
	since := uint64(0)
	q.to = head
	for _, p := range []struct {
		name string
		into *uint64
	}{{"epoch", &q.epoch}, {"from", &q.from}, {"to", &q.to}, {"matched", &q.matched}, {"limit", &limit}, {"since", &since}} {
		s := v.Get(p.name)
		if s == "" {
			continue
		}
		if *p.into, err = strconv.ParseUint(s, 10, 64); err != nil {
			return q, fmt.Errorf("%s %q is not a number from 0 to 2^64-1", p.name, s)
		}
	}
	q.forward = v.Has("from")
	if limit > maxHistory {
		return q, fmt.Errorf("limit %d is over %d", limit, maxHistory)
	}
	q.since = int64(since)
	q.limit = int(limit)
	q.to = min(q.to, head)
	return q, nil
}

func rfc3339(t time.Time) string { return t.UTC().Format(time.RFC3339) }
