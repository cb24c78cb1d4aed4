package dropsonde

// v1Fields are the fields of a v1 envelope besides timestamp and tags.
type v1Fields struct {
	origin, deployment, job, index, ip span

	kind   int32 // event type
	typed  bool  // it has one
	events []field
	event  v1Event
}

// v1Event is the event of an envelope: what it has under each field number.
type v1Event struct {
	number    [16]uint64
	text      [16]span
	uuids     [16]uuid
	forwarded []span
}

// Types of an event's fields: the type on the wire, and two that need more.
// They count from 1, for 0 is no field.
const (
	varintField = 1 + iota
	fixed64Field
	bytesField
	uuidField
	linesField
)

// kinds are the events by number, and their fields by number.
var kinds = [...]struct {
	key    uint64
	fields [16]uint8
}{
	typeHTTPStartStop: {v1HTTPStartStop, [16]uint8{
		1: varintField, 2: varintField, 3: uuidField, 4: varintField, 5: varintField, 6: bytesField, 7: bytesField,
		8: bytesField, 9: varintField, 10: varintField, 12: uuidField, 13: varintField, 14: bytesField, 15: linesField,
	}},
	typeLogMessage: {v1LogMessage, [16]uint8{
		1: bytesField, 2: varintField, 3: varintField, 4: bytesField, 5: bytesField, 6: bytesField,
	}},
	typeValueMetric:  {v1ValueMetric, [16]uint8{1: bytesField, 2: fixed64Field, 3: bytesField}},
	typeCounterEvent: {v1CounterEvent, [16]uint8{1: bytesField, 2: varintField, 3: varintField}},
	typeError:        {v1Error, [16]uint8{1: bytesField, 2: varintField, 3: bytesField}},
	typeContainerMetric: {v1ContainerMetric, [16]uint8{
		1: bytesField, 2: varintField, 3: fixed64Field, 4: varintField, 5: varintField, 6: varintField, 7: varintField,
	}},
}

// readV1 reads an envelope.
func (e *Encoder) readV1() error {
	e.v1 = v1Fields{events: e.v1.events[:0], event: v1Event{forwarded: e.v1.event.forwarded[:0]}}
	b := e.env
	for i := 0; i < len(b); {
		var f field
		if f, i = nextV1(b, i); i < 0 || !e.fieldV1(f) {
			return ErrMalformed
		}
	}
	if !e.v1.typed {
		return ErrNoType
	}
	return e.readEvents()
}

// nextV1 is next, faster for what there is most of: short tags.
func nextV1(b []byte, i int) (f field, end int) {
	const first, second = v1Tags&0x7f | 0x80, v1Tags >> 7
	if len(b)-i < 3 || b[i] != first || b[i+1] != second || b[i+2] >= 0x80 {
		return next(b, i)
	}
	f.key, f.start, f.end = v1Tags, i+3, i+3+int(b[i+2])
	if f.end > len(b) {
		return f, bad
	}
	return f, f.end
}

func (e *Encoder) fieldV1(f field) bool {
	m := &e.v1
	switch f.key {
	case v1Tags:
		return e.tags.read(e.env, f.span)
	case v1Origin:
		m.origin = f.span
	case v1EventType:
		m.kind, m.typed = int32(f.value), true
	case v1Timestamp:
		e.timestamp = int64(f.value)
	case v1Deployment:
		m.deployment = f.span
	case v1Job:
		m.job = f.span
	case v1Index:
		m.index = f.span
	case v1IP:
		m.ip = f.span
	case v1HTTPStartStop, v1LogMessage, v1ValueMetric, v1CounterEvent, v1Error, v1ContainerMetric:
		m.events = append(m.events, f)
	}
	return true
}

// readEvents reads the event that the event type names. When it comes more
// than once the later is merged into the earlier.
func (e *Encoder) readEvents() error {
	m := &e.v1
	if m.kind == typeHTTPStartStop {
		m.event.number[4], m.event.number[5] = 1, 1 // defaults: Client, GET
	}
	for _, f := range m.events {
		if !m.event.read(e.env, f, m.kind) {
			return ErrMalformed
		}
	}
	return nil
}

// read reads an event if it is of this kind; of any other it only finds out
// whether it is well-formed.
func (v *v1Event) read(b []byte, event field, kind int32) bool {
	match := kind > 0 && int(kind) < len(kinds) && kinds[kind].key == event.key
	for i := event.start; i < event.end; {
		var f field
		if f, i = next(b[:event.end], i); i < 0 {
			return false
		}
		if n := f.key >> 3; match && n < 16 && !v.set(b, n, kinds[kind].fields[n], f) {
			return false
		}
	}
	return true
}

// set takes a field of the event; one of another type than it should have is
// unknown, and left.
func (v *v1Event) set(b []byte, n uint64, kind uint8, f field) bool {
	wire := f.key & 7
	switch {
	case kind == varintField && wire == wireVarint, kind == fixed64Field && wire == wireFixed64:
		v.number[n] = f.value
	case kind == bytesField && wire == wireBytes:
		v.text[n] = f.span
	case kind == linesField && wire == wireBytes:
		v.forwarded = append(v.forwarded, f.span)
	case kind == uuidField && wire == wireBytes:
		return v.uuids[n].read(b, f.span)
	}
	return true
}

// read reads the v1 message UUID over the one before.
func (u *uuid) read(b []byte, s span) bool {
	for i := s.start; i < s.end; {
		var f field
		if f, i = next(b[:s.end], i); i < 0 {
			return false
		}
		switch f.key {
		case 1<<3 | wireVarint:
			u.low = f.value
		case 2<<3 | wireVarint:
			u.high = f.value
		}
	}
	return true
}
