package egress

import (
	"cmp"
	"container/heap"
	"context"
	"fmt"
	"math"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Limits of a read by time.
const (
	defaultTimeLimit = 100
	maxTimeLimit     = 20_000 // Log Cache has 1000; PromQL reads larger pages
	maxNameFilter    = 1 << 10
	maxTies          = 20_000  // of one timestamp, beyond the limit
	maxTimeAnswer    = 8 << 20 // bytes of an answer whose end is all of one timestamp
	seenPerCheck     = 256     // envelopes looked at between looks at the context
)

// timeQuery is a read of a source by timestamp, as Log Cache has it
// (protocol/04, section 7).
type timeQuery struct {
	mask       envelope.ClassMask
	start, end int64 // [start, end), unix nanoseconds; no end if the greatest
	limit      int
	descending bool
	names      *regexp.Regexp // of metrics; nil for any envelope
}

func parseTimes(v url.Values) (q timeQuery, err error) {
	if q.mask, err = parseMask(v); err != nil {
		return q, err
	}
	q.start, q.end, q.limit = math.MinInt64, math.MaxInt64, defaultTimeLimit
	for name, into := range map[string]*int64{"start": &q.start, "end": &q.end} {
		if s := v.Get(name); s != "" {
			if *into, err = strconv.ParseInt(s, 10, 64); err != nil {
				return q, fmt.Errorf("%s %.40q is not a number from -2^63 to 2^63-1", name, s)
			}
		}
	}
	if q.start > q.end {
		return q, fmt.Errorf("start %d is after end %d", q.start, q.end)
	}
	if s := v.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n > maxTimeLimit {
			return q, fmt.Errorf("limit %.40q is not a number from 0 to %d", s, maxTimeLimit)
		}
		q.limit = cmp.Or(n, defaultTimeLimit)
	}
	q.descending = v.Get("descending") == "true"
	return q, q.filter(v)
}

// metrics are the classes whose envelopes have names.
var metrics = envelope.Mask(envelope.Counter, envelope.Gauge, envelope.ContainerGauge, envelope.Timer, envelope.HTTPTimer)

// filter reads name_filter. It matches in time linear in the text, whatever it
// is.
func (q *timeQuery) filter(v url.Values) (err error) {
	s := v.Get("name_filter")
	if len(s) > maxNameFilter {
		return fmt.Errorf("name_filter has %d bytes, the limit is %d", len(s), maxNameFilter)
	}
	if s == "" {
		return nil
	}
	if q.names, err = regexp.Compile(s); err != nil {
		return fmt.Errorf("name_filter: %w", err)
	}
	q.mask &= metrics
	return nil
}

// named tells whether an envelope, which is a metric, has a name that is asked
// for.
func (q *timeQuery) named(env []byte) bool {
	return q.names == nil || envelope.MatchNameFunc(env, q.names.Match)
}

// in tells whether a timestamp is asked for. The greatest there is has nothing
// after it to be an end.
func (q *timeQuery) in(t int64) bool {
	return q.start <= t && (t < q.end || q.end == math.MaxInt64)
}

// place is one envelope that is asked for. What the ring holds is copied when
// it is known to be in the answer, what it has let go of at once.
type place struct {
	time   int64
	offset uint64
	record []byte // nil: in the ring
}

// first keeps the first limit places that it is offered, by time, and all that
// share the time of the last one.
type first struct {
	limit      int
	descending bool
	best       []place // a heap, the last one on top
	ties       []place // at the time of the top
	over       bool    // there were more ties than are kept
}

func (f *first) Len() int           { return len(f.best) }
func (f *first) Less(i, j int) bool { return f.before(f.best[j].time, f.best[i].time) }
func (f *first) Swap(i, j int)      { f.best[i], f.best[j] = f.best[j], f.best[i] }
func (f *first) Push(x any)         { f.best = append(f.best, x.(place)) }

// Pop takes the last of the slice.
func (f *first) Pop() any {
	p := f.best[len(f.best)-1]
	f.best = f.best[:len(f.best)-1]
	return p
}

func (f *first) before(a, b int64) bool {
	if f.descending {
		a, b = b, a
	}
	return a < b
}

// wants tells whether a place of this time would be kept.
func (f *first) wants(time int64) bool {
	return len(f.best) < f.limit || !f.before(f.best[0].time, time)
}

func (f *first) offer(p place) {
	switch {
	case len(f.best) < f.limit:
		heap.Push(f, p)
	case f.before(f.best[0].time, p.time):
	case f.before(p.time, f.best[0].time):
		last := f.best[0]
		f.best[0] = p
		heap.Fix(f, 0)
		if f.best[0].time != last.time {
			f.ties, f.over = f.ties[:0], false
			return
		}
		f.tie(last)
	default:
		f.tie(p)
	}
}

