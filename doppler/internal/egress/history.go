package egress

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

const (
	maxHistoryReads     = 16      // at a time
	historyPage         = 4 << 20 // bytes of an answer, about
	defaultHistoryLimit = 1000
	historyTries        = 4
)

// historyEntry is one envelope of an answer: a field-1 record.
type historyEntry struct {
	offset uint64
	record []byte
}

// historyAnswer is what a bounded read found, oldest first.
type historyAnswer struct {
	entries []historyEntry
	matched uint64 // matching envelopes before the first entry
	next    uint64
	gap     *streampb.Gap
	// unordered: the entries are in the order of time, and have no place.
	unordered bool
}

// serveHistory answers a bounded read of one source from ring and recent
// store.
func (s *Server) serveHistory(w http.ResponseWriter, r *http.Request) {
	v := r.URL.Query()
	if v.Has("from") {
		defer s.resumes.read()()
	}
	read, err := s.historyRead(r.Context(), v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-r.Context().Done():
		return
	}
	src := s.log.Ref(r.PathValue("source_id"))
	defer s.log.Unref(src)
	s.answerHistory(w, read(src))
}

// historyRead is what a query asks for.
func (s *Server) historyRead(ctx context.Context, v url.Values) (func(*ring.Source) historyAnswer, error) {
	switch order := v.Get("order"); order {
	case "", "offset":
	case "time":
		q, err := parseTimes(v)
		return func(src *ring.Source) historyAnswer { return s.readTimes(ctx, src, q) }, err
	default:
		return nil, fmt.Errorf("order %.40q is not known; use offset or time", order)
	}
	q, err := parseHistory(v, s.log.Head())
	if err != nil {
		return nil, err
	}
	if !q.forward {
		q.since = max(q.since, s.oldestServed(time.Now()))
		return func(src *ring.Source) historyAnswer { return s.readNewest(src, q) }, nil
	}
	if q.epoch != 0 && q.epoch != s.cfg.Epoch {
		q.from, q.matched = 0, 0
	}
	return func(src *ring.Source) historyAnswer { return s.readForward(src, q) }, nil
}

