package dropsonde

import (
	"errors"
	"math"
	"strconv"
	"unicode/utf8"
)

var (
	// ErrMalformed means that the bytes are not a message. Parts that the
	// event type does not ask for are only looked at from outside.
	ErrMalformed = errors.New("dropsonde: malformed v1 envelope")
	// ErrNoType means that an envelope has no event type, and so no meaning.
	ErrNoType = errors.New("dropsonde: v1 envelope without event type")
)

// AppendV2 appends the v2 envelope that a v1 envelope becomes. It returns dst
// as it was with ErrMalformed or ErrNoType. v1 may be any bytes; it is only
// read, is not kept, and must not overlap the free space of dst. An envelope of
// an unknown event type has tags but no message.
//
// Tags keep the order they have in v1, those made of fields follow.
func (e *Encoder) AppendV2(dst, v1 []byte) ([]byte, error) {
	e.reset(v1)
	err := e.readV1()
	if err == nil {
		dst = e.envelope(dst)
	}
	e.reset(nil)
	return dst, err
}

// envelope appends all of the envelope.
func (e *Encoder) envelope(dst []byte) []byte {
	if e.timestamp != 0 {
		dst = appendNumber(dst, v2Timestamp, uint64(e.timestamp))
	}
	dst = e.appendSource(dst)
	dst = e.appendInstance(dst)
	set := e.overwritten()
	for i := range e.tags.list {
		if t := &e.tags.list[i]; !set.has(t.name) {
			dst = e.copyTag(dst, t)
		}
	}
	dst = e.baseTags(dst)
	switch e.v1.kind {
	case typeLogMessage:
		return e.log(dst)
	case typeError:
		return e.errorLog(dst)
	case typeHTTPStartStop:
		return e.timer(dst)
	case typeValueMetric:
		return e.valueGauge(dst)
	case typeCounterEvent:
		return e.counter(dst)
	case typeContainerMetric:
		return e.containerGauge(dst)
	}
	return dst
}

// appendSource appends the source id: of the event, else of the tag, else
// deployment/job.
func (e *Encoder) appendSource(dst []byte) []byte {
	m := &e.v1
	var id []byte
	switch m.kind {
	case typeLogMessage:
		id = m.event.text[4].of(e.env)
	case typeContainerMetric:
		id = m.event.text[1].of(e.env)
	case typeHTTPStartStop:
		if app := m.event.uuids[12]; app != (uuid{}) {
			e.text = app.appendText(e.text[:0])
			id = e.text
		}
	}
	if len(id) > 0 {
		return appendText(dst, v2Source, id)
	}
	if s, ok := e.tags.find(sourceID); ok {
		return appendNotEmpty(dst, v2Source, s.of(e.env))
	}
	e.text = append(e.text[:0], m.deployment.of(e.env)...)
	e.text = append(e.text, '/')
	e.text = append(e.text, m.job.of(e.env)...)
	return appendText(dst, v2Source, e.text)
}

func (e *Encoder) appendInstance(dst []byte) []byte {
	v := &e.v1.event
	switch e.v1.kind {
	case typeLogMessage:
		return appendNotEmpty(dst, v2Instance, v.text[6].of(e.env))
	case typeHTTPStartStop:
		return appendText(dst, v2Instance, e.decimal(int64(int32(v.number[13]))))
	case typeContainerMetric:
		return appendText(dst, v2Instance, e.decimal(int64(int32(v.number[2]))))
	case typeValueMetric, typeCounterEvent:
		id, _ := e.tags.find(instanceID)
		return appendNotEmpty(dst, v2Instance, id.of(e.env))
	}
	return dst
}

// decimal returns a number as text, good until the next call.
func (e *Encoder) decimal(v int64) []byte {
	e.text = strconv.AppendInt(e.text[:0], v, 10)
	return e.text
}

