package encode

import (
	"strconv"
	"unicode/utf8"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// textEncoder writes one line of name=value pairs. A value stands in quotes
// when it is empty or has anything but letters, digits and the like in it;
// within them JSON's escapes are used, and \xNN for what is no UTF-8. Names of tags and metrics are made of
// what needs no quotes, with "_" for the rest.
type textEncoder struct{ f fields }

func (e *textEncoder) AppendEnvelope(dst []byte, id nozzle.ID, redelivered bool, env []byte) []byte {
	if e.f.read(env) {
		dst = e.f.appendText(dst)
	} else {
		dst = appendBase64(append(dst, "kind=malformed envelope_base64="...), env)
	}
	dst = appendTextIdentity(dst, id.Doppler, id.Epoch)
	dst = append(dst, " offset="...)
	dst = strconv.AppendUint(dst, id.Offset, 10)
	if redelivered {
		dst = append(dst, " redelivered=true"...)
	}
	return append(dst, '\n')
}

func (e *textEncoder) AppendGap(dst []byte, g *streampb.Gap) []byte {
	dst = append(dst, "kind=gap precision="...)
	dst = append(dst, precision(g.GetPrecision())...)
	if g.GetPrecision() != streampb.Gap_UNKNOWN {
		dst = append(dst, " count="...)
		dst = strconv.AppendUint(dst, g.GetCount(), 10)
	}
	dst = append(dst, " reason="...)
	dst = append(dst, Reason(g.GetReason())...)
	if g.GetSourceId() != "" {
		dst = appendText(append(dst, " source_id="...), g.GetSourceId())
	}
	if g.GetTo() > g.GetFrom() {
		dst = append(dst, " from="...)
		dst = strconv.AppendUint(dst, g.GetFrom(), 10)
		dst = append(dst, " to="...)
		dst = strconv.AppendUint(dst, g.GetTo(), 10)
	}
	return append(appendTextIdentity(dst, g.GetDoppler(), g.GetEpoch()), '\n')
}

func appendTextIdentity(dst []byte, doppler string, epoch uint64) []byte {
	dst = appendText(append(dst, " doppler="...), doppler)
	dst = append(dst, " epoch="...)
	return strconv.AppendUint(dst, epoch, 10)
}

func (f *fields) appendText(dst []byte) []byte {
	dst = append(dst, "time="...)
	dst = appendTime(dst, f.timestamp)
	dst = append(dst, " kind="...)
	dst = append(dst, f.kind.String()...)
	dst = appendText(append(dst, " source_id="...), f.source)
	if len(f.instance) > 0 {
		dst = appendText(append(dst, " instance_id="...), f.instance)
	}
	dst = f.appendTextMessage(dst)
	for i := range f.tags {
		dst = appendName(append(dst, " tag."...), f.tags[i].name)
		dst = appendText(append(dst, '='), f.tags[i].value)
	}
	return dst
}

func (f *fields) appendTextMessage(dst []byte) []byte {
	switch f.kind {
	case kindLog:
		dst = appendLogType(append(dst, " type="...), f.logType)
		dst = appendText(append(dst, " payload="...), f.text)
	case kindCounter:
		dst = appendText(append(dst, " name="...), f.name)
		dst = strconv.AppendUint(append(dst, " delta="...), f.delta, 10)
		dst = strconv.AppendUint(append(dst, " total="...), f.total, 10)
	case kindGauge:
		for i := range f.metrics {
			m := &f.metrics[i]
			dst = appendName(append(dst, " metric."...), m.name)
			dst = strconv.AppendFloat(append(dst, '='), m.value, 'g', -1, 64)
			if len(m.unit) > 0 {
				dst = appendName(append(dst, " unit."...), m.name)
				dst = appendText(append(dst, '='), m.unit)
			}
		}
	case kindTimer:
		dst = appendText(append(dst, " name="...), f.name)
		dst = appendTime(append(dst, " start="...), f.start)
		dst = appendTime(append(dst, " stop="...), f.stop)
		dst = strconv.AppendFloat(append(dst, " milliseconds="...), milliseconds(f.start, f.stop), 'f', -1, 64)
	case kindEvent:
		dst = appendText(append(dst, " title="...), f.name)
		dst = appendText(append(dst, " body="...), f.text)
	}
	return dst
}

// bare tells the bytes that need no quotes around them.
var bare = func() (t [256]bool) {
	for c := '!'; c < utf8.RuneSelf-1; c++ {
		t[c] = c != '"' && c != '\\' && c != '=' && c != '`'
	}
	return t
}()

// appendText appends a value, in quotes if it needs them.
func appendText[S []byte | string](dst []byte, s S) []byte {
	i := 0
	for i < len(s) && bare[s[i]] {
		i++
	}
	if i == len(s) && i > 0 {
		return append(dst, s...)
	}
	return appendTextString(dst, s)
}

// appendName appends a name of a pair.
func appendName(dst, s []byte) []byte {
	if len(s) == 0 {
		return append(dst, '_')
	}
	for i := 0; i < len(s); {
		if bare[s[i]] {
			dst = append(dst, s[i])
			i++
			continue
		}
		_, n := utf8.DecodeRune(s[i:])
		dst = append(dst, '_')
		i += n
	}
	return dst
}
