package dropsonde

import (
	"bytes"
	"math"
)

// AppendV1 appends what v1 clients get of a v2 envelope, and for each v1
// envelope the end of it in dst to ends. Mostly it is one; an event, an
// envelope without message, an empty gauge and what is not an envelope give
// none, and a gauge one for each metric unless it is that of a container. v2
// has passed the scanner of package envelope: strings are not checked again.
// It is only read, is not kept, and must not overlap the free space of dst.
//
// Tags keep the order they have in v2, deprecated ones follow, source_id is
// the last. A key that is there twice in v2 may be there twice in v1; the last
// counts in both.
func (e *Encoder) AppendV1(dst []byte, ends []int, v2 []byte) ([]byte, []int) {
	e.reset(v2)
	if e.readV2() {
		dst, ends = e.message(dst, ends)
	}
	e.reset(nil)
	return dst, ends
}

func (e *Encoder) message(dst []byte, ends []int) ([]byte, []int) {
	switch e.v2.message {
	case v2Log:
		if string(e.value(eventType)) == "Error" {
			dst = e.errorEvent(dst)
		} else {
			dst = e.logMessage(dst)
		}
	case v2Counter:
		dst = e.counterEvent(dst)
	case v2Timer:
		dst = e.httpStartStop(dst)
	case v2Gauge:
		return e.gauge(dst, ends)
	default:
		return dst, ends
	}
	return dst, append(ends, len(dst))
}

// begin appends the fields in front of the event.
func (e *Encoder) begin(dst []byte, kind uint64) []byte {
	return appendHead(dst, e.value(origin), kind, e.timestamp)
}

func appendHead[T []byte | string](dst []byte, from T, kind uint64, timestamp int64) []byte {
	dst = appendBytes(dst, v1Origin, from)
	dst = appendNumber(dst, v1EventType, kind)
	return appendNumber(dst, v1Timestamp, uint64(timestamp))
}

// finish appends the fields behind the event. Tags of the names in without are
// left out.
func (e *Encoder) finish(dst []byte, without nameSet) []byte {
	dst = appendBytes(dst, v1Deployment, e.value(deployment))
	dst = appendBytes(dst, v1Job, e.value(job))
	dst = appendBytes(dst, v1Index, e.value(index))
	dst = appendBytes(dst, v1IP, e.value(ip))
	from := e.v2.source.of(e.env)
	if len(from) > 0 {
		without |= 1 << sourceID
	}
	without |= baseNames
	dst = appendTags(dst, e.env, e.tags.list, without)
	dst = appendTags(dst, e.text, e.v2.old.list, without)
	if len(from) > 0 {
		dst = appendTag(dst, v1Tags, names[sourceID], from)
	}
	return dst
}

// finishMetric is finish for a counter or a metric, whose instance id becomes
// a tag.
func (e *Encoder) finishMetric(dst []byte) []byte {
	id := e.v2.instance.of(e.env)
	if len(id) == 0 {
		return e.finish(dst, 0)
	}
	dst = appendTag(dst, v1Tags, names[instanceID], id)
	return e.finish(dst, 1<<instanceID)
}

// appendTags copies entries of a map of strings. They are the same in both
// protocols.
func appendTags(dst, b []byte, tags []tag, without nameSet) []byte {
	for i := range tags {
		if t := &tags[i]; !t.none && !without.has(t.name) {
			dst = appendBytes(dst, v1Tags, t.entry.of(b))
		}
	}
	return dst
}

func appendTag(dst []byte, key uint64, name string, value []byte) []byte {
	dst, at := open(dst, key)
	dst = appendBytes(dst, mapKey, name)
	dst = appendBytes(dst, mapValue, value)
	return shut(dst, at)
}

func (e *Encoder) logMessage(dst []byte) []byte {
	kind := uint64(messageErr)
	if e.v2.severity == 0 {
		kind = messageOut
	}
	dst = e.begin(dst, typeLogMessage)
	dst, at := open(dst, v1LogMessage)
	dst = appendBytes(dst, 1<<3|wireBytes, e.v2.payload.of(e.env)) // also when empty: it is required
	dst = appendNumber(dst, 2<<3|wireVarint, kind)
	dst = appendNumber(dst, 3<<3|wireVarint, uint64(e.timestamp))
	dst = appendBytes(dst, 4<<3|wireBytes, e.v2.source.of(e.env))
	dst = appendBytes(dst, 5<<3|wireBytes, e.value(sourceType))
	dst = appendBytes(dst, 6<<3|wireBytes, e.v2.instance.of(e.env))
	return e.finish(shut(dst, at), 1<<sourceType)
}

func (e *Encoder) errorEvent(dst []byte) []byte {
	number := int32(parseInt(e.value(code), 64))
	dst = e.begin(dst, typeError)
	dst, at := open(dst, v1Error)
	dst = appendBytes(dst, 1<<3|wireBytes, e.value(source))
	dst = appendNumber(dst, 2<<3|wireVarint, uint64(number))
	dst = appendBytes(dst, 3<<3|wireBytes, e.v2.payload.of(e.env))
	return e.finish(shut(dst, at), errorNames)
}

func (e *Encoder) counterEvent(dst []byte) []byte {
	dst = e.begin(dst, typeCounterEvent)
	dst, at := open(dst, v1CounterEvent)
	dst = appendBytes(dst, 1<<3|wireBytes, e.v2.name.of(e.env))
	dst = appendNumber(dst, 2<<3|wireVarint, e.v2.delta)
	dst = appendNumber(dst, 3<<3|wireVarint, e.v2.total)
	return e.finishMetric(shut(dst, at))
}