func (f *first) tie(p place) {
	if len(f.ties) == maxTies {
		f.over = true
		return
	}
	f.ties = append(f.ties, p)
}

// all is what was kept, in order.
func (f *first) all() []place {
	list := append(f.best, f.ties...)
	slices.SortFunc(list, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.offset, b.offset))
	})
	if f.descending {
		slices.Reverse(list)
	}
	return list
}

// readTimes answers a read by time from ring and recent store. When ctx ends, it
// answers with what it has looked at, to nobody.
func (s *Server) readTimes(ctx context.Context, src *ring.Source, q timeQuery) historyAnswer {
	q.start = max(q.start, s.oldestServed(time.Now()))
	for range historyTries {
		if a, ok := s.fetch(s.find(ctx, src, q), false); ok {
			return a
		}
	}
	// The ring moves faster than it can be read: what it has just let go of is
	// not there any more.
	a, _ := s.fetch(s.find(ctx, src, q), true)
	return a
}

// oldestServed is the least timestamp of what is served of the past.
func (s *Server) oldestServed(now time.Time) int64 {
	if s.cfg.RecentAge == 0 {
		return math.MinInt64
	}
	return now.Add(-s.cfg.RecentAge).UnixNano()
}

// find looks for what is asked for, and copies none of the ring's. Of the newest
// none is older than all of as many that came last, so most segments of a busy
// source need not be looked at.
func (s *Server) find(ctx context.Context, src *ring.Source, q timeQuery) *first {
	if q.descending {
		near := q
		near.start = s.cameLast(src, q)
		if near.start > q.start {
			if f := s.look(ctx, src, near); len(f.best) == q.limit { // else the ring has let go of some
				return f
			}
		}
	}
	return s.look(ctx, src, q)
}

// cameLast returns the oldest timestamp of the limit that came last of what is
// asked for, or the start if it does not find so many soon.
func (s *Server) cameLast(src *ring.Source, q timeQuery) int64 {
	found, seen, oldest := 0, 0, int64(math.MaxInt64)
	s.log.Newest(src, q.mask, s.log.Head(), func(_ uint64, _ envelope.Class, env []byte) bool {
		if t := envelope.Timestamp(env); q.in(t) && q.named(env) {
			found++
			oldest = min(oldest, t)
		}
		seen++
		return found < q.limit && seen < 4*q.limit+1000
	})
	if found < q.limit {
		return q.start
	}
	return oldest
}

// look looks at every envelope that may match.
func (s *Server) look(ctx context.Context, src *ring.Source, q timeQuery) *first {
	f := &first{limit: q.limit, descending: q.descending}
	lowest := s.log.Head()
	seen := 0
	s.log.NewestSince(src, q.mask, lowest, q.start, func(off uint64, _ envelope.Class, t int64, env []byte) bool {
		lowest = off
		if seen++; seen%seenPerCheck == 0 && ctx.Err() != nil {
			return false
		}
		if q.in(t) && f.wants(t) && q.named(env) {
			f.offer(place{time: t, offset: off})
		}
		return true
	})
	s.recent.Read(src.ID(), q.mask, 0, lowest, math.MaxInt, s.log.Totals(src), func(off uint64, _ envelope.Class, env []byte) {
		if t := envelope.Timestamp(env); ctx.Err() == nil && q.in(t) && f.wants(t) && q.named(env) {
			f.offer(place{t, off, envelope.AppendRecord(nil, env)})
		}
	})
	return f
}

// fetch copies what was found. It fails when the ring has let go of some of it,
// unless that is left out. Others may have been passed over for what is left
// out, so the answer then says that it is not whole.
func (s *Server) fetch(f *first, leaveOut bool) (a historyAnswer, ok bool) {
	list := f.all()
	size := 0
	for i, p := range list {
		if i > 0 && size > historyPage && (list[i-1].time != p.time || size > maxTimeAnswer) {
			f.over = true
			break
		}
		record, held := s.record(p)
		if !held {
			if !leaveOut {
				return a, false
			}
			f.over = f.over || len(list) >= f.limit
			continue
		}
		size += len(record)
		a.entries = append(a.entries, historyEntry{p.offset, record})
	}
	a.unordered, a.next = true, s.log.Head()
	if f.over {
		a.gap = s.historyGap(0, 0, 0, streampb.Gap_UNKNOWN)
		a.gap.Reason = streampb.Gap_HISTORY_LIMIT
	}
	return a, true
}

func (s *Server) record(p place) (record []byte, held bool) {
	if p.record != nil {
		return p.record, true
	}
	c, err := s.log.Acquire(p.offset)
	if err != nil {
		return nil, false
	}
	defer c.Release()
	return slices.Clone(c.Bytes(0, 1)), true
}
