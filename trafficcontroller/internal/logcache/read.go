package logcache

import (
	"cmp"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// read serves the envelopes of a source by time.
func (c *LogCache) read(w http.ResponseWriter, r *http.Request) {
	source := r.PathValue("source")
	if !c.cfg.Access.Source(w, r, source) {
		return
	}
	q, bad := parseQuery(r)
	if bad != nil {
		bad.answer(w)
		return
	}
	body, bad := c.readBody(w.Header(), r, source, &q)
	if bad != nil {
		bad.answer(w)
		return
	}
	grpcHeader(w.Header())
	if !c.send(w, "application/json", body) {
		tooMany(maxUnsent, "bytes of answers wait for their clients").answer(w)
	}
}

// readBody asks and makes the body of an answer.
func (c *LogCache) readBody(h http.Header, r *http.Request, source string, q *query) ([]byte, *failure) {
	if !c.reads.enter(r.Context()) {
		return nil, tooMany(c.reads.size(), "reads are under way")
	}
	defer c.reads.leave()
	q.window(time.Now(), c.cfg.Settle)
	var list []entry
	if q.start < q.end && source != "" {
		answers := c.cfg.History(r.Context(), source, q.history())
		if bad := q.lacks(answers); bad != nil {
			return nil, bad
		}
		answers.say(h)
		list = c.merge(answers.Bodies, q)
	}
	body, err := c.encode(list, q.names)
	if err != nil {
		return nil, badRequest("%v", err)
	}
	return body, nil
}

// lacks tells whether too few Dopplers have answered. A reader that goes
// forward would pass over what a late one holds; it is to ask again. One that is
// not connected nobody can wait for.
func (q *query) lacks(a Answers) *failure {
	switch {
	case len(a.Bodies) == 0:
		return &failure{http.StatusServiceUnavailable, unavailable, fmt.Sprintf("none of %d Dopplers has answered", a.dopplers())}
	case !q.descending && a.Late > 0:
		return &failure{http.StatusServiceUnavailable, unavailable, fmt.Sprintf("%d of %d Dopplers have not answered in time", a.Late, a.dopplers())}
	}
	return nil
}

// entry is an encoded envelope.
type entry struct {
	time int64
	raw  []byte
}

// merge puts answers together and leaves what the read may have.
func (c *LogCache) merge(bodies [][]byte, q *query) []entry {
	list, _ := c.together(bodies, q.limit, q.descending)
	return cut(list, q.limit, maxAnswerBytes)
}

// together puts the envelopes of answers in the order of their times, those of
// the same time in the order of the Dopplers. An answer may have left some out.
// The list ends where the first of these does, and more is true then.
func (c *LogCache) together(bodies [][]byte, limit int, descending bool) (list []entry, more bool) {
	if descending {
		bodies = slices.Clone(bodies)
		slices.Reverse(bodies)
	}
	before := func(a, b entry) int {
		if descending {
			a, b = b, a
		}
		return cmp.Compare(a.time, b.time)
	}
	var end entry // the first of the last ones
	for _, body := range bodies {
		part, whole := c.entries(body, limit)
		if n := len(part); !whole && n > 0 && (!more || before(part[n-1], end) < 0) {
			end, more = part[n-1], true
		}
		list = append(list, part...)
	}
	if more {
		list = slices.DeleteFunc(list, func(e entry) bool { return before(e, end) > 0 })
	}
	slices.SortStableFunc(list, before)
	return list, more
}

// entries are the envelopes of an answer, up to where it is complete, and
// whether these are all there are. One of limit envelopes has all of the same
// time as its last one. One that had no room for more may lack some of these: it
// is taken without them, unless there are no others.
func (c *LogCache) entries(body []byte, limit int) (list []entry, whole bool) {
	meta, records, err := stream.SplitBatch(body)
	var batch streampb.Batch
	if err == nil {
		err = stream.UnmarshalMeta(meta, &batch)
	}
	if err != nil {
		c.log.Error("history makes no sense", "error", err)
		return nil, true
	}
	for raw := range envelope.Walk(records) {
		list = append(list, entry{envelope.Timestamp(raw), raw})
	}
	if !slices.ContainsFunc(batch.GetGaps(), func(g *streampb.Gap) bool { return g.GetReason() == streampb.Gap_HISTORY_LIMIT }) {
		return list, len(list) < limit
	}
	n := len(list)
	for n > 0 && list[n-1].time == list[len(list)-1].time {
		n--
	}
	if n > 0 {
		list = list[:n]
	}
	return list, false
}

// maxAnswerBytes bounds the envelopes of an answer, encoded. As JSON they take
// about half as much again.
const maxAnswerBytes = 16 << 20

// cut leaves the first limit entries, or as many as have limitBytes. Entries of
// the same time stay together: a reader asks for what is after the last one.
func cut(list []entry, limit, limitBytes int) []entry {
	size := 0
	for i, e := range list {
		if i > 0 && (i >= limit || size+len(e.raw) > limitBytes) && list[i-1].time != e.time {
			return list[:i]
		}
		size += len(e.raw)
	}
	return list
}

// encode makes the body of an answer. names may be nil.
func (c *LogCache) encode(list []entry, names *regexp.Regexp) (body []byte, err error) {
	body = append(body, `{"envelopes":{"batch":[`...)
	none := len(body)
	for _, at := range list {
		e := &loggregatorv2.Envelope{}
		if err := proto.Unmarshal(at.raw, e); err != nil {
			continue // a Doppler has checked it
		}
		if names != nil && !reduce(e, names) {
			continue
		}
		if len(body) > none {
			body = append(body, ',')
		}
		if body, err = c.cfg.Encode(body, e); err != nil {
			return nil, err
		}
	}
	return append(body, "]}}\n"...), nil
}
