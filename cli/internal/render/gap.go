package render

import (
	"fmt"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Missed says in plain words what a reader will not get, and why.
func Missed(count uint64, precision streampb.Gap_Precision, reason streampb.Gap_Reason, doppler string) string {
	return fmt.Sprintf("%s missed (%s)", amount(count, precision), because(reason, doppler))
}

func amount(count uint64, precision streampb.Gap_Precision) string {
	if precision == streampb.Gap_UNKNOWN {
		return "an unknown number of envelopes"
	}
	s := fmt.Sprintf("%d envelopes", count)
	if count == 1 {
		s = "1 envelope"
	}
	if precision == streampb.Gap_AT_LEAST {
		return "at least " + s
	}
	return s
}

func because(reason streampb.Gap_Reason, doppler string) string {
	if doppler == "" {
		doppler = "a Doppler"
	} else {
		doppler = "Doppler " + doppler
	}
	switch reason {
	case streampb.Gap_EVICTED:
		return "reader was slower than the ring is deep"
	case streampb.Gap_UNCONFIRMED:
		return "handed out, but gone from the ring before they were confirmed"
	case streampb.Gap_DOPPLER_LOST:
		return doppler + " ended without a farewell"
	case streampb.Gap_QUEUE_FULL:
		return "reader was slower than its queue at the Traffic Controller"
	case streampb.Gap_OVER_SHARE:
		return doppler + " was behind and this source above its fair share"
	case streampb.Gap_RATE_LIMITED:
		return "the source was over its ingress limit"
	case streampb.Gap_HISTORY_LIMIT:
		return "older ones than the limit of history are left out"
	case streampb.Gap_DOPPLER_AWAY:
		return doppler + " is not connected: what it holds of the past is not here"
	case streampb.Gap_CURSOR_UNKNOWN:
		return doppler + " did not know the place to go on from"
	}
	return "no reason given"
}