// appendNotEmpty appends a proto3 string, which has no place on the wire when
// it is empty.
func appendNotEmpty(dst []byte, key uint64, s []byte) []byte {
	if len(s) == 0 {
		return dst
	}
	return appendText(dst, key, s)
}

// overwritten returns the names of the v1 tags that a field takes the place of,
// or that are a field themselves.
func (e *Encoder) overwritten() nameSet {
	set := baseNames | 1<<sourceID
	switch e.v1.kind {
	case typeLogMessage:
		set |= 1 << sourceType
	case typeError:
		set |= errorNames
	case typeHTTPStartStop:
		set |= httpNames
	case typeCounterEvent:
		set |= 1 << instanceID
	}
	return set
}

// copyTag appends a tag of the v1 envelope, mostly as it stands there.
func (e *Encoder) copyTag(dst []byte, t *tag) []byte {
	key, value := t.key.of(e.env), t.value.of(e.env)
	if t.plain && !e.DeprecatedTags && utf8.Valid(key) && utf8.Valid(value) {
		return appendBytes(dst, v2Tags, t.entry.of(e.env))
	}
	return e.putTag(dst, key, value)
}

// putTag appends a tag.
func (e *Encoder) putTag(dst, key, value []byte) []byte {
	outer := uint64(v2Tags)
	if e.DeprecatedTags {
		outer = v2DeprecatedTags
	}
	dst, at := open(dst, outer)
	return shut(e.tagValue(appendText(dst, mapKey, key), value), at)
}

// tagValue appends the value of a tag, which deprecated_tags wrap once more.
func (e *Encoder) tagValue(dst, value []byte) []byte {
	if !e.DeprecatedTags {
		return appendText(dst, mapValue, value)
	}
	dst, at := open(dst, mapValue)
	return shut(appendText(dst, valueText, value), at)
}

// put appends the tag of a name. Most tags are short, and their lengths known
// beforehand.
func (e *Encoder) put(dst []byte, n name, value []byte) []byte {
	key := names[n]
	if size := 4 + len(key) + len(value); size < 0x80 && !e.DeprecatedTags && utf8.Valid(value) {
		dst = append(dst, v2Tags, byte(size), mapKey, byte(len(key)))
		dst = append(dst, key...)
		dst = append(dst, mapValue, byte(len(value)))
		return append(dst, value...)
	}
	outer := uint64(v2Tags)
	if e.DeprecatedTags {
		outer = v2DeprecatedTags
	}
	dst, at := open(dst, outer)
	return shut(e.tagValue(appendBytes(dst, mapKey, names[n]), value), at)
}

// baseTags appends the tags that every envelope has, even if empty.
func (e *Encoder) baseTags(dst []byte) []byte {
	m := &e.v1
	dst = e.put(dst, origin, m.origin.of(e.env))
	dst = e.put(dst, deployment, m.deployment.of(e.env))
	dst = e.put(dst, job, m.job.of(e.env))
	dst = e.put(dst, index, m.index.of(e.env))
	dst = e.put(dst, ip, m.ip.of(e.env))
	return e.put(dst, eventType, e.enum(eventTypes, m.kind))
}

// enum returns the name of a number as text, good until the next call.
func (e *Encoder) enum(enum []string, number int32) []byte {
	e.text = appendEnum(e.text[:0], enum, number)
	return e.text
}

func (e *Encoder) log(dst []byte) []byte {
	v := &e.v1.event
	dst = e.put(dst, sourceType, v.text[5].of(e.env))
	return appendLog(dst, v.text[1].of(e.env), int32(v.number[2]) == messageErr)
}

func (e *Encoder) errorLog(dst []byte) []byte {
	v := &e.v1.event
	dst = e.put(dst, source, v.text[1].of(e.env))
	dst = e.put(dst, code, e.decimal(int64(int32(v.number[2]))))
	return appendLog(dst, v.text[3].of(e.env), false)
}

