package envelope_test

import (
	"errors"
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// What the scan must find, computed in the plainest way from the message that
// protobuf-go decodes.

func tag(e *loggregatorv2.Envelope, name string) string {
	if v, ok := e.GetTags()[name]; ok {
		return v
	}
	switch v := e.GetDeprecatedTags()[name].GetData().(type) {
	case *loggregatorv2.Value_Text:
		return v.Text
	case *loggregatorv2.Value_Integer:
		return fmt.Sprintf("%d", v.Integer)
	case *loggregatorv2.Value_Decimal:
		return fmt.Sprintf("%f", v.Decimal)
	}
	return ""
}

func isContainer(metrics map[string]*loggregatorv2.GaugeValue) bool {
	if len(metrics) < 2 {
		return false
	}
	for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		m, ok := metrics[name]
		if !ok || m.GetUnit() == "" && m.GetValue() == 0 {
			return false
		}
	}
	return true
}

func classOf(e *loggregatorv2.Envelope) envelope.Class {
	pick := func(special bool, a, b envelope.Class) envelope.Class {
		if special {
			return a
		}
		return b
	}
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Log:
		return pick(tag(e, "__v1_type") == "Error", envelope.ErrorLog, envelope.Log)
	case *loggregatorv2.Envelope_Gauge:
		return pick(isContainer(m.Gauge.GetMetrics()), envelope.ContainerGauge, envelope.Gauge)
	case *loggregatorv2.Envelope_Timer:
		return pick(m.Timer.GetName() == "http", envelope.HTTPTimer, envelope.Timer)
	case *loggregatorv2.Envelope_Counter:
		return envelope.Counter
	case *loggregatorv2.Envelope_Event:
		return envelope.Event
	}
	return envelope.None
}

// namesOf returns the names that MatchName goes by.
func namesOf(e *loggregatorv2.Envelope) []string {
	switch m := e.GetMessage().(type) {
	case *loggregatorv2.Envelope_Counter:
		return []string{m.Counter.GetName()}
	case *loggregatorv2.Envelope_Timer:
		return []string{m.Timer.GetName()}
	case *loggregatorv2.Envelope_Gauge:
		var names []string
		for name := range m.Gauge.GetMetrics() {
			names = append(names, name)
		}
		slices.Sort(names)
		return names
	}
	return nil
}

// checkEnvelope compares everything this package says of env with what
// protobuf-go decodes. It reports whether the envelope is a good one.
func checkEnvelope(env []byte) (accepted bool, err error) {
	var want loggregatorv2.Envelope
	decodeErr := proto.Unmarshal(env, &want)
	lim := envelope.Limits{MaxEnvelope: len(env) + 1, MaxSourceID: len(env) + 1}
	got, scanErr := envelope.ScanEnvelope(env, lim)
	if decodeErr != nil {
		if !errors.Is(scanErr, envelope.ErrMalformed) {
			return false, fmt.Errorf("protobuf-go: %w, scan: %v", decodeErr, scanErr)
		}
		// The readers of trusted bytes only must not panic.
		envelope.Timestamp(env)
		envelope.SourceID(env)
		envelope.MatchName(env, []string{"", "cpu", "http"})
		envelope.AppendNames(nil, env)
		return false, nil
	}
	if scanErr != nil {
		return false, fmt.Errorf("protobuf-go accepts, scan: %w", scanErr)
	}
	return true, errors.Join(compareRecord(got, env, &want), compareReaders(env, &want), checkLimits(env, &want))
}

// compareRecord compares a record of msg with the decoded envelope.
func compareRecord(r envelope.Record, msg []byte, want *loggregatorv2.Envelope) error {
	if c := classOf(want); r.Class != c {
		return fmt.Errorf("class %v, want %v", r.Class, c)
	}
	if r.Timestamp != want.GetTimestamp() {
		return fmt.Errorf("timestamp %d, want %d", r.Timestamp, want.GetTimestamp())
	}
	if id := string(msg[r.SourceStart:r.SourceEnd]); id != want.GetSourceId() {
		return fmt.Errorf("source id %q, want %q", id, want.GetSourceId())
	}
	if r.Hash != envelope.HashSource(want.GetSourceId()) {
		return errors.New("hash of another source id")
	}
	return nil
}

// compareReaders compares the readers of trusted bytes with the decoded
// envelope.
func compareReaders(env []byte, want *loggregatorv2.Envelope) error {
	if t := envelope.Timestamp(env); t != want.GetTimestamp() {
		return fmt.Errorf("Timestamp %d, want %d", t, want.GetTimestamp())
	}
	if id := string(envelope.SourceID(env)); id != want.GetSourceId() {
		return fmt.Errorf("SourceID %q, want %q", id, want.GetSourceId())
	}
	names := namesOf(want)
	for _, name := range append([]string{"", "cpu", "http", "no such name"}, names...) {
		if got := envelope.MatchName(env, []string{"\xff", name}); got != slices.Contains(names, name) {
			return fmt.Errorf("MatchName(%q) = %v, names are %q", name, got, names)
		}
	}
	var found []string
	for _, name := range envelope.AppendNames(nil, env) {
		found = append(found, string(name))
	}
	slices.Sort(found)
	if got := slices.Compact(found); !slices.Equal(got, names) {
		return fmt.Errorf("AppendNames %q, want %q", got, names)
	}
	return nil
}

