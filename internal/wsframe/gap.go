package wsframe

import (
	"strconv"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// How old clients are told what they miss (DESIGN section 5): nozzles know the
// counter, people read the line.
const (
	droppedOrigin = "doppler"
	droppedName   = "TruncatingBuffer.DroppedMessages"
	// SourceType is that of the lines the pipeline itself writes.
	SourceType = "LGR"
)

// AppendDropped appends the frames that tell a Firehose client a gap: a
// CounterEvent with the exact delta, which leaves out what such a client would
// not have got anyway. Where nobody knows the size, it is 1, and a line says so.
// total is what the client was told before; the new total is
// returned. now is in unix nanoseconds.
func (f *Framer) AppendDropped(dst []byte, g *streampb.Gap, total uint64, now int64) (_ []byte, newTotal uint64) {
	n, exact := Missed(g)
	if !exact {
		dst = f.AppendLine(dst, g, "", now)
	}
	if n == 0 {
		return dst, total
	}
	total += n
	dst, at := open(dst)
	return shut(AppendDroppedEvent(dst, n, total, now), at), total
}

// Missed is how many envelopes a Firehose client is to be told it misses, and
// whether that is all to say about them.
func Missed(g *streampb.Gap) (n uint64, exact bool) {
	n = g.GetCount() - min(g.GetNoV1(), g.GetCount())
	if g.GetPrecision() != streampb.Gap_EXACT {
		return max(n, 1), false
	}
	return n, true
}

// AppendDroppedEvent appends the envelope, without a frame, that tells a
// Firehose client of n more that it misses.
func AppendDroppedEvent(dst []byte, n, total uint64, now int64) []byte {
	return dropsonde.AppendCounterEvent(dst, droppedOrigin, droppedName, n, total, now)
}

// DroppedEnvelope tells a v2 client a gap, as the Reverse Log Proxy told what it
// dropped: nozzles raise an alarm for that (protocol/03, other clients). Where
// nobody knows the size it says 1; the tags say so.
func DroppedEnvelope(g *streampb.Gap, now int64) *loggregatorv2.Envelope {
	n := g.GetCount()
	if g.GetPrecision() != streampb.Gap_EXACT {
		n = max(n, 1)
	}
	return &loggregatorv2.Envelope{
		Timestamp: now, SourceId: "reverse_log_proxy",
		Tags: map[string]string{
			"origin": "loggregator.rlp", "direction": "egress", "metric_version": "2.0",
			"precision": g.GetPrecision().String(), "reason": g.GetReason().String(), "doppler": g.GetDoppler(),
		},
		Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "dropped", Delta: n}},
	}
}

// AppendLine appends the frame that tells a tail a gap: a LogMessage on the
// error stream of its app.
func (f *Framer) AppendLine(dst []byte, g *streampb.Gap, appID string, now int64) []byte {
	if g.GetPrecision() == streampb.Gap_EXACT && g.GetCount() == 0 {
		return dst
	}
	dst, at := open(dst)
	return shut(AppendLineEvent(dst, g, appID, now), at)
}

// AppendLineEvent appends the same envelope without a frame.
func AppendLineEvent(dst []byte, g *streampb.Gap, appID string, now int64) []byte {
	return dropsonde.AppendLogMessage(dst, droppedOrigin, Words(g), appID, SourceType, "", true, now)
}

// Words says a gap in one line.
func Words(g *streampb.Gap) string {
	n := strconv.FormatUint(g.GetCount(), 10) + " messages"
	switch {
	case g.GetPrecision() == streampb.Gap_UNKNOWN:
		n = "An unknown number of messages"
	case g.GetPrecision() == streampb.Gap_AT_LEAST:
		n = "At least " + n
	case g.GetCount() == 1:
		n = "1 message"
	}
	return n + " dropped: " + why(g)
}

// why says the reason of a gap.
func why(g *streampb.Gap) string {
	switch g.GetReason() {
	case streampb.Gap_EVICTED, streampb.Gap_QUEUE_FULL:
		return "this client was too slow, or away for too long"
	case streampb.Gap_UNCONFIRMED:
		return "they were handed out, but not confirmed in time"
	case streampb.Gap_DOPPLER_LOST:
		return "Doppler " + g.GetDoppler() + " was lost"
	case streampb.Gap_OVER_SHARE:
		return "too much is logged, and this app is over its fair share"
	case streampb.Gap_RATE_LIMITED:
		return "this app is over its limit"
	case streampb.Gap_DOPPLER_AWAY:
		return "Doppler " + g.GetDoppler() + " is not connected"
	default:
		return "nobody can tell why"
	}
}
