package encode

import (
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// jsonEncoder writes one JSON object a line. Names, values and their order are
// those of `lgr logs --json`, followed by the identity of the envelope.
type jsonEncoder struct{ f fields }

func (e *jsonEncoder) AppendEnvelope(dst []byte, id nozzle.ID, redelivered bool, env []byte) []byte {
	if e.f.read(env) {
		dst = e.f.appendJSON(append(dst, '{'))
	} else {
		dst = appendBase64(append(dst, `{"kind":"malformed","envelope_base64":`...), env)
	}
	dst = append(dst, `,"doppler":`...)
	dst = appendJSONString(dst, id.Doppler)
	// An epoch is larger than what many JSON readers hold exactly.
	dst = append(dst, `,"epoch":"`...)
	dst = strconv.AppendUint(dst, id.Epoch, 10)
	dst = append(dst, `","offset":`...)
	dst = strconv.AppendUint(dst, id.Offset, 10)
	if redelivered {
		dst = append(dst, `,"redelivered":true`...)
	}
	return append(dst, '}', '\n')
}

func (e *jsonEncoder) AppendGap(dst []byte, g *streampb.Gap) []byte {
	dst = append(dst, `{"kind":"gap","gap":{"precision":"`...)
	dst = append(dst, precision(g.GetPrecision())...)
	if g.GetPrecision() != streampb.Gap_UNKNOWN {
		dst = append(dst, `","count":`...)
		dst = strconv.AppendUint(dst, g.GetCount(), 10)
		dst = append(dst, `,"reason":"`...)
	} else {
		dst = append(dst, `","reason":"`...)
	}
	dst = append(dst, Reason(g.GetReason())...)
	dst = append(dst, '"')
	if g.GetSourceId() != "" {
		dst = append(dst, `,"source_id":`...)
		dst = appendJSONString(dst, g.GetSourceId())
	}
	if g.GetTo() > g.GetFrom() {
		dst = append(dst, `,"from":`...)
		dst = strconv.AppendUint(dst, g.GetFrom(), 10)
		dst = append(dst, `,"to":`...)
		dst = strconv.AppendUint(dst, g.GetTo(), 10)
	}
	dst = append(dst, `},"doppler":`...)
	dst = appendJSONString(dst, g.GetDoppler())
	dst = append(dst, `,"epoch":"`...)
	dst = strconv.AppendUint(dst, g.GetEpoch(), 10)
	return append(dst, '"', '}', '\n')
}

func (f *fields) appendJSON(dst []byte) []byte {
	dst = append(dst, `"time":"`...)
	dst = appendTime(dst, f.timestamp)
	dst = append(dst, `","source_id":`...)
	dst = appendJSONString(dst, f.source)
	if len(f.instance) > 0 {
		dst = append(dst, `,"instance_id":`...)
		dst = appendJSONString(dst, f.instance)
	}
	dst = append(dst, `,"kind":"`...)
	dst = append(dst, f.kind.String()...)
	dst = append(dst, '"')
	dst = f.appendJSONMessage(dst)
	if len(f.tags) == 0 {
		return dst
	}
	for i := range f.tags {
		if i == 0 {
			dst = append(dst, `,"tags":{`...)
		} else {
			dst = append(dst, ',')
		}
		dst = appendJSONString(dst, f.tags[i].name)
		dst = append(dst, ':')
		dst = appendJSONString(dst, f.tags[i].value)
	}
	return append(dst, '}')
}

func (f *fields) appendJSONMessage(dst []byte) []byte {
	switch f.kind {
	case kindLog:
		dst = append(dst, `,"log":{"type":"`...)
		dst = appendLogType(dst, f.logType)
		if utf8.Valid(f.text) {
			dst = append(dst, `","payload":`...)
			dst = appendJSONString(dst, f.text)
		} else {
			dst = appendBase64(append(dst, `","payload_base64":`...), f.text)
		}
	case kindCounter:
		dst = append(dst, `,"counter":{"name":`...)
		dst = appendJSONString(dst, f.name)
		dst = append(dst, `,"delta":`...)
		dst = strconv.AppendUint(dst, f.delta, 10)
		dst = append(dst, `,"total":`...)
		dst = strconv.AppendUint(dst, f.total, 10)
	case kindGauge:
		dst = f.appendJSONMetrics(append(dst, `,"gauge":{`...))
	case kindTimer:
		dst = append(dst, `,"timer":{"name":`...)
		dst = appendJSONString(dst, f.name)
		dst = append(dst, `,"start":"`...)
		dst = appendTime(dst, f.start)
		dst = append(dst, `","stop":"`...)
		dst = appendTime(dst, f.stop)
		dst = append(dst, `","milliseconds":`...)
		dst = appendJSONFloat(dst, milliseconds(f.start, f.stop))
	case kindEvent:
		dst = append(dst, `,"event":{"title":`...)
		dst = appendJSONString(dst, f.name)
		dst = append(dst, `,"body":`...)
		dst = appendJSONString(dst, f.text)
	default:
		return dst
	}
	return append(dst, '}')
}

func (f *fields) appendJSONMetrics(dst []byte) []byte {
	for i := range f.metrics {
		m := &f.metrics[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONString(dst, m.name)
		dst = append(dst, `:{"value":`...)
		dst = appendJSONFloat(dst, m.value)
		if len(m.unit) > 0 {
			dst = append(dst, `,"unit":`...)
			dst = appendJSONString(dst, m.unit)
		}
		dst = append(dst, '}')
	}
	return dst
}

// appendJSONFloat writes what JSON has no number for as protobuf's JSON does:
// as the strings NaN, Infinity and -Infinity.
func appendJSONFloat(dst []byte, v float64) []byte {
	switch {
	case math.IsNaN(v):
		return append(dst, `"NaN"`...)
	case math.IsInf(v, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(v, -1):
		return append(dst, `"-Infinity"`...)
	}
	if abs := math.Abs(v); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.AppendFloat(dst, v, 'e', -1, 64)
	}
	return strconv.AppendFloat(dst, v, 'f', -1, 64)
}

func appendBase64(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}