// checkLimits scans a good envelope with limits that just do and just do not.
func checkLimits(env []byte, want *loggregatorv2.Envelope) error {
	id := len(want.GetSourceId())
	if n := len(env); n > 1 {
		if _, err := envelope.ScanEnvelope(env, envelope.Limits{MaxEnvelope: n, MaxSourceID: max(id, 1)}); err != nil {
			return fmt.Errorf("at the limits: %w", err)
		}
		if _, err := envelope.ScanEnvelope(env, envelope.Limits{MaxEnvelope: n - 1}); !errors.Is(err, envelope.ErrTooLarge) {
			return fmt.Errorf("1 byte too large: %v", err)
		}
	}
	if id > 1 {
		lim := envelope.Limits{MaxEnvelope: len(env), MaxSourceID: id - 1}
		if _, err := envelope.ScanEnvelope(env, lim); !errors.Is(err, envelope.ErrSourceTooLong) {
			return fmt.Errorf("source id 1 byte too long: %v", err)
		}
	}
	return nil
}

// split is a plain splitter of batches: the envelopes, the number of other
// fields, and whether the framing broke.
func split(msg []byte) (envs [][]byte, unknown uint64, truncated bool) {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 || num > protowire.MaxValidNumber {
			return envs, unknown, true
		}
		m := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if m < 0 {
			return envs, unknown, true
		}
		if num == 1 && typ == protowire.BytesType {
			env, _ := protowire.ConsumeBytes(msg[n:])
			envs = append(envs, env)
		} else {
			unknown++
		}
		msg = msg[n+m:]
	}
	return envs, unknown, false
}

// checkBatch compares a scan of msg with the splitter and protobuf-go.
func checkBatch(msg []byte, lim envelope.Limits) error {
	envs, unknown, truncated := split(msg)
	want := envelope.Dropped{UnknownFields: unknown, Truncated: truncated}
	records, got := envelope.ScanBatch(msg, lim, nil)
	var out []byte
	var kept int
	for _, env := range envs {
		var e loggregatorv2.Envelope
		err := proto.Unmarshal(env, &e)
		switch {
		case len(env) > lim.MaxEnvelope:
			want.TooLarge++
			continue
		case err != nil:
			want.Malformed++
			continue
		case len(e.GetSourceId()) > lim.MaxSourceID:
			want.SourceTooLong++
			continue
		}
		if kept++; kept > len(records) {
			return fmt.Errorf("only %d records", len(records))
		}
		r := records[kept-1]
		if err := errors.Join(compareRecord(r, msg, &e), checkCopy(r, msg, env)); err != nil {
			return fmt.Errorf("record %d: %w", kept-1, err)
		}
		out = envelope.AppendRecord(out, env)
	}
	if kept != len(records) || got != want {
		return fmt.Errorf("%d records, dropped %+v; want %d, %+v", len(records), got, kept, want)
	}
	return errors.Join(checkWhole(msg, want), checkAppended(out, kept), checkChunks(msg, lim, records, want))
}

// checkCopy compares the bytes of a record, and what may be copied with them.
func checkCopy(r envelope.Record, msg, env []byte) error {
	if string(msg[r.Start:r.End]) != string(env) {
		return errors.New("other bytes")
	}
	form := envelope.AppendRecord(nil, env)
	if len(form) != envelope.RecordSize(len(env)) {
		return fmt.Errorf("RecordSize %d, want %d", envelope.RecordSize(len(env)), len(form))
	}
	from := int(r.End) - len(form)
	canonical := from >= 0 && string(msg[from:r.End]) == string(form)
	if r.Canonical != canonical {
		return fmt.Errorf("canonical %v, want %v", r.Canonical, canonical)
	}
	return nil
}

// checkWhole compares with protobuf-go decoding the whole batch.
func checkWhole(msg []byte, d envelope.Dropped) error {
	err := proto.Unmarshal(msg, &loggregatorv2.EnvelopeBatch{})
	if bad := d.Truncated || d.Malformed > 0; d.TooLarge == 0 && bad != (err != nil) {
		return fmt.Errorf("protobuf-go says %v of the whole batch, scan %+v", err, d)
	}
	return nil
}

// checkAppended reads records back that AppendRecord made.
func checkAppended(records []byte, n int) error {
	var batch loggregatorv2.EnvelopeBatch
	if err := proto.Unmarshal(records, &batch); err != nil || len(batch.GetBatch()) != n {
		return fmt.Errorf("appended records: %d envelopes, %w", len(batch.GetBatch()), err)
	}
	again, d := envelope.ScanBatch(records, envelope.Limits{MaxEnvelope: len(records) + 1, MaxSourceID: len(records) + 1}, nil)
	if len(again) != n || d != (envelope.Dropped{}) {
		return fmt.Errorf("appended records: scan finds %d of %d, %+v", len(again), n, d)
	}
	i := 0
	for env := range envelope.Walk(records) {
		if r := again[i]; !r.Canonical || string(env) != string(records[r.Start:r.End]) {
			return fmt.Errorf("appended record %d reads back differently: %+v", i, r)
		}
		i++
	}
	if i != n {
		return fmt.Errorf("walked over %d of %d records", i, n)
	}
	return nil
}

// checkChunks scans in chunks of two and expects the same.
func checkChunks(msg []byte, lim envelope.Limits, want []envelope.Record, wantDropped envelope.Dropped) error {
	var all []envelope.Record
	var d envelope.Dropped
	chunk := make([]envelope.Record, 0, 2)
	for next := 0; next < len(msg); {
		chunk, next = envelope.ScanChunk(msg, next, lim, chunk[:0], &d)
		all = append(all, chunk...)
	}
	if !slices.Equal(all, want) || d != wantDropped {
		return fmt.Errorf("in chunks: %d records, %+v; want %d, %+v", len(all), d, len(want), wantDropped)
	}
	return nil
}
