// Package render turns envelopes into what a person or a program reads: lines
// that look like those of cf logs and cf tail, or one JSON object each.
package render

import (
	"bytes"
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// TimeLayout is how cf logs prints a time; hundredths are cut, not rounded.
const TimeLayout = "2006-01-02T15:04:05.00-0700"

const (
	indent        = "   "
	unknownType   = "unknown"
	sourceTypeTag = "source_type"
)

// Text renders envelopes as lines of text. It remembers the colour and the
// width of each source it has seen, so it is for one stream of output and not
// for concurrent use.
type Text struct {
	zone   *time.Location
	colour bool
	prefix *prefixes
}

// NewText renders times in zone. With colour, error lines are red. With
// prefix, each line starts with the source id, in a colour of its own if there
// is colour; names are hints for the width of that column and may be empty.
func NewText(zone *time.Location, colour, prefix bool, names ...string) *Text {
	t := &Text{zone: zone, colour: colour}
	if prefix {
		t.prefix = newPrefixes(colour, names)
	}
	return t
}

// Append appends the lines of one envelope, each with its newline, to dst. An
// envelope without a message yields nothing.
func (t *Text) Append(dst []byte, e *loggregatorv2.Envelope) []byte {
	if log, ok := e.GetMessage().(*loggregatorv2.Envelope_Log); ok {
		return t.appendLog(dst, e, log.Log)
	}
	rest := describe(e)
	if rest == "" {
		return dst
	}
	dst = t.appendStart(dst, e.GetSourceId())
	dst = t.appendTime(dst, e)
	dst = append(dst, ' ', '[')
	dst = append(dst, e.GetSourceId()...)
	if instance := e.GetInstanceId(); instance != "" {
		dst = append(dst, '/')
		dst = append(dst, instance...)
	}
	dst = append(dst, ']', ' ')
	dst = append(dst, rest...)
	return append(dst, '\n')
}

// appendLog gives every line of the payload the full header, as cf logs does:
// a final newline therefore yields one more line that is a header only.
func (t *Text) appendLog(dst []byte, e *loggregatorv2.Envelope, log *loggregatorv2.Log) []byte {
	isError := log.GetType() == loggregatorv2.Log_ERR
	payload, more := log.GetPayload(), true
	for more {
		var line []byte
		line, payload, more = bytes.Cut(payload, []byte{'\n'})
		dst = t.appendStart(dst, e.GetSourceId())
		if isError && t.colour {
			dst = append(dst, red...)
		}
		dst = t.appendTime(dst, e)
		dst = append(dst, ' ', '[')
		dst = append(dst, sourceType(e)...)
		dst = append(dst, '/')
		dst = append(dst, e.GetInstanceId()...)
		if isError {
			dst = append(dst, "] ERR "...)
		} else {
			dst = append(dst, "] OUT "...)
		}
		dst = append(dst, bytes.TrimRight(line, "\r\n")...)
		if isError && t.colour {
			dst = append(dst, reset...)
		}
		dst = append(dst, '\n')
	}
	return dst
}

func (t *Text) appendStart(dst []byte, source string) []byte {
	if t.prefix == nil {
		return append(dst, indent...)
	}
	return t.prefix.append(dst, source)
}

func (t *Text) appendTime(dst []byte, e *loggregatorv2.Envelope) []byte {
	return time.Unix(0, e.GetTimestamp()).In(t.zone).AppendFormat(dst, TimeLayout)
}

// sourceType is what stands first in a log's brackets. Agents of 2017 sent it
// as a typed tag.
func sourceType(e *loggregatorv2.Envelope) string {
	if s, ok := e.GetTags()[sourceTypeTag]; ok {
		return s
	}
	if v, ok := e.GetDeprecatedTags()[sourceTypeTag]; ok {
		return v.GetText()
	}
	return unknownType
}

// describe says what is in an envelope that is not a log, as cf tail does.
func describe(e *loggregatorv2.Envelope) string {
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Counter:
		return fmt.Sprintf("COUNTER %s:%d", m.Counter.GetName(), m.Counter.GetTotal())
	case *loggregatorv2.Envelope_Gauge:
		entries := make([]string, 0, len(m.Gauge.GetMetrics()))
		for name, v := range m.Gauge.GetMetrics() {
			entries = append(entries, fmt.Sprintf("%s:%f %s", name, v.GetValue(), v.GetUnit()))
		}
		sort.Strings(entries)
		return "GAUGE " + strings.Join(entries, " ")
	case *loggregatorv2.Envelope_Timer:
		return fmt.Sprintf("TIMER %s %f ms", m.Timer.GetName(), milliseconds(m.Timer))
	case *loggregatorv2.Envelope_Event:
		return fmt.Sprintf("EVENT %s:%s", m.Event.GetTitle(), m.Event.GetBody())
	}
	return ""
}

func milliseconds(t *loggregatorv2.Timer) float64 {
	return float64(t.GetStop()-t.GetStart()) / float64(time.Millisecond)
}
