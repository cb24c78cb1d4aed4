package dopplertest

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// byTime answers a read in the order of timestamps: those in [start, end), the
// first limit of them and whatever shares the timestamp of the last. No more than
// PageLimit have room; an answer that has no room for all has a gap of reason
// HISTORY_LIMIT, and is complete up to its last envelope.
func (d *Doppler) byTime(source string, q url.Values) ([]byte, error) {
	mask, err := maskOf(q)
	if err != nil {
		return nil, err
	}
	names, err := regexp.Compile(q.Get("name_filter"))
	if err != nil {
		return nil, fmt.Errorf("name_filter: %w", err)
	}
	start, end := nanoseconds(q, "start", math.MinInt64), nanoseconds(q, "end", math.MaxInt64)
	var found []Envelope
	for _, e := range d.Log[d.Oldest:] {
		named := !q.Has("name_filter") || hasName(e.Raw, names)
		if e.Source == source && mask.Has(e.Class) && start <= e.Time && e.Time < end && named {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b Envelope) int { return cmp.Or(cmp.Compare(a.Time, b.Time), cmp.Compare(a.Offset, b.Offset)) })
	if q.Get("descending") == "true" {
		slices.Reverse(found)
	}
	n := min(int(nanoseconds(q, "limit", 1000)), len(found))
	for n > 0 && n < len(found) && found[n].Time == found[n-1].Time {
		n++
	}
	fit := n
	if d.PageLimit > 0 {
		fit = min(n, d.PageLimit)
	}
	return d.answer(found[:fit], fit < n)
}

// answer answers; cut says that there was no room for more.
func (d *Doppler) answer(found []Envelope, cut bool) ([]byte, error) {
	b := &streampb.Batch{Position: &streampb.Position{
		Doppler: d.Name, Epoch: d.Epoch, First: d.Head(), Next: d.Head(), Count: uint32(len(found)),
	}}
	if cut {
		b.Gaps = []*streampb.Gap{{
			Doppler: d.Name, Epoch: d.Epoch, To: d.Head(), Count: 1, Precision: streampb.Gap_AT_LEAST, Reason: streampb.Gap_HISTORY_LIMIT,
		}}
	}
	msg, err := stream.AppendBatchMeta(nil, b)
	for _, e := range found {
		msg = envelope.AppendRecord(msg, e.Raw)
	}
	return msg, err
}

func nanoseconds(q url.Values, name string, otherwise int64) int64 {
	n, err := strconv.ParseInt(q.Get(name), 10, 64)
	if err != nil {
		return otherwise
	}
	return n
}

// hasName tells whether a metric has a name that matches. Logs and events have
// none.
func hasName(raw []byte, names *regexp.Regexp) bool {
	e := &loggregatorv2.Envelope{}
	if proto.Unmarshal(raw, e) != nil {
		return false
	}
	for name := range e.GetGauge().GetMetrics() {
		if names.MatchString(name) {
			return true
		}
	}
	return e.GetCounter() != nil && names.MatchString(e.GetCounter().GetName()) ||
		e.GetTimer() != nil && names.MatchString(e.GetTimer().GetName())
}

// Held is what the Doppler says it holds of each source.
func (d *Doppler) Held() ([]byte, error) {
	type held struct {
		Count   uint64 `json:"count"`
		Expired uint64 `json:"expired"`
		Oldest  int64  `json:"oldest"`
		Newest  int64  `json:"newest"`
	}
	sources := map[string]*held{}
	for i, e := range d.Log {
		h := sources[e.Source]
		if h == nil {
			h = &held{Oldest: math.MaxInt64, Newest: math.MinInt64}
			sources[e.Source] = h
		}
		if uint64(i) < d.Oldest {
			h.Expired++
			continue
		}
		h.Count++
		h.Oldest, h.Newest = min(h.Oldest, e.Time), max(h.Newest, e.Time)
	}
	for source, h := range sources {
		if h.Count == 0 {
			delete(sources, source)
		}
	}
	return json.Marshal(map[string]any{
		"doppler": d.Name, "epoch": d.Epoch, "limits": map[string]any{"count": 1000, "bytes": 1 << 20, "age": "0s"}, "sources": sources,
	})
}
