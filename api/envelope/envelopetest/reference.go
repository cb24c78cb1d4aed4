// Package envelopetest makes envelopes for tests, benchmarks and load: the
// reference envelope that speed is measured with, numbered copies of it for
// any source, and random ones of every kind.
package envelopetest

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Of the reference envelope.
const (
	// ReferenceSize is its length encoded, in bytes.
	ReferenceSize = 500
	// ReferenceSource is its source id.
	ReferenceSource = "f47ac10b-58cc-4372-a567-0e02b2c3d479"
	// ReferenceTime is its timestamp, in unix nanoseconds.
	ReferenceTime = 1_700_000_000_123_456_789
)

//go:embed reference.pb
var reference string

// Reference returns a copy of the committed reference envelope: a log line of
// an app with 8 tags, ReferenceSize bytes encoded.
func Reference() []byte { return []byte(reference) }

const (
	seqDigits = 20
	logLine   = `{"level":"info","logger":"o.c.orders.OrderController",` +
		`"msg":"GET /api/v1/orders completed","status":200,"duration_ms":12,"bytes":5120,"trace":"` // filler follows
	logEnd = `"} seq=`
	filler = "80f198ee56343ba864fe8b2a57d3eff7c1a9e0d25b64f3877d0e4b9a6c1f2d3e"
	// The timestamp is a varint behind the first key. Of every time between
	// the years 1972 and 2262 it has 9 bytes.
	timeStart, timeEnd = 1, 10
)

// message returns the reference envelope with another source id and with n
// bytes of filler in its log line.
func message(source string, n int) *loggregatorv2.Envelope {
	fill := strings.Repeat(filler, n/len(filler)+1)[:n]
	return &loggregatorv2.Envelope{
		Timestamp:  ReferenceTime,
		SourceId:   source,
		InstanceId: "0",
		Tags: map[string]string{
			"app_name":    "orders",
			"deployment":  "cf",
			"index":       "2f1c9d3a-7e0b-4c58-9a61-5d8f3b7e2c14",
			"ip":          "10.0.16.25",
			"job":         "diego-cell",
			"origin":      "rep",
			"process_id":  "9b2e6c41-0d5f-4a8e-b3c7-61f20a9d8e57",
			"source_type": "APP/PROC/WEB",
		},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{
			Payload: fmt.Appendf(nil, "%s%s%s%0*d", logLine, fill, logEnd, seqDigits, 0),
		}},
	}
}

// Stamp prints copies of the reference envelope for one source. It may be
// used concurrently.
type Stamp struct {
	record []byte // key, length and envelope
	head   int    // where the envelope begins
}

// NewStamp returns a stamp for a source id. Copies are ReferenceSize bytes as
// long as the source id is not longer than 64 bytes.
func NewStamp(source string) (*Stamp, error) {
	base, err := encode(source, 0)
	if err != nil {
		return nil, err
	}
	env := base
	if n := ReferenceSize - len(base); n > 0 {
		if env, err = encode(source, n); err != nil {
			return nil, err
		}
	}
	record := envelope.AppendRecord(nil, env)
	return &Stamp{record: record, head: len(record) - len(env)}, nil
}

func encode(source string, filler int) ([]byte, error) {
	env, err := proto.MarshalOptions{Deterministic: true}.Marshal(message(source, filler))
	if err != nil {
		return nil, fmt.Errorf("encode envelope of source %q: %w", source, err)
	}
	return env, nil
}

// Size returns how long a copy is, in bytes; RecordSize how long its record.
func (s *Stamp) Size() int { return len(s.record) - s.head }

// RecordSize returns how long the record of a copy is, in bytes.
func (s *Stamp) RecordSize() int { return len(s.record) }

// Append appends a copy with this sequence number and time.
func (s *Stamp) Append(dst []byte, seq uint64, t time.Time) []byte {
	n := len(dst)
	dst = append(dst, s.record[s.head:]...)
	stamp(dst[n:], seq, t)
	return dst
}

// AppendRecord appends a copy as a record of an EnvelopeBatch.
func (s *Stamp) AppendRecord(dst []byte, seq uint64, t time.Time) []byte {
	n := len(dst) + s.head
	dst = append(dst, s.record...)
	stamp(dst[n:], seq, t)
	return dst
}

// stamp overwrites time and sequence number of a copy.
func stamp(env []byte, seq uint64, t time.Time) {
	var b [binary.MaxVarintLen64]byte
	if binary.PutUvarint(b[:], uint64(t.UnixNano())) == timeEnd-timeStart {
		copy(env[timeStart:timeEnd], b[:])
	}
	for i := len(env) - 1; i >= len(env)-seqDigits; i-- {
		env[i] = '0' + byte(seq%10)
		seq /= 10
	}
}

// Sequence reads the sequence number of a copy. It looks only at the end of
// the bytes and returns false when there are no digits there.
func Sequence(env []byte) (seq uint64, ok bool) {
	if len(env) < seqDigits {
		return 0, false
	}
	for _, c := range env[len(env)-seqDigits:] {
		if c < '0' || c > '9' {
			return 0, false
		}
		seq = seq*10 + uint64(c-'0')
	}
	return seq, true
}

// Sent reads the time of a copy. It looks only at the first field and returns
// false when that is no timestamp.
func Sent(env []byte) (t time.Time, ok bool) {
	if len(env) < timeEnd || env[0] != 1<<3 {
		return time.Time{}, false
	}
	v, n := binary.Uvarint(env[timeStart:])
	return time.Unix(0, int64(v)), n > 0
}

// Source returns a source id for a number, shaped like the GUID of an app.
func Source(n int) string {
	return fmt.Sprintf("%08x-58cc-4372-a567-0e02b2c3d479", uint32(n))
}
