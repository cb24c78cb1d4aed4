package envelope_test

import (
	"math"
	"strings"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// kindSamples are plain envelopes of each class.
func kindSamples() []sample {
	return []sample{
		{"empty", envelope.None, ""},
		{"no message", envelope.None, msg(num(1, 5), str(2, "app"), str(8, "0"), entry("a", "b"))},
		{"log", envelope.Log, msg(num(1, 1), str(2, "app"), logLine)},
		{"empty log", envelope.Log, str(4, "")},
		{"log payload is no text", envelope.Log, str(4, str(1, "\xff\xfe"))},
		{"error log", envelope.ErrorLog, msg(errTag, logLine)},
		{"error log, tag last", envelope.ErrorLog, msg(logLine, errTag)},
		{"error log by deprecated tag", envelope.ErrorLog, msg(oldErr, logLine)},
		{"tags win over deprecated", envelope.Log, msg(entry("__v1_type", "LogMessage"), oldErr, logLine)},
		{"empty tag wins too", envelope.Log, msg(oldErr, entry("__v1_type", ""), logLine)},
		{"tag without value wins too", envelope.Log, msg(oldErr, str(9, str(1, "__v1_type")), logLine)},
		{"error tag over other deprecated", envelope.ErrorLog, msg(old("__v1_type", num(2, 3)), errTag, logLine)},
		{"error tag on a counter", envelope.Counter, msg(errTag, str(5, ""))},
		{"counter", envelope.Counter, str(5, str(1, "requests")+num(2, 3)+num(3, math.MaxUint64))},
		{"gauge", envelope.Gauge, str(6, metric("cpu", "percentage", one)+metric("memory", "bytes", one))},
		{"empty gauge", envelope.Gauge, str(6, "")},
		{"container", envelope.ContainerGauge, str(6, container())},
		{"container with more", envelope.ContainerGauge, str(6, container()+metric("log_rate", "", 0))},
		{"container by unit", envelope.ContainerGauge, str(6, container(metric("cpu", "%", 0)))},
		{"container NaN", envelope.ContainerGauge, str(6, container(metric("cpu", "", math.Float64bits(math.NaN()))))},
		{"container minus zero", envelope.Gauge, str(6, container(metric("cpu", "", 1<<63)))},
		{"container zero", envelope.Gauge, str(6, container(metric("cpu", "", 0)))},
		{"container without disk quota", envelope.Gauge, str(6, container()[:len(container())-len(metric("disk_quota", "", one))])},
		{"container metric without value", envelope.Gauge, str(6, container(str(1, str(1, "cpu"))))},
		{"http timer", envelope.HTTPTimer, str(7, str(1, "http")+num(2, 1)+num(3, 2))},
		{"timer", envelope.Timer, str(7, str(1, "https")+num(2, math.MaxUint64))},
		{"timer without name", envelope.Timer, str(7, "")},
		{"event", envelope.Event, str(10, str(1, "title")+str(2, "body"))},
		{"long strings", envelope.Log, msg(str(2, strings.Repeat("s", 200)), entry(strings.Repeat("k", 127), strings.Repeat("v", 128)), logLine)},
		{"unicode", envelope.Log, msg(str(2, "ä"), str(8, "\u2028"), entry("日本", "🎉"), logLine)},
	}
}

// mergeSamples say a thing more than once.
func mergeSamples() []sample {
	return []sample{
		{"scalars twice", envelope.None, msg(num(1, 1), str(2, "a"), num(1, 2), str(2, "bb"))},
		{"source id taken back", envelope.None, msg(str(2, "a"), str(2, ""))},
		{"timestamp back to zero", envelope.None, msg(num(1, 7), num(1, 0))},
		{"last oneof member", envelope.Counter, msg(logLine, str(5, ""))},
		{"timer merged", envelope.HTTPTimer, msg(str(7, str(1, "http")), str(7, num(2, 1)))},
		{"timer renamed", envelope.Timer, msg(str(7, str(1, "http")), str(7, str(1, "")))},
		{"timer named within", envelope.HTTPTimer, str(7, str(1, "a")+num(2, 1)+str(1, "http"))},
		{"timer forgotten", envelope.Timer, msg(str(7, str(1, "http")), str(5, ""), str(7, ""))},
		{"timer kept by a mismatch", envelope.HTTPTimer, msg(str(7, str(1, "http")), num(5, 1), group(4), str(7, ""))},
		{"gauges merged", envelope.ContainerGauge, msg(str(6, metric("cpu", "", one)), str(6, container("")))},
		{"gauge forgotten", envelope.Gauge, msg(str(6, metric("cpu", "", one)), logLine, str(6, container("")))},
		{"metric replaced", envelope.Gauge, msg(str(6, container()), str(6, metric("cpu", "", 0)))},
		{"metric replaced again", envelope.ContainerGauge, str(6, metric("cpu", "", 0)+container())},
		{"metric value merged", envelope.ContainerGauge, str(6, container(
			str(1, str(2, str(1, "%"))+str(1, "cpu")+str(2, fix64(2, 0)))))},
		{"metric value taken back", envelope.Gauge, str(6, container(
			str(1, str(2, fix64(2, one))+str(1, "cpu")+str(2, fix64(2, 0)))))},
		{"metric key twice", envelope.ContainerGauge, str(6, container(
			str(1, str(1, "x")+str(2, fix64(2, one))+str(1, "cpu"))))},
		{"tag replaced", envelope.Log, msg(errTag, entry("__v1_type", "x"), logLine)},
		{"tag replaced back", envelope.ErrorLog, msg(entry("__v1_type", "x"), errTag, logLine)},
		{"tag key twice", envelope.ErrorLog, msg(str(9, str(1, "x")+str(2, "Error")+str(1, "__v1_type")), logLine)},
		{"tag value twice", envelope.ErrorLog, msg(str(9, str(1, "__v1_type")+str(2, "x")+str(2, "Error")), logLine)},
		{"tag value first", envelope.ErrorLog, msg(str(9, str(2, "Error")+str(1, "__v1_type")), logLine)},
		{"tag without key", envelope.Log, msg(str(9, str(2, "Error")), logLine)},
		{"tag emptied", envelope.Log, msg(errTag, str(9, str(1, "__v1_type")), logLine)},
		{"deprecated replaced", envelope.Log, msg(oldErr, old("__v1_type", num(2, 1)), logLine)},
		{"deprecated emptied", envelope.Log, msg(oldErr, str(3, str(1, "__v1_type")), logLine)},
		{"deprecated value merged", envelope.ErrorLog, msg(
			str(3, str(2, num(2, 1))+str(1, "__v1_type")+str(2, str(1, "Error"))), logLine)},
		{"deprecated value kept", envelope.ErrorLog, msg(
			str(3, str(2, str(1, "Error"))+str(1, "__v1_type")+str(2, "")), logLine)},
		{"deprecated value overruled", envelope.Log, msg(old("__v1_type", str(1, "Error"), fix64(3, one)), logLine)},
		{"deprecated value kept by a mismatch", envelope.ErrorLog, msg(
			old("__v1_type", str(1, "Error"), fix64(2, one), num(3, 1)), logLine)},
	}
}

// wireSamples try the framing.
func wireSamples() []sample {
	samples := []sample{
		{"unknown fields", envelope.Log, msg(num(99, 1), str(11, "\xff"), fix32(12, 1), fix64(536870911, 1), logLine)},
		{"unknown group", envelope.Log, msg(group(11, num(1, 1), group(12, str(2, "\xff"))), logLine)},
		{"group with a large field number", envelope.None, group(11, num(math.MaxInt32, 1))},
		{"mismatched wire types", envelope.None, msg(str(1, "x"), num(2, 1), num(9, 2), fix64(3, 1), fix32(8, 2))},
		{"mismatched message", envelope.None, msg(num(4, 1), fix64(5, 1), fix32(6, 1), group(7, str(1, "\xff")), num(10, 1))},
		{"mismatches within", envelope.Log, msg(str(9, num(1, 1)+fix32(2, 1)), str(4, str(2, "x")+num(1, 1)))},
		{"mismatched name", envelope.Timer, str(7, num(1, 1)+str(2, "\xff"))},
		{"mismatched metrics", envelope.Gauge, str(6, num(1, 1)+str(2, "\xff")+str(1, num(2, 1)+num(1, 1)))},
		{"mismatched gauge value", envelope.Gauge, str(6, container(str(1, str(1, "cpu")+str(2, num(2, 1)+num(1, 1)))))},
		{"long key", envelope.Log, pad(4<<3|2, 5) + pad(0, 3)},
		{"longest key", envelope.Log, pad(4<<3|2, 10) + pad(0, 10)},
		{"long lengths", envelope.ErrorLog, msg(pad(9<<3|2, 2), pad(22, 3), "\x0a", pad(9, 2), "__v1_type\x12", pad(5, 4), "Error", logLine)},
		{"largest varint", envelope.None, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"deepest group", envelope.None, nested(10001)},
		{"varint of 65 bits", rejected, "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02"},
		{"varint of 11 bytes", rejected, "\x08" + pad(0, 11)},
		{"key of 33 bits", rejected, "\x80\x80\x80\x80\x10\x00"},
		{"field number 0", rejected, "\x00\x00"},
		{"field number 0 in group", rejected, "\x5b\x00\x00\x5c"},
		{"field number too large", rejected, num(1<<29, 1)},
		{"field number too large in an entry", rejected, str(9, num(1<<29, 1))},
		{"field number too large in a group", rejected, group(11, num(1<<31, 1))},
		{"group too deep", rejected, nested(10002)},
		{"group without end", rejected, key(11, 3) + num(1, 1)},
		{"group with another end", rejected, key(11, 3) + key(12, 4)},
		{"end without group", rejected, key(11, 4)},
		{"end within entry", rejected, str(9, key(9, 4))},
		{"reserved wire type 6", rejected, key(11, 6) + "\x00"},
		{"reserved wire type 7", rejected, key(1, 7) + "\x00"},
		{"only a key", rejected, "\x12"},
		{"length without bytes", rejected, "\x12\x05abc"},
		{"huge length", rejected, "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
		{"length over the entry", rejected, str(9, "\x0a\x05ab") + "cdefgh"},
		{"short fixed64", rejected, "\x59\x01\x02\x03\x04\x05\x06\x07"},
		{"short fixed32", rejected, "\x5d\x01\x02\x03"},
		{"open varint", rejected, "\x08\x80"},
	}
	for name, wire := range map[string]func(string) string{
		"source id":           func(s string) string { return str(2, s) },
		"overruled source id": func(s string) string { return str(2, s) + str(2, "a") },
		"instance id":         func(s string) string { return str(8, s) },
		"tag name":            func(s string) string { return entry(s, "a") },
		"tag value":           func(s string) string { return entry("a", s) },
		"long tag":            func(s string) string { return entry("a", strings.Repeat("b", 128)+s) },
		"deprecated name":     func(s string) string { return old(s, "") },
		"deprecated text":     func(s string) string { return old("a", str(1, s), num(2, 1)) },
		"counter name":        func(s string) string { return str(5, str(1, s)) },
		"metric name":         func(s string) string { return str(6, metric(s, "", 0)) },
		"metric unit":         func(s string) string { return str(6, metric("a", s, 0)) },
		"timer name":          func(s string) string { return str(7, str(1, s)) },
		"event title":         func(s string) string { return str(10, str(1, s)) },
		"event body":          func(s string) string { return str(10, str(2, s)) },
	} {
		for _, s := range []string{"\xff", "abcdefghijklmnop\x80", "\xed\xa0\x80", "\xc0\xaf", "é"[:1], "\xf4\x90\x80\x80"} {
			samples = append(samples, sample{name + " not UTF-8", rejected, wire(s)})
		}
	}
	// Two halves of a character are no character when they lie in
	// neighbouring strings.
	return append(samples, sample{"character over two strings", rejected, str(8, "\xc3") + str(8, "\xa9")})
}

// nested returns depth unknown groups within each other.
func nested(depth int) string {
	return strings.Repeat(key(11, 3), depth) + strings.Repeat(key(11, 4), depth)
}