func (e *Encoder) httpStartStop(dst []byte) []byte {
	request, _ := parseUUID(e.value(requestID)) // zeros rather than nothing: it is required
	dst = e.begin(dst, typeHTTPStartStop)
	dst, at := open(dst, v1HTTPStartStop)
	dst = appendNumber(dst, 1<<3|wireVarint, uint64(e.v2.start))
	dst = appendNumber(dst, 2<<3|wireVarint, uint64(e.v2.stop))
	dst = appendUUID(dst, 3<<3|wireBytes, request)
	dst = appendNumber(dst, 4<<3|wireVarint, enumNumber(peerTypes, e.value(peerType)))
	dst = appendNumber(dst, 5<<3|wireVarint, enumNumber(methods, e.value(method)))
	dst = appendBytes(dst, 6<<3|wireBytes, e.value(uri))
	dst = appendBytes(dst, 7<<3|wireBytes, e.value(remoteAddress))
	dst = appendBytes(dst, 8<<3|wireBytes, e.value(userAgent))
	dst = appendNumber(dst, 9<<3|wireVarint, uint64(int32(parseInt(e.value(statusCode), 64))))
	dst = appendNumber(dst, 10<<3|wireVarint, uint64(parseInt(e.value(contentLength), 64)))
	if app, ok := parseUUID(e.v2.source.of(e.env)); ok {
		dst = appendUUID(dst, 12<<3|wireBytes, app)
	}
	dst = appendNumber(dst, 13<<3|wireVarint, uint64(parseInt(e.v2.instance.of(e.env), 32)))
	dst = appendBytes(dst, 14<<3|wireBytes, e.value(routingInstanceID))
	dst = appendLines(dst, 15<<3|wireBytes, e.value(forwarded))
	return e.finish(shut(dst, at), httpNames)
}

// appendLines appends a field for each line, one when there is nothing.
func appendLines(dst []byte, key uint64, s []byte) []byte {
	for {
		line, rest, more := bytes.Cut(s, []byte{'\n'})
		dst = appendBytes(dst, key, line)
		if !more {
			return dst
		}
		s = rest
	}
}

// maxGauge bounds in bytes what one gauge becomes. Each of its ValueMetrics
// repeats all tags, so that an envelope of a mebibyte could become gigabytes.
const maxGauge = 16 << 20

// gauge appends one ContainerMetric or a ValueMetric for each metric.
func (e *Encoder) gauge(dst []byte, ends []int) ([]byte, []int) {
	if c, ok := e.container(); ok {
		dst = e.containerMetric(dst, c)
		return dst, append(ends, len(dst))
	}
	begin, end := len(dst), len(dst)
	for _, m := range e.v2.metrics {
		if dst = e.valueMetric(dst, m); len(dst)-begin > maxGauge {
			return dst[:end], ends
		}
		end = len(dst)
		ends = append(ends, end)
	}
	return dst, ends
}

func (e *Encoder) valueMetric(dst []byte, m metric) []byte {
	dst = e.begin(dst, typeValueMetric)
	dst, at := open(dst, v1ValueMetric)
	dst = appendBytes(dst, 1<<3|wireBytes, m.name.of(e.env))
	dst = appendFixed64(dst, 2<<3|wireFixed64, math.Float64bits(m.value))
	dst = appendBytes(dst, 3<<3|wireBytes, m.unit.of(e.env))
	return e.finishMetric(shut(dst, at))
}

// container is a gauge of the shape that becomes a ContainerMetric.
type container struct {
	cpu, memory, disk, memoryQuota, diskQuota float64
	index                                     int32
}

// container reports whether all five metrics of a container are there, each
// with a unit or a value.
func (e *Encoder) container() (c container, ok bool) {
	c.index = int32(parseInt(e.v2.instance.of(e.env), 32))
	found := 0
	for _, m := range e.v2.metrics {
		name := m.name.of(e.env)
		if string(name) == "instance_index" {
			c.index = toInt32(m.value)
		}
		if place := c.place(name); place != nil && (m.unit.start < m.unit.end || m.value != 0) {
			*place = m.value
			found++
		}
	}
	return c, found == 5
}

func (c *container) place(name []byte) *float64 {
	switch string(name) {
	case "cpu":
		return &c.cpu
	case "memory":
		return &c.memory
	case "disk":
		return &c.disk
	case "memory_quota":
		return &c.memoryQuota
	case "disk_quota":
		return &c.diskQuota
	}
	return nil
}

func (e *Encoder) containerMetric(dst []byte, c container) []byte {
	dst = e.begin(dst, typeContainerMetric)
	dst, at := open(dst, v1ContainerMetric)
	dst = appendBytes(dst, 1<<3|wireBytes, e.v2.source.of(e.env))
	dst = appendNumber(dst, 2<<3|wireVarint, uint64(c.index))
	dst = appendFixed64(dst, 3<<3|wireFixed64, math.Float64bits(c.cpu))
	dst = appendNumber(dst, 4<<3|wireVarint, toUint64(c.memory))
	dst = appendNumber(dst, 5<<3|wireVarint, toUint64(c.disk))
	dst = appendNumber(dst, 6<<3|wireVarint, toUint64(c.memoryQuota))
	dst = appendNumber(dst, 7<<3|wireVarint, toUint64(c.diskQuota))
	return e.finish(shut(dst, at), 0)
}
