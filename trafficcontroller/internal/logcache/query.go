package logcache

import (
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Limits of a read.
const (
	defaultLimit  = 100
	maxLimit      = 1000
	maxQueryBytes = 64 << 10
)

// query is what a read asks for.
type query struct {
	start, end int64 // [start, end), unix nanoseconds; end 0 for now
	limit      int
	types      []string // as Dopplers name them; none for all
	descending bool
	filter     string         // name_filter
	names      *regexp.Regexp // nil for no filter
}

// parseQuery reads the parameters of a read. Unknown ones are ignored.
func parseQuery(r *http.Request) (q query, bad *failure) {
	v, bad := values(r)
	if bad != nil {
		return q, bad
	}
	p := fields{v: v}
	q.start, q.end = p.int("start_time", "startTime"), p.int("end_time", "endTime")
	limit := p.int("limit", "limit")
	q.types = p.types()
	q.descending = p.bool("descending")
	q.filter = p.one("name_filter", "nameFilter")
	if p.bad != nil {
		return q, p.bad
	}
	switch {
	case q.end != 0 && q.start > q.end:
		return q, badRequest("StartTime (%d) must be before EndTime (%d)", q.start, q.end)
	case limit > maxLimit:
		return q, badRequest("limit (%d) must be %d or less", limit, maxLimit)
	case limit < 0:
		return q, badRequest("limit (%d) must be greater than zero", limit)
	case limit == 0:
		limit = defaultLimit
	}
	q.limit = int(limit)
	if q.filter == "" {
		return q, nil
	}
	var err error
	if q.names, err = compile(q.filter); err != nil {
		return q, badRequest("name filter must be a valid regular expression: %v", err)
	}
	return q, nil
}

// values reads the query of a request.
func values(r *http.Request) (url.Values, *failure) {
	if n := len(r.URL.RawQuery); n > maxQueryBytes {
		return nil, badArgument("the query has %d bytes, the limit is %d", n, maxQueryBytes)
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, badArgument("%v", err)
	}
	return v, nil
}

// fields reads parameters as the gateway of gRPC does and keeps the first
// fault. A parameter has a name in snake case and one in camel case.
type fields struct {
	v   url.Values
	bad *failure
}

func (p *fields) fail(bad *failure) {
	if p.bad == nil {
		p.bad = bad
	}
}

func (p *fields) one(name, camel string) string {
	list := p.v[name]
	if name != camel {
		list = slices.Concat(list, p.v[camel])
	}
	switch len(list) {
	case 0:
		return ""
	case 1:
		return list[0]
	}
	p.fail(badArgument("too many values for field %q: %s", name, strings.Join(list, ", ")))
	return ""
}

func (p *fields) int(name, camel string) int64 {
	if !p.v.Has(name) && !p.v.Has(camel) {
		return 0
	}
	n, err := strconv.ParseInt(p.one(name, camel), 10, 64)
	if err != nil {
		p.fail(badArgument("parsing field %q: %v", name, err))
	}
	return n
}

func (p *fields) bool(name string) bool {
	if !p.v.Has(name) {
		return false
	}
	b, err := strconv.ParseBool(p.one(name, name))
	if err != nil {
		p.fail(badArgument("parsing field %q: %v", name, err))
	}
	return b
}

// envelopeTypes are the values of envelope_types, at their numbers.
var envelopeTypes = []string{"ANY", "LOG", "COUNTER", "GAUGE", "TIMER", "EVENT"}

// types reads envelope_types; ANY says nothing.
func (p *fields) types() (types []string) {
	for _, value := range slices.Concat(p.v["envelope_types"], p.v["envelopeTypes"]) {
		i := slices.Index(envelopeTypes, value)
		if n, err := strconv.Atoi(value); err == nil {
			i = n
		}
		if i < 0 || i >= len(envelopeTypes) {
			p.fail(badArgument("parsing list %q: %q is not a valid value", "envelope_types", value))
			return nil
		}
		if name := strings.ToLower(envelopeTypes[i]); i != 0 && !slices.Contains(types, name) {
			types = append(types, name)
		}
	}
	return types
}

// window sets the end of the read.
//
// A client that follows a source asks from the timestamp after its last one on.
// What arrives later with an older timestamp it would never see. So a read that
// goes forward ends settle before now: whatever is older has arrived by then, if
// no envelope takes longer than settle from its timestamp to its Doppler. A read
// that goes backwards is nobody's bookmark, and shows what there is.
func (q *query) window(now time.Time, settle time.Duration) {
	end := now.UnixNano()
	if !q.descending {
		end -= settle.Nanoseconds()
	}
	if q.end == 0 || !q.descending && q.end > end {
		q.end = end
	}
}

// history is how a Doppler is asked.
func (q *query) history() url.Values {
	v := url.Values{
		"order": {"time"}, "start": {strconv.FormatInt(q.start, 10)}, "end": {strconv.FormatInt(q.end, 10)},
		"limit": {strconv.Itoa(q.limit)},
	}
	if len(q.types) > 0 {
		v["type"] = q.types
	}
	if q.descending {
		v.Set("descending", "true")
	}
	if q.names != nil {
		v.Set("name_filter", q.filter)
	}
	return v
}
