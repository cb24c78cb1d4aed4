package dropsonde

import (
	"bytes"
	"math"
	"slices"
	"strconv"
)

// v2Fields are the fields of a v2 envelope besides timestamp and tags.
type v2Fields struct {
	source, instance span
	message          uint64 // key of the message, 0 for none

	payload  span // log
	severity int32

	name         span // counter
	delta, total uint64

	start, stop int64 // timer

	metrics []metric // gauge

	old       tagList // deprecated_tags, in Encoder.text
	valueless bool    // some deprecated tag has no value
}

// metric is an entry of a gauge.
type metric struct {
	name, unit span
	value      float64
}

// readV2 reads an envelope, and reports whether it is one.
func (e *Encoder) readV2() bool {
	e.v2.reset()
	b := e.env
	for i := e.tags.readRun(b, 0); i < len(b); i = e.tags.readRun(b, i) {
		var f field
		if f, i = next(b, i); i < 0 || !e.fieldV2(f) {
			return false
		}
	}
	if e.v2.valueless {
		e.v2.old.unique(e.text)
	}
	e.sortMetrics()
	return true
}

func (m *v2Fields) reset() {
	m.source, m.instance, m.valueless = span{}, span{}, false
	m.old.reset()
	m.setMessage(0)
}

func (e *Encoder) fieldV2(f field) bool {
	m := &e.v2
	switch f.key {
	case v2Tags:
		return e.tags.read(e.env, f.span)
	case v2DeprecatedTags:
		return e.oldTag(f.span)
	case v2Timestamp:
		e.timestamp = int64(f.value)
	case v2Source:
		m.source = f.span
	case v2Instance:
		m.instance = f.span
	case v2Log, v2Counter, v2Gauge, v2Timer, v2Event:
		return e.messageV2(f)
	}
	return true
}

// setMessage begins another message. One of the same kind that comes later is
// merged into it.
func (m *v2Fields) setMessage(key uint64) {
	m.message = key
	m.payload, m.severity = span{}, 0
	m.name, m.delta, m.total = span{}, 0, 0
	m.start, m.stop = 0, 0
	m.metrics = m.metrics[:0]
}

func (e *Encoder) messageV2(message field) bool {
	m, b := &e.v2, e.env[:message.end]
	if m.message != message.key {
		m.setMessage(message.key)
	}
	for i := message.start; i < len(b); {
		var f field
		if f, i = next(b, i); i < 0 {
			return false
		}
		switch m.message {
		case v2Log:
			m.logField(f)
		case v2Counter:
			m.counterField(f)
		case v2Timer:
			m.timerField(f)
		case v2Gauge:
			if f.key == gaugeMetrics && !m.metric(b, f.span) {
				return false
			}
		}
	}
	return true
}

func (m *v2Fields) logField(f field) {
	switch f.key {
	case logPayload:
		m.payload = f.span
	case logType:
		m.severity = int32(f.value)
	}
}

func (m *v2Fields) counterField(f field) {
	switch f.key {
	case counterName:
		m.name = f.span
	case counterDelta:
		m.delta = f.value
	case counterTotal:
		m.total = f.value
	}
}

func (m *v2Fields) timerField(f field) {
	switch f.key {
	case timerStart:
		m.start = int64(f.value)
	case timerStop:
		m.stop = int64(f.value)
	}
}

// metric reads an entry of a gauge.
func (m *v2Fields) metric(b []byte, entry span) bool {
	var x metric
	for i := entry.start; i < entry.end; {
		var f field
		if f, i = next(b[:entry.end], i); i < 0 {
			return false
		}
		switch f.key {
		case mapKey:
			x.name = f.span
		case mapValue:
			if !x.read(b, f.span) {
				return false
			}
		}
	}
	m.metrics = append(m.metrics, x)
	return true
}

func (x *metric) read(b []byte, s span) bool {
	for i := s.start; i < s.end; {
		var f field
		if f, i = next(b[:s.end], i); i < 0 {
			return false
		}
		switch f.key {
		case gaugeUnit:
			x.unit = f.span
		case gaugeNumber:
			x.value = math.Float64frombits(f.value)
		}
	}
	return true
}

// sortMetrics orders metrics by name and keeps the last of each.
func (e *Encoder) sortMetrics() {
	b, all := e.env, e.v2.metrics
	slices.SortStableFunc(all, func(x, y metric) int { return bytes.Compare(x.name.of(b), y.name.of(b)) })
	n := 0
	for _, x := range all {
		if n > 0 && bytes.Equal(all[n-1].name.of(b), x.name.of(b)) {
			n--
		}
		all[n] = x
		n++
	}
	e.v2.metrics = all[:n]
}

// oldTag reads an entry of deprecated_tags and keeps it in Encoder.text as an
// entry of tags: text as it is, an integer as %d, a decimal as %f.
func (e *Encoder) oldTag(entry span) bool {
	var key span
	var v field // the value's last field
	for i := entry.start; i < entry.end; {
		var f field
		if f, i = next(e.env[:entry.end], i); i < 0 {
			return false
		}
		switch f.key {
		case mapKey:
			key = f.span
		case mapValue:
			if !lastData(e.env, f.span, &v) {
				return false
			}
		}
	}
	e.keepOld(key.of(e.env), v)
	return true
}

// lastData reads a Value and remembers the field that was set last: all are of
// one oneof.
func lastData(b []byte, s span, v *field) bool {
	for i := s.start; i < s.end; {
		var f field
		if f, i = next(b[:s.end], i); i < 0 {
			return false
		}
		switch f.key {
		case valueText, valueInteger, valueDecimal:
			*v = f
		}
	}
	return true
}

func (e *Encoder) keepOld(key []byte, v field) {
	t := tag{name: nameOf(key), none: v.key == 0}
	e.v2.valueless = e.v2.valueless || t.none
	b := e.text
	t.entry.start = len(b)
	b = appendBytes(b, mapKey, key)
	t.key = span{len(b) - len(key), len(b)}
	b, at := open(b, mapValue)
	switch v.key {
	case valueText:
		b = append(b, v.of(e.env)...)
	case valueInteger:
		b = strconv.AppendInt(b, int64(v.value), 10)
	case valueDecimal:
		b = strconv.AppendFloat(b, math.Float64frombits(v.value), 'f', 6, 64)
	}
	size := len(b) - at
	b = shut(b, at)
	t.value = span{len(b) - size, len(b)}
	t.entry.end = len(b)
	e.text = b
	e.v2.old.add(t)
}

// value returns the value of a tag: of tags if it is there, else of
// deprecated_tags, else nothing.
func (e *Encoder) value(n name) []byte {
	if s, ok := e.tags.find(n); ok {
		return s.of(e.env)
	}
	if s, ok := e.v2.old.find(n); ok {
		return s.of(e.text)
	}
	return nil
}