func (s *Server) answerHistory(w http.ResponseWriter, a historyAnswer) {
	p := &streampb.Position{
		Doppler: s.cfg.Doppler, Epoch: s.cfg.Epoch, First: a.next, Next: a.next,
		Count: uint32(len(a.entries)), Matched: a.matched,
	}
	if len(a.entries) > 0 && !a.unordered {
		p.First = a.entries[0].offset
		for i, e := range a.entries[1:] {
			p.Deltas = append(p.Deltas, uint32(e.offset-a.entries[i].offset))
		}
	}
	b := &streampb.Batch{Position: p}
	if a.gap != nil {
		b.Gaps = []*streampb.Gap{a.gap}
	}
	body, err := stream.AppendBatchMeta(nil, b)
	if err != nil {
		http.Error(w, "encode answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	size := len(body)
	for _, e := range a.entries {
		size += len(e.record)
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Content-Length", strconv.Itoa(size))
	if _, err := w.Write(body); err != nil {
		return
	}
	for _, e := range a.entries {
		if _, err := w.Write(e.record); err != nil {
			return
		}
	}
}

// readNewest finds the newest matching envelopes below q.to.
func (s *Server) readNewest(src *ring.Source, q historyQuery) historyAnswer {
	limit := q.limit
	if limit == 0 {
		limit = defaultHistoryLimit
	}
	var entries []historyEntry
	lowest, size := q.to, 0
	s.log.Newest(src, q.mask, q.to, func(off uint64, _ envelope.Class, env []byte) bool {
		lowest = off
		if q.since != 0 && envelope.Timestamp(env) < q.since {
			return true
		}
		size += len(env)
		if len(entries) == limit || size > historyPage {
			return false
		}
		entries = append(entries, historyEntry{off, envelope.AppendRecord(nil, env)})
		return true
	})
	slices.Reverse(entries)
	if len(entries) < limit && size <= historyPage {
		older := s.readRecent(src, q.mask, 0, lowest, limit-len(entries), q.since)
		entries = append(older, entries...)
	}
	at, counts := s.log.CountsAt(src, q.to)
	a := historyAnswer{entries: entries, next: max(q.to, at)}
	a.matched = counts.Sum(q.mask) - min(counts.Sum(q.mask), uint64(len(entries)))
	return a
}

// readRecent takes the newest limit envelopes in [from, to) of what the ring
// has evicted, at most half a page of them.
func (s *Server) readRecent(src *ring.Source, mask envelope.ClassMask, from, to uint64, limit int, since int64) []historyEntry {
	var entries []historyEntry
	size := 0
	s.recent.Read(src.ID(), mask, from, to, limit, s.log.Totals(src), func(off uint64, _ envelope.Class, env []byte) {
		if since != 0 && envelope.Timestamp(env) < since {
			return
		}
		size += len(env)
		entries = append(entries, historyEntry{off, envelope.AppendRecord(nil, env)})
	})
	drop := 0
	for size > historyPage && drop < len(entries) {
		size -= len(entries[drop].record)
		drop++
	}
	return entries[drop:]
}

// readForward finds what is held from q.from on, up to a page, and says what
// is not held any more. The count is exact: it is the difference between what
// was appended up to the end of the page, what the reader had, and what it
// gets.
func (s *Server) readForward(src *ring.Source, q historyQuery) historyAnswer {
	for range historyTries {
		a, ok := s.tryForward(src, q)
		if ok {
			return a
		}
	}
	// The ring moves faster than it can be read: say so, go on behind it.
	next := max(s.log.Oldest(), min(q.from, q.to))
	return historyAnswer{next: max(next, q.to), gap: s.historyGap(q.from, q.to, 0, streampb.Gap_UNKNOWN)}
}

func (s *Server) historyGap(from, to, count uint64, p streampb.Gap_Precision) *streampb.Gap {
	return &streampb.Gap{
		From: from, To: to, Count: count, Precision: p, Reason: streampb.Gap_EVICTED,
		Doppler: s.cfg.Doppler, Epoch: s.cfg.Epoch,
	}
}

// tryForward is one attempt; it fails when the ring evicts what it reads.
func (s *Server) tryForward(src *ring.Source, q historyQuery) (a historyAnswer, ok bool) {
	oldest := s.log.Oldest()
	if q.from < q.to && q.to < oldest {
		return s.keptForward(src, q), true
	}
	if q.from < oldest {
		a.entries = s.readRecent(src, q.mask, q.from, min(oldest, q.to), q.maxEntries(), 0)
	}
	next, ok := s.scanForward(src, q, max(q.from, oldest), &a)
	if !ok {
		return a, false
	}
	at, counts := s.log.CountsAt(src, next)
	if at != next {
		return a, false
	}
	a.next = max(next, q.from)
	upTo := counts.Sum(q.mask)
	got := uint64(len(a.entries))
	first := next
	if got > 0 {
		first = a.entries[0].offset
	}
	switch {
	case upTo >= q.matched+got:
		a.matched = upTo - got
		if n := upTo - got - q.matched; n > 0 {
			a.gap = s.historyGap(q.from, first, n, streampb.Gap_EXACT)
		}
	default:
		// The reader's count cannot be right, or the counters were lost.
		a.matched = upTo - min(upTo, got)
		if q.from < oldest {
			a.gap = s.historyGap(q.from, first, 0, streampb.Gap_UNKNOWN)
		}
	}
	return a, true
}

// keptForward answers a read that ends before what the ring holds, out of the
// recent store. The ring's counts end where it begins, so nobody here can tell
// how many there were; the reader may, by what it was told at q.to.
func (s *Server) keptForward(src *ring.Source, q historyQuery) historyAnswer {
	a := historyAnswer{next: q.to, matched: q.matched}
	a.entries = s.readRecent(src, q.mask, q.from, q.to, q.maxEntries(), 0)
	first := q.to
	if len(a.entries) > 0 {
		first = a.entries[0].offset
	}
	a.gap = s.historyGap(q.from, first, 0, streampb.Gap_UNKNOWN)
	return a
}

func (q *historyQuery) maxEntries() int {
	if q.limit > 0 {
		return q.limit
	}
	return maxHistory
}

// scanForward walks the index from off to q.to and collects the source's
// envelopes until the page is full. It returns where it stopped.
func (s *Server) scanForward(src *ring.Source, q historyQuery, off uint64, a *historyAnswer) (next uint64, ok bool) {
	size := 0
	for off < q.to {
		c, err := s.log.Acquire(off)
		if errors.Is(err, ring.ErrHead) {
			return off, true
		}
		if err != nil {
			return off, false
		}
		n := min(uint64(c.Len()), q.to-off)
		for i := range int(n) {
			if c.Source(i) != src.Number() || !q.mask.Has(c.Class(i)) {
				continue
			}
			if size > historyPage || len(a.entries) >= q.maxEntries() {
				c.Release()
				return off + uint64(i), true
			}
			record := slices.Clone(c.Bytes(i, i+1))
			size += len(record)
			a.entries = append(a.entries, historyEntry{off + uint64(i), record})
		}
		c.Release()
		off += n
	}
	return off, true
}
