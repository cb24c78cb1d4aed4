package egress

import (
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
)

// Framing is the form in which a reader gets envelopes.
type Framing int

// The framings.
const (
	ByWebSocket       Framing = iota // batches, to Traffic Controllers
	ByBatchedReceiver                // of loggregator.v2.Egress
	ByReceiver
	ByBatchSubscribe // of plumbing.Doppler
	BySubscribe
	NumFramings
)

// String is the name that the metric has for it.
func (f Framing) String() string {
	return [...]string{"websocket", "v2_batch", "v2", "v1_batch", "v1"}[f]
}

// framingOf is that of a call's method.
func framingOf(method string) Framing {
	switch method {
	case loggregatorv2.Egress_BatchedReceiver_FullMethodName:
		return ByBatchedReceiver
	case loggregatorv2.Egress_Receiver_FullMethodName:
		return ByReceiver
	case plumbingpb.Doppler_BatchSubscribe_FullMethodName:
		return ByBatchSubscribe
	}
	return BySubscribe
}

// Refusal is why a call was refused.
type Refusal int

// The causes.
const (
	BadRequest Refusal = iota // INVALID_ARGUMENT
	OverLimit                 // RESOURCE_EXHAUSTED: of subscriptions
	Stopping                  // UNAVAILABLE
	NumRefusals
)

// String is the name that the metric has for it.
func (r Refusal) String() string { return [...]string{"bad_request", "over_limit", "stopping"}[r] }
