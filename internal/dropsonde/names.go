package dropsonde

import "strconv"

// name is the name of a tag that has a meaning here, or other.
type name uint8

const (
	other name = iota
	origin
	deployment
	job
	index
	ip
	eventType
	sourceID
	instanceID
	sourceType
	source
	code
	peerType
	method
	requestID
	uri
	remoteAddress
	userAgent
	statusCode
	contentLength
	routingInstanceID
	forwarded
	numNames
)

var names = [numNames]string{
	origin:            "origin",
	deployment:        "deployment",
	job:               "job",
	index:             "index",
	ip:                "ip",
	eventType:         "__v1_type",
	sourceID:          "source_id",
	instanceID:        "instance_id",
	sourceType:        "source_type",
	source:            "source",
	code:              "code",
	peerType:          "peer_type",
	method:            "method",
	requestID:         "request_id",
	uri:               "uri",
	remoteAddress:     "remote_address",
	userAgent:         "user_agent",
	statusCode:        "status_code",
	contentLength:     "content_length",
	routingInstanceID: "routing_instance_id",
	forwarded:         "forwarded",
}

// nameOf looks a key up. A switch is faster than a map.
func nameOf(key []byte) name {
	switch string(key) {
	case "origin":
		return origin
	case "deployment":
		return deployment
	case "job":
		return job
	case "index":
		return index
	case "ip":
		return ip
	case "__v1_type":
		return eventType
	case "source_id":
		return sourceID
	case "instance_id":
		return instanceID
	case "source_type":
		return sourceType
	case "source":
		return source
	case "code":
		return code
	case "peer_type":
		return peerType
	case "method":
		return method
	case "request_id":
		return requestID
	case "uri":
		return uri
	case "remote_address":
		return remoteAddress
	case "user_agent":
		return userAgent
	case "status_code":
		return statusCode
	case "content_length":
		return contentLength
	case "routing_instance_id":
		return routingInstanceID
	case "forwarded":
		return forwarded
	}
	return other
}

// nameSet is a set of names, a bit each.
type nameSet uint32

func (s nameSet) has(n name) bool { return s>>n&1 != 0 }

const (
	// baseNames are fields of every v1 envelope, and tags of none.
	baseNames nameSet = 1<<origin | 1<<deployment | 1<<job | 1<<index | 1<<ip | 1<<eventType
	// errorNames, httpNames are those of one kind.
	errorNames nameSet = 1<<source | 1<<code
	httpNames  nameSet = 1<<peerType | 1<<method | 1<<requestID | 1<<uri | 1<<remoteAddress | 1<<userAgent |
		1<<statusCode | 1<<contentLength | 1<<routingInstanceID | 1<<forwarded
)

var eventTypes = []string{
	typeHTTPStartStop:   "HttpStartStop",
	typeLogMessage:      "LogMessage",
	typeValueMetric:     "ValueMetric",
	typeCounterEvent:    "CounterEvent",
	typeError:           "Error",
	typeContainerMetric: "ContainerMetric",
}

var peerTypes = []string{1: "Client", 2: "Server"}

var methods = []string{
	1: "GET", 2: "POST", 3: "PUT", 4: "DELETE", 5: "HEAD", 6: "ACL", 7: "BASELINE_CONTROL", 8: "BIND", 9: "CHECKIN",
	10: "CHECKOUT", 11: "CONNECT", 12: "COPY", 13: "DEBUG", 14: "LABEL", 15: "LINK", 16: "LOCK", 17: "MERGE",
	18: "MKACTIVITY", 19: "MKCALENDAR", 20: "MKCOL", 21: "MKREDIRECTREF", 22: "MKWORKSPACE", 23: "MOVE", 24: "OPTIONS",
	25: "ORDERPATCH", 26: "PATCH", 27: "PRI", 28: "PROPFIND", 29: "PROPPATCH", 30: "REBIND", 31: "REPORT",
	32: "SEARCH", 33: "SHOWMETHOD", 34: "SPACEJUMP", 35: "TEXTSEARCH", 36: "TRACE", 37: "TRACK", 38: "UNBIND",
	39: "UNCHECKOUT", 40: "UNLINK", 41: "UNLOCK", 42: "UPDATE", 43: "UPDATEREDIRECTREF", 44: "VERSION_CONTROL",
}

// enumNumber returns the number of an exact name, 0 for an unknown one.
func enumNumber(enum []string, s []byte) uint64 {
	if len(s) == 0 {
		return 0
	}
	for n, name := range enum {
		if name == string(s) {
			return uint64(n)
		}
	}
	return 0
}

// appendEnum appends the name of a number, or the number where it has none.
func appendEnum(dst []byte, enum []string, number int32) []byte {
	if number > 0 && int(number) < len(enum) && enum[number] != "" {
		return append(dst, enum[number]...)
	}
	return strconv.AppendInt(dst, int64(number), 10)
}
