package dropsonde

// Keys of fields, from protocol/01-protobuf.md.

// Of a v2 Envelope.
const (
	v2Timestamp      = 1<<3 | wireVarint
	v2Source         = 2<<3 | wireBytes
	v2DeprecatedTags = 3<<3 | wireBytes
	v2Log            = 4<<3 | wireBytes
	v2Counter        = 5<<3 | wireBytes
	v2Gauge          = 6<<3 | wireBytes
	v2Timer          = 7<<3 | wireBytes
	v2Instance       = 8<<3 | wireBytes
	v2Tags           = 9<<3 | wireBytes
	v2Event          = 10<<3 | wireBytes
)

// Of the messages in it.
const (
	logPayload   = 1<<3 | wireBytes
	logType      = 2<<3 | wireVarint
	counterName  = 1<<3 | wireBytes
	counterDelta = 2<<3 | wireVarint
	counterTotal = 3<<3 | wireVarint
	gaugeMetrics = 1<<3 | wireBytes
	gaugeUnit    = 1<<3 | wireBytes
	gaugeNumber  = 2<<3 | wireFixed64
	timerName    = 1<<3 | wireBytes
	timerStart   = 2<<3 | wireVarint
	timerStop    = 3<<3 | wireVarint
	valueText    = 1<<3 | wireBytes
	valueInteger = 2<<3 | wireVarint
	valueDecimal = 3<<3 | wireFixed64
	mapKey       = 1<<3 | wireBytes
	mapValue     = 2<<3 | wireBytes
)

// Of a v1 Envelope.
const (
	v1Origin          = 1<<3 | wireBytes
	v1EventType       = 2<<3 | wireVarint
	v1Timestamp       = 6<<3 | wireVarint
	v1HTTPStartStop   = 7<<3 | wireBytes
	v1LogMessage      = 8<<3 | wireBytes
	v1ValueMetric     = 9<<3 | wireBytes
	v1CounterEvent    = 10<<3 | wireBytes
	v1Error           = 11<<3 | wireBytes
	v1ContainerMetric = 12<<3 | wireBytes
	v1Deployment      = 13<<3 | wireBytes
	v1Job             = 14<<3 | wireBytes
	v1Index           = 15<<3 | wireBytes
	v1IP              = 16<<3 | wireBytes
	v1Tags            = 17<<3 | wireBytes
)

// Values of a v1 Envelope.EventType.
const (
	typeHTTPStartStop   = 4
	typeLogMessage      = 5
	typeValueMetric     = 6
	typeCounterEvent    = 7
	typeError           = 8
	typeContainerMetric = 9
)

// Values of a v1 LogMessage.MessageType.
const (
	messageOut = 1
	messageErr = 2
)
