package mix

import (
	"fmt"
	"maps"

	"code.cloudfoundry.org/go-loggregator/v10/conversion"
	v2 "code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"
)

// Pushed is the way by which envelopes go in in their v1 form.
const Pushed = "push"

// V2 is what a Doppler holds of envelope number n: itself, or what comes back
// from the v1 envelopes it was pushed as.
func V2(run, via string, n int) []*v2.Envelope {
	if via != Pushed {
		return []*v2.Envelope{Envelope(run, via, n)}
	}
	var all []*v2.Envelope
	for _, e := range ToV1(Envelope(run, via, n)) {
		all = append(all, conversion.ToV2(e, true))
	}
	return all
}

// V1 is what readers of the old framing get of it.
func V1(run, via string, n int) (all []*events.Envelope) {
	for _, e := range V2(run, via, n) {
		all = append(all, ToV1(e)...)
	}
	return all
}

// ToV1 is go-loggregator's conversion, with what it leaves out although v1
// needs it: a Doppler of old lost such envelopes, ours delivers them.
func ToV1(e *v2.Envelope) []*events.Envelope {
	all := conversion.ToV1(e)
	for _, v1 := range all {
		if l := v1.LogMessage; l != nil && l.Message == nil {
			l.Message = []byte{}
		}
		if h := v1.HttpStartStop; h != nil && h.RequestId == nil {
			h.RequestId = &events.UUID{Low: proto.Uint64(0), High: proto.Uint64(0)}
		}
	}
	return all
}

// Preferred is an envelope as one asks for with use_preferred_tags: the old
// tags over the new ones (protocol/01, tags).
func Preferred(e *v2.Envelope) *v2.Envelope {
	tags := maps.Clone(e.GetTags())
	if tags == nil {
		tags = map[string]string{}
	}
	for k, v := range e.GetDeprecatedTags() {
		switch d := v.GetData().(type) {
		case *v2.Value_Text:
			tags[k] = d.Text
		case *v2.Value_Integer:
			tags[k] = fmt.Sprint(d.Integer)
		case *v2.Value_Decimal:
			tags[k] = fmt.Sprint(d.Decimal)
		}
	}
	e.Tags, e.DeprecatedTags = tags, nil
	return e
}

// IsLog tells whether a v1 subscription to logs gets an envelope.
func IsLog(e *events.Envelope) bool { return e.GetEventType() == events.Envelope_LogMessage }

// IsOfApp tells whether the stream of an app gets it (protocol/01, v1 routing).
func IsOfApp(e *events.Envelope, app string) bool {
	switch e.GetEventType() {
	case events.Envelope_LogMessage:
		return e.GetLogMessage().GetAppId() == app
	case events.Envelope_ContainerMetric:
		return e.GetContainerMetric().GetApplicationId() == app
	case events.Envelope_HttpStartStop:
		// The id as text is the app's when the app is a UUID.
		return e.GetHttpStartStop().GetApplicationId() != nil && e.GetTags()["source_id"] == app
	}
	return false
}
