package logcache

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strconv"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/util/annotations"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Limits of what a query reads.
const (
	maxSamples    = 500_000
	maxLabelBytes = 64 << 20 // of all series
	selectPage    = 20_000   // envelopes of a Doppler at a time, the most it gives
)

// shelf is where one query reads: a storage.Queryable over the history of the
// Dopplers. The engine uses it from one goroutine at a time.
type shelf struct {
	cache *LogCache
	read  map[string][]string // what to read for a source of the query
	left  int                 // envelopes that may still be read
	room  int                 // bytes of labels that may still be kept
	lacks Answers             // of those with an answer, the one that lacks most
}

func newShelf(c *LogCache, read map[string][]string) *shelf {
	return &shelf{cache: c, read: read, left: maxSamples, room: maxLabelBytes}
}

var errNoDoppler = errors.New("no Doppler has answered")

// Querier returns who reads from mint to maxt.
func (s *shelf) Querier(mint, maxt int64) (storage.Querier, error) {
	return &querier{shelf: s, mint: mint, maxt: maxt}, nil
}

type querier struct {
	*shelf
	mint, maxt int64
}

// Select reads what matches.
func (q *querier) Select(ctx context.Context, _ bool, hints *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	name, _ := metricOf(matchers)
	w := walk{
		shelf: q.shelf, metric: plainName(name), start: q.mint, end: q.maxt,
		matchers: matchers,
	}
	if hints != nil {
		w.start, w.end = hints.Start, hints.End
	}
	seen := map[string]bool{}
	for _, named := range idsOf(matchers) {
		for _, id := range q.read[named] {
			if seen[id] {
				continue
			}
			seen[id] = true
			if err := w.source(ctx, id); err != nil {
				return storage.ErrSeriesSet(err)
			}
		}
	}
	return w.found.set()
}

// LabelValues is nothing the engine asks for.
func (q *querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// LabelNames is nothing the engine asks for.
func (q *querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

// Close has nothing to do.
func (q *querier) Close() error { return nil }

// walk is one selection.
type walk struct {
	*shelf
	metric     string
	matchers   []*labels.Matcher
	start, end int64 // [start, end], unix milliseconds
	found      seriesBuilder
}

// source reads a source, page by page.
func (w *walk) source(ctx context.Context, id string) error {
	from, to := nanoseconds(w.start), nanoseconds(w.end)
	if to < math.MaxInt64-1e6 {
		to += 1e6
	}
	for from < to {
		if err := ctx.Err(); err != nil {
			return err
		}
		answers := w.cache.cfg.History(ctx, id, w.page(from, to))
		if len(answers.Bodies) == 0 {
			return errNoDoppler
		}
		if answers.Late+answers.Away > w.lacks.Late+w.lacks.Away {
			w.lacks = answers
		}
		list, more := w.cache.together(answers.Bodies, w.cache.page, false)
		if w.left -= len(list); w.left < 0 {
			return fmt.Errorf("the query reads more than %d envelopes, which is the limit", maxSamples)
		}
		for _, e := range list {
			w.take(e)
		}
		if w.room < 0 {
			return fmt.Errorf("the labels of the query's metrics have more than %d bytes, which is the limit", maxLabelBytes)
		}
		if !more {
			return nil
		}
		from = list[len(list)-1].time + 1
	}
	return nil
}

// page is how a Doppler is asked.
func (w *walk) page(from, to int64) url.Values {
	v := url.Values{
		"order": {"time"}, "start": {strconv.FormatInt(from, 10)}, "end": {strconv.FormatInt(to, 10)},
		"limit": {strconv.Itoa(w.cache.page)}, "type": {"counter", "gauge", "timer"},
	}
	if names := namesLike(w.metric); names != "" {
		v.Set("name_filter", names)
	}
	return v
}

// take keeps the sample of an envelope, if it has one.
func (w *walk) take(at entry) {
	e := &loggregatorv2.Envelope{}
	if err := proto.Unmarshal(at.raw, e); err != nil {
		return // a Doppler has checked it
	}
	value, ok := valueOf(e, w.metric)
	if !ok {
		return
	}
	l := labelsOf(e)
	for _, m := range w.matchers {
		// Of these two the choice has been made; an app may be named by its name.
		if m.Name != model.MetricNameLabel && m.Name != sourceLabel && !m.Matches(l.Get(m.Name)) {
			return
		}
	}
	w.room -= w.found.add(l, milliseconds(at.time), value)
}
