package gateway

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Limits of a query.
const (
	maxSelectors = 10_000
	maxValue     = 1024 // bytes
)

// Query is what a client asks for.
type Query struct {
	ShardID           string
	DeterministicName string
	Selectors         []string // as a Doppler takes them; at least one
	Request           *http.Request
	Leave             any // what Config.Allow has returned
}

func parse(r *http.Request, v url.Values) (q Query, bad *refusal) {
	switch {
	case r.Method != http.MethodGet:
		return q, &notAllowed
	case strings.Count(r.URL.RawQuery, "&") >= maxSelectors:
		return q, &tooManyParts // net/url reads no more than that
	case len(v) == 0:
		return q, &emptyQuery
	case tooLong(v):
		return q, &tooLongValues
	}
	q = Query{ShardID: v.Get("shard_id"), DeterministicName: v.Get("deterministic_name"), Request: r}
	kinds := kindsOf(v)
	sources := v["source_id"]
	switch {
	case len(kinds) == 0:
		return q, &missingType
	case len(kinds)*max(len(sources), 1) > maxSelectors:
		return q, &tooManyParts
	}
	for _, k := range kinds {
		if !slices.Contains(sources, "") { // which is any
			k["source_id"] = sources
		}
		q.Selectors = append(q.Selectors, k.Encode())
	}
	return q, nil
}

func tooLong(v url.Values) bool {
	for _, values := range v {
		for _, s := range values {
			if len(s) > maxValue {
				return true
			}
		}
	}
	return false
}

// kindsOf lists the selectors, without a source. Of a type only its presence
// counts; a name takes the place of the plain type (protocol/04).
func kindsOf(v url.Values) (kinds []url.Values) {
	for _, kind := range []string{"log", "counter", "gauge", "timer", "event"} {
		switch names := v[kind+".name"]; {
		case kind == "counter" && len(names) > 0:
			for _, name := range names {
				kinds = append(kinds, named(kind, name))
			}
		case kind == "gauge" && len(names) > 0:
			for _, list := range names {
				k := named(kind, strings.Split(list, ",")...)
				k["name"] = strings.Split(list, ",") // also an empty one: a gauge of that name
				k.Set("exact", "true")
				kinds = append(kinds, k)
			}
		case v.Has(kind):
			kinds = append(kinds, url.Values{"type": {kind}})
		}
	}
	return kinds
}

// named selects a type by name; an empty name is any.
func named(kind string, names ...string) url.Values {
	v := url.Values{"type": {kind}}
	if len(names) > 1 || names[0] != "" {
		v["name"] = names
	}
	return v
}
