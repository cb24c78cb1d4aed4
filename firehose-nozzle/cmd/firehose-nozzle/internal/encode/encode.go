// Package encode writes envelopes and gaps as lines: JSON objects, or text in
// the manner of logfmt. It reads the encoded envelope itself, which costs a
// fraction of decoding it first.
//
// The form of the lines is part of what operators rely on; it is described in
// docs/nozzle-authors.md.
package encode

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// Encoder writes lines, each with its newline. An Encoder has scratch memory
// of its own and must not be used concurrently.
type Encoder interface {
	// AppendEnvelope appends one encoded envelope to dst. Bytes that are no
	// envelope become a line of the kind "malformed" that holds them.
	AppendEnvelope(dst []byte, id nozzle.ID, redelivered bool, env []byte) []byte
	// AppendGap appends what was missed.
	AppendGap(dst []byte, gap *streampb.Gap) []byte
}

// Formats names the formats of New.
func Formats() []string { return []string{"json", "text"} }

// New returns an encoder for a format.
func New(format string) (Encoder, error) {
	switch format {
	case "json":
		return &jsonEncoder{}, nil
	case "text":
		return &textEncoder{}, nil
	}
	return nil, fmt.Errorf("unknown format %q, want one of %s", format, strings.Join(Formats(), ", "))
}

// AppendBatch appends the lines of a batch: its gaps, which lie before the
// envelopes, then the envelopes.
func AppendBatch(dst []byte, e Encoder, b *nozzle.Batch) []byte {
	for _, gap := range b.Gaps {
		dst = e.AppendGap(dst, named(gap, b.Position))
	}
	for id, env := range b.All() {
		dst = e.AppendEnvelope(dst, id, b.Redelivered, env)
	}
	return dst
}

// named gives a gap that does not name its Doppler that of the batch.
func named(gap *streampb.Gap, at *streampb.Position) *streampb.Gap {
	if gap.GetDoppler() != "" || at.GetDoppler() == "" {
		return gap
	}
	return &streampb.Gap{
		SourceId: gap.GetSourceId(), From: gap.GetFrom(), To: gap.GetTo(), Count: gap.GetCount(),
		Precision: gap.GetPrecision(), Reason: gap.GetReason(), Doppler: at.GetDoppler(), Epoch: at.GetEpoch(),
	}
}

// Reason names the reason of a gap in lower case, as lines and metrics do.
func Reason(r streampb.Gap_Reason) string {
	if r == streampb.Gap_REASON_UNSPECIFIED {
		return "unspecified"
	}
	return strings.ToLower(r.String())
}

func precision(p streampb.Gap_Precision) string { return strings.ToLower(p.String()) }

// appendTime appends unix nanoseconds as RFC 3339 in UTC.
func appendTime(dst []byte, nanoseconds int64) []byte {
	return time.Unix(0, nanoseconds).UTC().AppendFormat(dst, time.RFC3339Nano)
}

// appendLogType appends the name of a log's type, or its number if it has none.
func appendLogType(dst []byte, t int32) []byte {
	switch t {
	case 0:
		return append(dst, "OUT"...)
	case 1:
		return append(dst, "ERR"...)
	}
	return strconv.AppendInt(dst, int64(t), 10)
}

// milliseconds is how long a timer ran.
func milliseconds(start, stop int64) float64 { return float64(stop-start) / float64(time.Millisecond) }
