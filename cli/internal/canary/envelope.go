package canary

import (
	"bytes"
	"fmt"
	"hash/crc64"
	"strconv"
	"strings"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// What envelopes of all canaries have.
const (
	instance   = "0"
	sourceType = "CANARY"
	tagType    = "source_type"
	tagRun     = "canary"
	prefix     = "canary run="
	filler     = "the quick brown fox jumps over the lazy dog "
)

// Mint makes the envelopes of one run and knows them again. Its methods may be
// called concurrently.
type Mint struct {
	// Run is the name of this run, which no other has. Hexadecimal.
	Run string
	// Source is the source id.
	Source string
	// Size is how many bytes the text has; it is at least what number and
	// checksum need.
	Size int
}

// Stamp is what an envelope says of itself.
type Stamp struct {
	Lane   int
	Number uint64
}

// Make makes the envelope of a number, at a time in Unix nanoseconds.
func (m Mint) Make(s Stamp, at int64) *loggregatorv2.Envelope {
	text := fmt.Appendf(nil, "%s%s lane=%d n=%d sum=", prefix, m.Run, s.Lane, s.Number)
	sumAt := len(text)
	text = append(text, "0000000000000000"...)
	if len(text) < m.Size {
		text = append(text, ' ')
		for missing := m.Size - len(text); missing > 0; missing = m.Size - len(text) {
			text = append(text, filler[:min(missing, len(filler))]...)
		}
	}
	e := &loggregatorv2.Envelope{
		Timestamp: at, SourceId: m.Source, InstanceId: instance,
		Tags:    map[string]string{tagType: sourceType, tagRun: m.Run},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: text}},
	}
	copy(text[sumAt:], fmt.Sprintf("%016x", sum(e, sumAt)))
	return e
}

// Nature is what an envelope of our source turns out to be.
type Nature int

// The natures.
const (
	Own     Nature = iota // of this run, as it was made
	Foreign               // of another canary, of an earlier run, or of no canary
	Corrupt               // of a canary, and not as it made it
)

// Check says what an envelope of our source is. What an agent adds, more tags,
// is no corruption.
func (m Mint) Check(e *loggregatorv2.Envelope) (Stamp, Nature) {
	text := e.GetLog().GetPayload()
	if e.GetTags()[tagRun] == "" && !bytes.HasPrefix(text, []byte(prefix)) {
		return Stamp{}, Foreign
	}
	run, s, sumAt, ok := parse(text)
	if !ok || len(text) < sumAt+16 {
		return Stamp{}, Corrupt
	}
	said, err := strconv.ParseUint(string(text[sumAt:sumAt+16]), 16, 64)
	if err != nil || said != sum(e, sumAt) || e.GetTags()[tagType] != sourceType || e.GetTags()[tagRun] != run {
		return Stamp{}, Corrupt
	}
	if run != m.Run {
		return s, Foreign
	}
	return s, Own
}

// leftOut returns how many envelopes a Doppler says it has left out, because the
// source was over its limit: it says so in the source's own stream.
func leftOut(e *loggregatorv2.Envelope) (n uint64, told bool) {
	if e.GetTags()[tagType] != wsframe.SourceType || e.GetTags()[tagRun] != "" {
		return 0, false
	}
	number, what, _ := strings.Cut(string(e.GetLog().GetPayload()), " message")
	n, err := strconv.ParseUint(number, 10, 64)
	return n, err == nil && strings.Contains(what, "over its limit")
}

// parse reads the text before the checksum, which is at sumAt.
func parse(text []byte) (run string, s Stamp, sumAt int, ok bool) {
	head, _, found := bytes.Cut(text, []byte(" sum="))
	rest, ours := strings.CutPrefix(string(head), prefix)
	if !found || !ours {
		return "", Stamp{}, 0, false
	}
	if n, err := fmt.Sscanf(rest, "%s lane=%d n=%d", &run, &s.Lane, &s.Number); n != 3 || err != nil {
		return "", Stamp{}, 0, false
	}
	return run, s, len(head) + len(" sum="), true
}

// sum is the checksum of all fields but the tags; it leaves out itself.
func sum(e *loggregatorv2.Envelope, sumAt int) uint64 {
	table := crc64.MakeTable(crc64.ECMA)
	text := e.GetLog().GetPayload()
	fields := fmt.Appendf(nil, "%q %q %d %d ", e.GetSourceId(), e.GetInstanceId(), e.GetTimestamp(), e.GetLog().GetType())
	n := crc64.Update(0, table, fields)
	n = crc64.Update(n, table, text[:sumAt])
	return crc64.Update(n, table, text[sumAt+16:])
}
