package stream

import (
	"bytes"
	"math"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// wholeMeta is metadata with every field set.
func wholeMeta() *streampb.Batch {
	return &streampb.Batch{
		Position: &streampb.Position{Doppler: "d", Epoch: 1 << 60, First: 5, Count: 3, Deltas: []uint32{1, 7}, Matched: 9,
			Low: 2, LowMatched: 1, Watches: []uint32{1, 1, 2}, Classes: []byte{0, 1, 8}, Next: 20},
		Lease:     &streampb.Lease{Id: 77, Redelivered: true},
		Gaps:      []*streampb.Gap{{SourceId: "s", From: 1, To: 4, Count: 2, Precision: streampb.Gap_AT_LEAST, Reason: streampb.Gap_EVICTED, ClassCounts: []uint64{1, 1}}},
		Hello:     &streampb.Hello{Version: Version, Features: []string{"x"}, Server: "d"},
		Heartbeat: &streampb.Heartbeat{Timestamp: -1},
		Watching:  []*streampb.Watching{{Request: 1, SourceId: "s", Join: 4}},
		Fins:      []*streampb.Fin{{Doppler: "d", Epoch: 1, End: 9}},
	}
}

func record(tb testing.TB, e *loggregatorv2.Envelope) []byte {
	tb.Helper()
	p, err := proto.Marshal(e)
	if err != nil {
		tb.Fatal(err)
	}
	return protowire.AppendBytes([]byte{recordTag}, p)
}

func TestBatchParts(t *testing.T) {
	one := record(t, &loggregatorv2.Envelope{SourceId: "a", Timestamp: 1})
	two := record(t, &loggregatorv2.Envelope{SourceId: strings.Repeat("b", 300)})
	empty := record(t, &loggregatorv2.Envelope{})
	for _, test := range []struct {
		name    string
		meta    *streampb.Batch
		records [][]byte
	}{
		{"nothing", &streampb.Batch{}, nil},
		{"metadata alone", wholeMeta(), nil},
		{"envelopes alone", &streampb.Batch{}, [][]byte{one, two}},
		{"both", wholeMeta(), [][]byte{one, empty, two}},
	} {
		t.Run(test.name, func(t *testing.T) {
			msg, err := AppendBatchMeta([]byte("kept"), test.meta)
			if err != nil {
				t.Fatal(err)
			}
			msg = append(msg, bytes.Join(test.records, nil)...)[len("kept"):]
			meta, envelopes, err := SplitBatch(msg)
			if err != nil || !bytes.Equal(envelopes, bytes.Join(test.records, nil)) {
				t.Fatalf("%x, %v", envelopes, err)
			}
			got := &streampb.Batch{Lease: &streampb.Lease{Id: 1}}
			if err := UnmarshalMeta(meta, got); err != nil || !proto.Equal(got, test.meta) {
				t.Errorf("%v, %v", got, err)
			}
			if n, err := CountRecords(envelopes); n != len(test.records) || err != nil {
				t.Errorf("%d records, %v", n, err)
			}
			// Whatever reads a Batch, or an EnvelopeBatch, reads it whole.
			whole, old := &streampb.Batch{}, &loggregatorv2.EnvelopeBatch{}
			if err := proto.Unmarshal(msg, whole); err != nil || len(whole.Batch) != len(test.records) {
				t.Errorf("as a Batch: %d envelopes, %v", len(whole.Batch), err)
			}
			if err := proto.Unmarshal(msg, old); err != nil || len(old.Batch) != len(test.records) {
				t.Errorf("as an EnvelopeBatch: %d envelopes, %v", len(old.Batch), err)
			}
		})
	}
	if _, err := AppendBatchMeta(nil, &streampb.Batch{Batch: []*loggregatorv2.Envelope{{}}}); err == nil {
		t.Error("envelopes taken for metadata")
	}
}

func TestBadBatches(t *testing.T) {
	for _, test := range []struct {
		name, msg, words string
	}{
		{"no tag", "\xff\xff", "tag at byte 0"},
		{"low field", "\x12\x00", "field 2 at byte 0 is no metadata"},
		{"field 1 as a number", "\x08\x01", "field 1"},
		{"long tag of field 1", "\x8a\x00\x00", "field 1"},
		{"field 0", "\x02\x00", "tag"},
		{"cut value", "\xca\x3e\x05ab", "field 1001"},
	} {
		if _, _, err := SplitBatch([]byte(test.msg)); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	for _, envelopes := range []string{"\x0a", "\x0a\x05ab", "\x0a\x00\x12\x00", "\x0a\x00x"} {
		if _, err := CountRecords([]byte(envelopes)); err == nil {
			t.Errorf("%q counted", envelopes)
		}
	}
	b := &streampb.Batch{}
	if err := UnmarshalMeta(record(t, &loggregatorv2.Envelope{}), b); err == nil || len(b.Batch) > 0 {
		t.Error("an envelope among the metadata")
	}
	if err := UnmarshalMeta([]byte("\xca\x3e\x01\xff"), b); err == nil {
		t.Error("broken metadata decoded")
	}
}

func TestParseOffsets(t *testing.T) {
	for _, test := range []struct {
		name    string
		p       *streampb.Position
		records int
		want    []uint64
		fault   string
	}{
		{"none", nil, 0, nil, ""},
		{"one", &streampb.Position{First: 7, Count: 1}, 1, []uint64{7}, ""},
		{"contiguous", &streampb.Position{First: 7, Count: 3}, 3, []uint64{7, 8, 9}, ""},
		{"with deltas", &streampb.Position{First: 7, Count: 3, Deltas: []uint32{1, 10}}, 3, []uint64{7, 8, 18}, ""},
		{"too few records", &streampb.Position{Count: 3}, 2, nil, "places 3 envelopes, the batch holds 2"},
		{"no position", nil, 2, nil, "places 0"},
		{"too few deltas", &streampb.Position{Count: 3, Deltas: []uint32{1}}, 3, nil, "has 1 deltas"},
		{"too many deltas", &streampb.Position{Count: 1, Deltas: []uint32{1}}, 1, nil, "has 1 deltas"},
		{"no envelopes but deltas", &streampb.Position{Deltas: []uint32{1}}, 0, nil, "has 1 deltas"},
		{"no distance", &streampb.Position{Count: 2, Deltas: []uint32{0}}, 2, nil, "do not grow"},
		{"over the end", &streampb.Position{First: math.MaxUint64 - 1, Count: 3}, 3, nil, "do not grow"},
		{"over the end by deltas", &streampb.Position{First: math.MaxUint64 - 1, Count: 2, Deltas: []uint32{9}}, 2, nil, "do not grow"},
		{"at the end", &streampb.Position{First: math.MaxUint64, Count: 1}, 1, nil, "beyond"},
	} {
		seq, err := ParseOffsets(test.p, test.records)
		if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if err != nil {
			continue
		}
		if got := slices.Collect(seq); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v", test.name, got)
		}
		for off := range seq { // may be left early
			if off != test.want[0] {
				t.Errorf("%s: begins at %d again", test.name, off)
			}
			break
		}
	}
}

// FuzzSplitBatch finds that a batch taken apart is the same batch.
func FuzzSplitBatch(f *testing.F) {
	meta, _ := AppendBatchMeta(nil, wholeMeta())
	one := record(f, &loggregatorv2.Envelope{SourceId: "a"})
	f.Add(meta)
	f.Add(slices.Concat(meta, one, one))
	f.Add(slices.Concat(one, meta))
	f.Add([]byte("\x8a\x00\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		meta, envelopes, err := SplitBatch(msg)
		if err != nil {
			return
		}
		if !bytes.Equal(slices.Concat(meta, envelopes), msg) || len(envelopes) > 0 && envelopes[0] != recordTag {
			t.Fatalf("%x + %x", meta, envelopes)
		}
		b := &streampb.Batch{}
		if UnmarshalMeta(meta, b) != nil {
			return
		}
		whole := &streampb.Batch{}
		if n, err := CountRecords(envelopes); err == nil && proto.Unmarshal(msg, whole) == nil && n != len(whole.Batch) {
			t.Errorf("%d records, protobuf finds %d", n, len(whole.Batch))
		}
		if seq, err := ParseOffsets(b.GetPosition(), int(b.GetPosition().GetCount())); err == nil && b.GetPosition().GetCount() < 1e6 {
			last, n := uint64(0), 0
			for off := range seq {
				if n > 0 && off <= last {
					t.Errorf("offset %d after %d", off, last)
				}
				last, n = off, n+1
			}
			if n > 0 && last != lastOffset(b.Position) {
				t.Errorf("ends at %d, not %d", last, lastOffset(b.Position))
			}
		}
		again, err := AppendBatchMeta(nil, b)
		if err != nil {
			t.Fatal(err)
		}
		back := &streampb.Batch{}
		if err := UnmarshalMeta(again, back); err != nil || !proto.Equal(b, back) {
			t.Errorf("%v\n%v, %v", b, back, err)
		}
		if m, e, err := SplitBatch(slices.Concat(again, envelopes)); err != nil || !bytes.Equal(m, again) || !bytes.Equal(e, envelopes) {
			t.Errorf("split again: %x, %x, %v", m, e, err)
		}
	})
}
