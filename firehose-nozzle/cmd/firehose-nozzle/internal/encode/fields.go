package encode

import (
	"bytes"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// fields is what one encoded envelope says, without a copy: slices of its
// bytes. It reads what protobuf-go reads: of a repeated field the last one
// counts, the same message again is merged, another message replaces it. The
// zero value is ready, and is used again and again.
type fields struct {
	timestamp int64
	source    []byte
	instance  []byte
	tags      []tag // sorted, each name once; from sort on also the typed ones
	typed     []typedTag

	kind    kind
	name    []byte // counter, timer; title of an event
	text    []byte // payload of a log, body of an event
	logType int32
	delta   uint64
	total   uint64
	start   int64
	stop    int64
	metrics []metric // sorted, each name once
}

type tag struct{ name, value []byte }

// typedTag is a tag of 2017 agents.
type typedTag struct {
	name    []byte
	is      dataKind
	text    []byte
	integer int64
	decimal float64
}

type dataKind uint8

const (
	dataNone dataKind = iota
	dataText
	dataInteger
	dataDecimal
)

type metric struct {
	name, unit []byte
	value      float64
}

// kind is the message of an envelope; the numbers are those of its field.
type kind protowire.Number

const (
	kindNone    kind = 0
	kindLog     kind = 4
	kindCounter kind = 5
	kindGauge   kind = 6
	kindTimer   kind = 7
	kindEvent   kind = 10
)

// String names the kind as selectors do.
func (k kind) String() string {
	switch k {
	case kindLog:
		return "log"
	case kindCounter:
		return "counter"
	case kindGauge:
		return "gauge"
	case kindTimer:
		return "timer"
	case kindEvent:
		return "event"
	}
	return "none"
}

// read sets f to what env says. It returns false when env is no envelope.
func (f *fields) read(env []byte) bool {
	*f = fields{tags: f.tags[:0], typed: f.typed[:0], metrics: f.metrics[:0]}
	if !eachField(env, f.field) {
		return false
	}
	f.tags = sortTags(f.tags)
	f.metrics = sortMetrics(f.metrics)
	f.addTyped()
	return true
}

func (f *fields) field(w wire) bool {
	switch {
	case w.is(1, protowire.VarintType):
		f.timestamp = int64(w.number)
	case w.is(2, protowire.BytesType):
		f.source = w.bytes
	case w.is(3, protowire.BytesType):
		return f.typedTag(w.bytes)
	case w.is(8, protowire.BytesType):
		f.instance = w.bytes
	case w.is(9, protowire.BytesType):
		return f.tag(w.bytes)
	case w.typ == protowire.BytesType:
		switch k := kind(w.num); k {
		case kindLog, kindCounter, kindGauge, kindTimer, kindEvent:
			f.begin(k)
			return eachField(w.bytes, f.messageField)
		}
	}
	return true
}

// begin forgets another message; the same one again is merged.
func (f *fields) begin(k kind) {
	if f.kind == k {
		return
	}
	f.kind, f.name, f.text, f.logType, f.metrics = k, nil, nil, 0, f.metrics[:0]
	f.delta, f.total, f.start, f.stop = 0, 0, 0, 0
}

func (f *fields) messageField(w wire) bool {
	switch f.kind {
	case kindLog:
		switch {
		case w.is(1, protowire.BytesType):
			f.text = w.bytes
		case w.is(2, protowire.VarintType):
			f.logType = int32(w.number)
		}
	case kindCounter:
		switch {
		case w.is(1, protowire.BytesType):
			f.name = w.bytes
		case w.is(2, protowire.VarintType):
			f.delta = w.number
		case w.is(3, protowire.VarintType):
			f.total = w.number
		}
	case kindGauge:
		if w.is(1, protowire.BytesType) {
			return f.metric(w.bytes)
		}
	case kindTimer:
		switch {
		case w.is(1, protowire.BytesType):
			f.name = w.bytes
		case w.is(2, protowire.VarintType):
			f.start = int64(w.number)
		case w.is(3, protowire.VarintType):
			f.stop = int64(w.number)
		}
	case kindEvent:
		switch {
		case w.is(1, protowire.BytesType):
			f.name = w.bytes
		case w.is(2, protowire.BytesType):
			f.text = w.bytes
		}
	}
	return true
}

// tag reads an entry of the tags.
func (f *fields) tag(b []byte) bool {
	// Nearly always: name, then value, both shorter than 128 bytes.
	if len(b) > 3 && b[0] == 1<<3|2 && b[1] < 0x80 {
		if n := 2 + int(b[1]); n+1 < len(b) && b[n] == 2<<3|2 && b[n+1] < 0x80 && n+2+int(b[n+1]) == len(b) {
			f.tags = append(f.tags, tag{b[2:n:n], b[n+2:]})
			return true
		}
	}
	var t tag
	ok := eachField(b, func(w wire) bool {
		switch {
		case w.is(1, protowire.BytesType):
			t.name = w.bytes
		case w.is(2, protowire.BytesType):
			t.value = w.bytes
		}
		return true
	})
	f.tags = append(f.tags, t)
	return ok
}

func (f *fields) typedTag(b []byte) bool {
	var t typedTag
	ok := eachField(b, func(w wire) bool {
		switch {
		case w.is(1, protowire.BytesType):
			t.name = w.bytes
		case w.is(2, protowire.BytesType):
			return eachField(w.bytes, t.value)
		}
		return true
	})
	f.typed = append(f.typed, t)
	return ok
}

func (t *typedTag) value(w wire) bool {
	switch {
	case w.is(1, protowire.BytesType):
		t.is, t.text = dataText, w.bytes
	case w.is(2, protowire.VarintType):
		t.is, t.integer = dataInteger, int64(w.number)
	case w.is(3, protowire.Fixed64Type):
		t.is, t.decimal = dataDecimal, math.Float64frombits(w.number)
	}
	return true
}

func (f *fields) metric(b []byte) bool {
	var m metric
	ok := eachField(b, func(w wire) bool {
		switch {
		case w.is(1, protowire.BytesType):
			m.name = w.bytes
		case w.is(2, protowire.BytesType):
			return eachField(w.bytes, m.field)
		}
		return true
	})
	f.metrics = append(f.metrics, m)
	return ok
}

func (m *metric) field(w wire) bool {
	switch {
	case w.is(1, protowire.BytesType):
		m.unit = w.bytes
	case w.is(2, protowire.Fixed64Type):
		m.value = math.Float64frombits(w.number)
	}
	return true
}

// addTyped adds the typed tags, as text, where no tag has the same name.
func (f *fields) addTyped() {
	if len(f.typed) == 0 {
		return
	}
	slices.SortStableFunc(f.typed, func(a, b typedTag) int { return bytes.Compare(a.name, b.name) })
	now := f.tags
	for i := range f.typed {
		t := &f.typed[i]
		if i+1 < len(f.typed) && bytes.Equal(t.name, f.typed[i+1].name) {
			continue // the later one counts
		}
		_, taken := slices.BinarySearchFunc(now, t.name, func(g tag, name []byte) int { return bytes.Compare(g.name, name) })
		if !taken && t.is != dataNone {
			f.tags = append(f.tags, tag{t.name, t.appendText(nil)})
		}
	}
	f.tags = sortTags(f.tags)
}

// appendText appends the value as text.
func (t *typedTag) appendText(dst []byte) []byte {
	switch t.is {
	case dataText:
		return append(dst, t.text...)
	case dataInteger:
		return strconv.AppendInt(dst, t.integer, 10)
	case dataDecimal:
		return strconv.AppendFloat(dst, t.decimal, 'g', -1, 64)
	}
	return dst
}

// sortTags sorts by name; of one name the last remains.
func sortTags(tags []tag) []tag {
	// Producers that sort their tags are the rule.
	sorted := true
	for i := 1; i < len(tags) && sorted; i++ {
		sorted = bytes.Compare(tags[i-1].name, tags[i].name) < 0
	}
	if sorted {
		return tags
	}
	slices.SortStableFunc(tags, func(a, b tag) int { return bytes.Compare(a.name, b.name) })
	kept := tags[:0]
	for i, t := range tags {
		if i+1 == len(tags) || !bytes.Equal(t.name, tags[i+1].name) {
			kept = append(kept, t)
		}
	}
	return kept
}

func sortMetrics(metrics []metric) []metric {
	if len(metrics) < 2 {
		return metrics
	}
	slices.SortStableFunc(metrics, func(a, b metric) int { return bytes.Compare(a.name, b.name) })
	kept := metrics[:0]
	for i, m := range metrics {
		if i+1 == len(metrics) || !bytes.Equal(m.name, metrics[i+1].name) {
			kept = append(kept, m)
		}
	}
	return kept
}

// wire is one field as it is on the wire.
type wire struct {
	num    protowire.Number
	typ    protowire.Type
	number uint64 // of a varint or a fixed64
	bytes  []byte
}

func (w *wire) is(num protowire.Number, typ protowire.Type) bool { return w.num == num && w.typ == typ }

// eachField visits the fields of a message until visit returns false. It
// returns false then, and when b is no message.
func eachField(b []byte, visit func(wire) bool) bool {
	for len(b) > 0 {
		var w wire
		var n int
		w.num, w.typ, n = protowire.ConsumeTag(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch w.typ {
		case protowire.VarintType:
			w.number, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			w.number, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			w.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(w.num, w.typ, b)
		}
		if n < 0 || !visit(w) {
			return false
		}
		b = b[n:]
	}
	return true
}
