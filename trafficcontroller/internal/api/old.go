package api

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
)

// What the values of filter-type select. A v2 log that began as a v1 Error is
// no log to a v1 client (protocol/01, plumbing).
var filterTypes = map[string]envelope.ClassMask{
	"logs": envelope.Mask(envelope.Log),
	"metrics": envelope.Mask(envelope.ErrorLog, envelope.ContainerGauge, envelope.Gauge,
		envelope.HTTPTimer, envelope.Timer, envelope.Counter),
}

// parseOldFirehose reads a request of the old framing. Values of filter-type
// that are not known select everything, as they always did.
func parseOldFirehose(r *http.Request) (q FirehoseQuery, err error) {
	v := r.URL.Query() // what is malformed was always ignored
	if err := notOurs(v, firehoseParameters); err != nil {
		return q, err
	}
	q.Old, q.Selectors = true, url.Values{}
	if mask, ok := filterTypes[v.Get("filter-type")]; ok {
		q.Selectors["class"] = mask.Classes()
	}
	q.Subscription = r.PathValue("subscription")
	return q, checkSubscription(r)
}

func parseOldTail(r *http.Request) (q TailQuery, err error) {
	if err := notOurs(r.URL.Query(), tailParameters); err != nil {
		return q, err
	}
	q.Old, q.Source = true, r.PathValue("id")
	return q, checkSource(r)
}

// notOurs refuses the parameters of the batch framing, which the old one would
// silently ignore. No old client sends them.
func notOurs(v url.Values, names []string) error {
	for _, name := range names {
		if v.Has(name) {
			return fmt.Errorf("parameter %s needs the WebSocket subprotocol %s", name, stream.Subprotocol)
		}
	}
	return nil
}
