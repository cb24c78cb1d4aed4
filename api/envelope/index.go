package envelope

// Keys of the fields we look at, in whichever message they are.
const (
	keyTimestamp      = 1<<3 | wireVarint
	keySource         = 2<<3 | wireBytes
	keyDeprecatedTags = 3<<3 | wireBytes
	keyLog            = 4<<3 | wireBytes
	keyCounter        = 5<<3 | wireBytes
	keyGauge          = 6<<3 | wireBytes
	keyTimer          = 7<<3 | wireBytes
	keyInstance       = 8<<3 | wireBytes
	keyTags           = 9<<3 | wireBytes
	keyEvent          = 10<<3 | wireBytes

	keyMapKey   = 1<<3 | wireBytes
	keyMapValue = 2<<3 | wireBytes

	keyPayload = 1<<3 | wireBytes // Log
	keyName    = 1<<3 | wireBytes // Counter, Timer
	keyTitle   = 1<<3 | wireBytes // Event
	keyBody    = 2<<3 | wireBytes // Event
	keyMetrics = 1<<3 | wireBytes // Gauge
	keyUnit    = 1<<3 | wireBytes // GaugeValue
	keyNumber  = 2<<3 | wireFixed64

	keyText    = 1<<3 | wireBytes // Value
	keyInteger = 2<<3 | wireVarint
	keyDecimal = 3<<3 | wireFixed64
)

const (
	typeTag   = "__v1_type"
	typeError = "Error"
	httpName  = "http"
)

// index is what is known of an envelope after the fields read so far. Fields
// may come in any order and any number of times; each method applies one the
// way protobuf-go merges it.
type index struct {
	timestamp         int64
	source, sourceEnd int // bounds of the source id

	message uint64 // key of the oneof member that is set, 0 for none
	http    bool   // the timer in message has the name of HTTP timers
	metrics uint8  // metricBits of the gauge in message that count
	names   uint64 // sum of the hashes of the names in message

	tagged          bool // tags has typeTag, so that deprecated_tags do not matter
	tagError        bool // and it says typeError
	deprecatedError bool // deprecated_tags has typeTag and it says typeError
}

// class returns the class of the envelope after its last field.
func (x *index) class() Class {
	switch x.message {
	case keyLog:
		if x.tagError || x.deprecatedError && !x.tagged {
			return ErrorLog
		}
		return Log
	case keyGauge:
		if x.metrics == containerShape {
			return ContainerGauge
		}
		return Gauge
	case keyTimer:
		if x.http {
			return HTTPTimer
		}
		return Timer
	case keyCounter:
		return Counter
	case keyEvent:
		return Event
	}
	return None
}

// field reads one field of an envelope.
func (x *index) field(b []byte, i int) int {
	k, i := key(b, i)
	if i < 0 {
		return bad
	}
	switch k {
	case keyTimestamp:
		var v uint64
		v, i = varint(b, i)
		x.timestamp = int64(v)
		return i
	case keySource:
		x.source, x.sourceEnd = text(b, i)
		return x.sourceEnd
	case keyInstance:
		_, i = text(b, i)
		return i
	case keyTags, keyDeprecatedTags, keyLog, keyCounter, keyGauge, keyTimer, keyEvent:
		start, end := chunk(b, i)
		if end < 0 || !x.nested(b[:end], start, k) {
			return bad
		}
		return end
	}
	return skip(b, i, k)
}

// nested reads the message of field k, which reaches from i to the end of b.
func (x *index) nested(b []byte, i int, k uint64) bool {
	switch k {
	case keyTags:
		return x.tag(b, i)
	case keyDeprecatedTags:
		return x.deprecatedTag(b, i)
	}
	x.set(k)
	switch k {
	case keyCounter:
		return x.counter(b, i)
	case keyGauge:
		return x.gauge(b, i)
	case keyTimer:
		return x.timer(b, i)
	case keyEvent:
		return event(b, i)
	}
	return log(b, i)
}

// set makes k the member of the oneof that is set; another one is forgotten.
func (x *index) set(k uint64) {
	if x.message != k {
		x.message, x.http, x.metrics, x.names = k, false, 0, 0
	}
}

// tag reads an entry of tags.
func (x *index) tag(b []byte, i int) bool {
	var name, value []byte
	for i < len(b) {
		var k uint64
		var start int
		switch k, i = key(b, i); {
		case i < 0:
			return false
		case k == keyMapKey:
			if start, i = text(b, i); i < 0 {
				return false
			}
			name = b[start:i]
		case k == keyMapValue:
			if start, i = text(b, i); i < 0 {
				return false
			}
			value = b[start:i]
		default:
			if i = skip(b, i, k); i < 0 {
				return false
			}
		}
	}
	if string(name) == typeTag {
		x.tagged, x.tagError = true, string(value) == typeError
	}
	return true
}

// deprecatedTag reads an entry of deprecated_tags.
func (x *index) deprecatedTag(b []byte, i int) bool {
	var name []byte
	var isError bool
	for i < len(b) {
		var k uint64
		var start int
		switch k, i = key(b, i); {
		case i < 0:
			return false
		case k == keyMapKey:
			if start, i = text(b, i); i < 0 {
				return false
			}
			name = b[start:i]
		case k == keyMapValue:
			if start, i = chunk(b, i); i < 0 || !value(b[:i], start, &isError) {
				return false
			}
		default:
			if i = skip(b, i, k); i < 0 {
				return false
			}
		}
	}
	if string(name) == typeTag {
		x.deprecatedError = isError
	}
	return true
}

// value reads a Value and merges it into what is known of it: whether it is
// the text typeError. A number never prints as that.
func value(b []byte, i int, isError *bool) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		if k == keyText {
			var start int
			if start, i = text(b, i); i < 0 {
				return false
			}
			*isError = string(b[start:i]) == typeError
			continue
		}
		if k == keyInteger || k == keyDecimal {
			*isError = false
		}
		if i = skip(b, i, k); i < 0 {
			return false
		}
	}
	return true
}

// log reads a Log. Neither its payload nor its type matters to the index.
func log(b []byte, i int) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		if i = skip(b, i, k); i < 0 {
			return false
		}
	}
	return true
}

// counter reads a Counter.
func (x *index) counter(b []byte, i int) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		if k == keyName {
			var start int
			if start, i = text(b, i); i >= 0 {
				x.names = hashName(b[start:i])
			}
		} else {
			i = skip(b, i, k)
		}
		if i < 0 {
			return false
		}
	}
	return true
}

// event reads an Event.
func event(b []byte, i int) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		if k == keyTitle || k == keyBody {
			_, i = text(b, i)
		} else {
			i = skip(b, i, k)
		}
		if i < 0 {
			return false
		}
	}
	return true
}

// timer reads a Timer and merges it into the one before.
func (x *index) timer(b []byte, i int) bool {
	for i < len(b) {
		var k uint64
		if k, i = key(b, i); i < 0 {
			return false
		}
		if k == keyName {
			var start int
			if start, i = text(b, i); i < 0 {
				return false
			}
			x.http = string(b[start:i]) == httpName
			continue
		}
		if i = skip(b, i, k); i < 0 {
			return false
		}
	}
	return true
}