func appendLog(dst, payload []byte, stderr bool) []byte {
	dst, at := open(dst, v2Log)
	if len(payload) > 0 {
		dst = appendBytes(dst, logPayload, payload)
	}
	if stderr {
		dst = appendNumber(dst, logType, 1)
	}
	return shut(dst, at)
}

func (e *Encoder) timer(dst []byte) []byte {
	v := &e.v1.event
	e.text = v.uuids[3].appendText(e.text[:0])
	dst = e.put(dst, requestID, e.text)
	dst = e.put(dst, peerType, e.enum(peerTypes, int32(v.number[4])))
	dst = e.put(dst, method, e.enum(methods, int32(v.number[5])))
	dst = e.put(dst, uri, v.text[6].of(e.env))
	dst = e.put(dst, remoteAddress, v.text[7].of(e.env))
	dst = e.put(dst, userAgent, v.text[8].of(e.env))
	dst = e.put(dst, statusCode, e.decimal(int64(int32(v.number[9]))))
	dst = e.put(dst, contentLength, e.decimal(int64(v.number[10])))
	dst = e.put(dst, routingInstanceID, v.text[14].of(e.env))
	dst = e.put(dst, forwarded, e.joinForwarded())
	dst, at := open(dst, v2Timer)
	dst = appendBytes(dst, timerName, "http")
	dst = appendNotZero(dst, timerStart, v.number[1])
	dst = appendNotZero(dst, timerStop, v.number[2])
	return shut(dst, at)
}

// joinForwarded returns all of forwarded, a line each, good until the next
// call.
func (e *Encoder) joinForwarded() []byte {
	e.text = e.text[:0]
	for i, s := range e.v1.event.forwarded {
		if i > 0 {
			e.text = append(e.text, '\n')
		}
		e.text = append(e.text, s.of(e.env)...)
	}
	return e.text
}

func appendNotZero(dst []byte, key, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return appendNumber(dst, key, v)
}

func (e *Encoder) counter(dst []byte) []byte {
	v := &e.v1.event
	dst, at := open(dst, v2Counter)
	dst = appendNotEmpty(dst, counterName, v.text[1].of(e.env))
	dst = appendNotZero(dst, counterDelta, v.number[2])
	dst = appendNotZero(dst, counterTotal, v.number[3])
	return shut(dst, at)
}

func (e *Encoder) valueGauge(dst []byte) []byte {
	v := &e.v1.event
	dst, at := open(dst, v2Gauge)
	dst = appendMetric(dst, v.text[1].of(e.env), v.text[3].of(e.env), v.number[2])
	return shut(dst, at)
}

func (e *Encoder) containerGauge(dst []byte) []byte {
	v := &e.v1.event
	dst, at := open(dst, v2Gauge)
	dst = appendMetric(dst, []byte("cpu"), []byte("percentage"), v.number[3])
	dst = appendAmount(dst, "memory", v.number[4])
	dst = appendAmount(dst, "disk", v.number[5])
	dst = appendAmount(dst, "memory_quota", v.number[6])
	dst = appendAmount(dst, "disk_quota", v.number[7])
	return shut(dst, at)
}

// appendAmount appends a metric of bytes. As a double it is not exact beyond
// 2^53.
func appendAmount(dst []byte, name string, v uint64) []byte {
	return appendMetric(dst, []byte(name), []byte("bytes"), math.Float64bits(float64(v)))
}

// appendMetric appends an entry of a gauge; bits are those of its value.
func appendMetric(dst, name, unit []byte, bits uint64) []byte {
	dst, entry := open(dst, gaugeMetrics)
	dst = appendText(dst, mapKey, name)
	dst, value := open(dst, mapValue)
	dst = appendNotEmpty(dst, gaugeUnit, unit)
	if bits != 0 {
		dst = appendFixed64(dst, gaugeNumber, bits)
	}
	return shut(shut(dst, value), entry)
}
