package render

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"time"
	"unicode/utf8"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// object is the JSON form of an envelope. Unlike protobuf's own JSON it is
// made for reading: the payload of a log is text and the time is a date.
type object struct {
	Time       string            `json:"time"`
	SourceID   string            `json:"source_id"`
	InstanceID string            `json:"instance_id,omitempty"`
	Kind       string            `json:"kind"`
	Log        *logObject        `json:"log,omitempty"`
	Counter    *counterObject    `json:"counter,omitempty"`
	Gauge      map[string]metric `json:"gauge,omitempty"`
	Timer      *timerObject      `json:"timer,omitempty"`
	Event      *eventObject      `json:"event,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
}

// logObject has exactly one of Payload and PayloadBase64; the latter for bytes
// that are no UTF-8, so that nothing is altered.
type logObject struct {
	Type          string  `json:"type"`
	Payload       *string `json:"payload,omitempty"`
	PayloadBase64 []byte  `json:"payload_base64,omitempty"`
}

type counterObject struct {
	Name  string `json:"name"`
	Delta uint64 `json:"delta"`
	Total uint64 `json:"total"`
}

type metric struct {
	Value number `json:"value"`
	Unit  string `json:"unit,omitempty"`
}

type timerObject struct {
	Name         string  `json:"name"`
	Start        string  `json:"start"`
	Stop         string  `json:"stop"`
	Milliseconds float64 `json:"milliseconds"`
}

type eventObject struct {
	Title string `json:"title"`
	Body  string `json:"body"`
}

// number is a float that JSON may be unable to express; then it is a string.
type number float64

// MarshalJSON writes NaN and the infinities as strings, as protobuf does.
func (n number) MarshalJSON() ([]byte, error) {
	f := float64(n)
	switch {
	case math.IsInf(f, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(f, -1):
		return []byte(`"-Infinity"`), nil
	case math.IsNaN(f):
		return []byte(`"NaN"`), nil
	}
	return json.Marshal(f)
}

// AppendJSON appends one envelope as one JSON object and a newline to dst.
func AppendJSON(dst []byte, e *loggregatorv2.Envelope) ([]byte, error) {
	o := object{
		Time:       stamp(e.GetTimestamp()),
		SourceID:   e.GetSourceId(),
		InstanceID: e.GetInstanceId(),
		Tags:       allTags(e),
	}
	o.setMessage(e)
	buf := bytes.NewBuffer(dst)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(o); err != nil {
		return dst, fmt.Errorf("encode an envelope of %q as JSON: %w", e.GetSourceId(), err)
	}
	return buf.Bytes(), nil
}

func (o *object) setMessage(e *loggregatorv2.Envelope) {
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Log:
		o.Kind, o.Log = "log", newLogObject(m.Log)
	case *loggregatorv2.Envelope_Counter:
		o.Kind = "counter"
		o.Counter = &counterObject{Name: m.Counter.GetName(), Delta: m.Counter.GetDelta(), Total: m.Counter.GetTotal()}
	case *loggregatorv2.Envelope_Gauge:
		o.Kind, o.Gauge = "gauge", make(map[string]metric, len(m.Gauge.GetMetrics()))
		for name, v := range m.Gauge.GetMetrics() {
			o.Gauge[name] = metric{Value: number(v.GetValue()), Unit: v.GetUnit()}
		}
	case *loggregatorv2.Envelope_Timer:
		o.Kind = "timer"
		o.Timer = &timerObject{
			Name:         m.Timer.GetName(),
			Start:        stamp(m.Timer.GetStart()),
			Stop:         stamp(m.Timer.GetStop()),
			Milliseconds: milliseconds(m.Timer),
		}
	case *loggregatorv2.Envelope_Event:
		o.Kind, o.Event = "event", &eventObject{Title: m.Event.GetTitle(), Body: m.Event.GetBody()}
	default:
		o.Kind = "none"
	}
}

func newLogObject(log *loggregatorv2.Log) *logObject {
	o := &logObject{Type: log.GetType().String()}
	if payload := log.GetPayload(); utf8.Valid(payload) {
		text := string(payload)
		o.Payload = &text
	} else {
		o.PayloadBase64 = payload
	}
	return o
}

// allTags adds the typed tags of 2017 agents, as text, where no tag of today
// has the same name.
func allTags(e *loggregatorv2.Envelope) map[string]string {
	if len(e.GetDeprecatedTags()) == 0 {
		return e.GetTags()
	}
	tags := make(map[string]string, len(e.GetTags())+len(e.GetDeprecatedTags()))
	for name, v := range e.GetDeprecatedTags() {
		switch d := v.GetData().(type) {
		case *loggregatorv2.Value_Text:
			tags[name] = d.Text
		case *loggregatorv2.Value_Integer:
			tags[name] = fmt.Sprint(d.Integer)
		case *loggregatorv2.Value_Decimal:
			tags[name] = fmt.Sprint(d.Decimal)
		}
	}
	for name, value := range e.GetTags() {
		tags[name] = value
	}
	return tags
}

func stamp(nanoseconds int64) string {
	return time.Unix(0, nanoseconds).UTC().Format(time.RFC3339Nano)
}
