package stream

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

func control(m any) *streampb.Control {
	switch m := m.(type) {
	case *streampb.Watch:
		return &streampb.Control{Message: &streampb.Control_Watch{Watch: m}}
	case *streampb.Sent:
		return &streampb.Control{Message: &streampb.Control_Sent{Sent: m}}
	case *streampb.Token:
		return &streampb.Control{Message: &streampb.Control_Token{Token: m}}
	case *streampb.Ack:
		return &streampb.Control{Message: &streampb.Control_Ack{Ack: m}}
	}
	return &streampb.Control{}
}

func encoded(tb testing.TB, m any) []byte {
	tb.Helper()
	p, err := AppendControl(nil, control(m))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func goodControls() []any {
	return []any{
		&streampb.Watch{},
		&streampb.Watch{Request: 1, Remove: []uint32{1, 300, 70000}, Start: &streampb.LinkStart{Epoch: 1, Offset: 2},
			Add: []*streampb.Watch_Add{{SourceId: "s", Watch: 3, ClassCounts: []uint64{1, 2, 1 << 40}}, {}}},
		&streampb.Watch{Add: []*streampb.Watch_Add{{SourceId: strings.Repeat("x", MaxName)}}},
		&streampb.Token{Token: strings.Repeat("x", MaxToken)},
		&streampb.Sent{},
		&streampb.Sent{Lease: 1 << 63},
		&streampb.Ack{},
		&streampb.Ack{Doppler: "d", Epoch: 7, Ranges: []*streampb.Range{{First: 1, Last: 2}, {}, {First: 1 << 62, Last: 1<<62 + 1}}},
	}
}

func TestDecodeControl(t *testing.T) {
	for _, m := range goodControls() {
		got, err := DecodeControl(encoded(t, m))
		if err != nil || !proto.Equal(got, control(m)) {
			t.Errorf("%v: %v, %v", m, got, err)
		}
	}
	many := func(n int) []uint32 { return make([]uint32, n) }
	adds := make([]*streampb.Watch_Add, MaxWatches+1)
	for i := range adds {
		adds[i] = &streampb.Watch_Add{}
	}
	ranges := make([]*streampb.Range, MaxRanges+1)
	for i := range ranges {
		ranges[i] = &streampb.Range{}
	}
	long := strings.Repeat("x", MaxName+1)
	for _, test := range []struct {
		name  string
		msg   []byte
		words string
	}{
		{"nothing", nil, "none of"},
		{"unknown field only", []byte("\x2a\x00"), "none of"},
		{"garbage", []byte("\xff\xff\xff"), "not a Control"},
		{"cut", encoded(t, goodControls()[1])[:20], "not a Control"},
		{"text", []byte("hello"), "not a Control"},
		{"a number where a message is due", []byte("\x08\x01"), "none of"},
		{"two messages", slices.Concat(encoded(t, &streampb.Sent{}), encoded(t, &streampb.Ack{})), "more than one"},
		{"the same twice", slices.Concat(encoded(t, &streampb.Sent{}), encoded(t, &streampb.Sent{})), "more than one"},
		{"not UTF-8", []byte("\x1a\x03\x0a\x01\xff"), "not a Control"},
		{"many watches", encoded(t, &streampb.Watch{Add: adds}), "100000 watches added"},
		{"many removes", encoded(t, &streampb.Watch{Remove: many(MaxWatches + 1)}), "100000 watches removed"},
		{"many ranges", encoded(t, &streampb.Ack{Ranges: ranges}), "10000 ranges"},
		{"many counts", encoded(t, &streampb.Watch{Add: []*streampb.Watch_Add{{ClassCounts: make([]uint64, MaxClassCounts+1)}}}), "64 class counts"},
		{"long source id", encoded(t, &streampb.Watch{Add: []*streampb.Watch_Add{{SourceId: long}}}), "4097 bytes"},
		{"long token", encoded(t, &streampb.Token{Token: strings.Repeat("x", MaxToken+6)}), "16"},
		{"long Doppler", encoded(t, &streampb.Ack{Doppler: long}), "4097 bytes"},
	} {
		if _, err := DecodeControl(test.msg); err == nil || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestUnpackedCountsToo(t *testing.T) {
	var watch []byte
	for range MaxWatches + 1 {
		watch = protowire.AppendVarint(protowire.AppendTag(watch, watchRemove, protowire.VarintType), 1)
	}
	msg := protowire.AppendBytes(protowire.AppendTag(nil, controlWatch, protowire.BytesType), watch)
	if _, err := DecodeControl(msg); err == nil {
		t.Error("too many unpacked removes taken")
	}
}

// TestAppendByHand has the hand-made encodings be what protobuf makes of them.
func TestAppendByHand(t *testing.T) {
	for _, n := range []uint64{0, 1, 127, 128, 1 << 63} {
		got := &streampb.Control{}
		if err := proto.Unmarshal(AppendSent([]byte{}, n), got); err != nil || got.GetSent().GetLease() != n || got.GetSent() == nil {
			t.Errorf("Sent{%d}: %v, %v", n, got, err)
		}
		for _, name := range []string{"", "d", strings.Repeat("d", 200)} {
			ranges := []OffsetRange{{}, {n, n}, {1, n}}
			msg := AppendAck([]byte("kept"), name, n, ranges...)
			want := &streampb.Ack{Doppler: name, Epoch: n, Ranges: []*streampb.Range{{}, {First: n, Last: n}, {First: 1, Last: n}}}
			got, err := DecodeControl(msg[len("kept"):])
			if err != nil || !proto.Equal(got.GetAck(), want) || !bytes.HasPrefix(msg, []byte("kept")) {
				t.Errorf("%v: %v, %v", want, got, err)
			}
		}
	}
	buf := make([]byte, 0, 256)
	ranges := []OffsetRange{{1, 2}}
	if n := testing.AllocsPerRun(100, func() {
		buf = AppendAck(AppendSent(buf[:0], 300), "doppler", 1<<60, ranges...)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestAckRanges(t *testing.T) {
	p := &streampb.Position{Doppler: "d", Epoch: 1, First: 10, Count: 3, Deltas: []uint32{1, 5}}
	for _, test := range []struct {
		name string
		b    *streampb.Batch
		want []OffsetRange
	}{
		{"nothing", &streampb.Batch{Hello: &streampb.Hello{}}, nil},
		{"position alone", &streampb.Batch{Position: &streampb.Position{First: 3, Next: 3}}, nil},
		{"contiguous", &streampb.Batch{Position: &streampb.Position{First: 3, Count: 2}}, []OffsetRange{{3, 4}}},
		{"envelopes and gaps", &streampb.Batch{Position: p, Gaps: []*streampb.Gap{
			{From: 2, To: 10}, {Doppler: "d", Epoch: 1, From: 1, To: 2}, {Doppler: "other", Epoch: 1, From: 1, To: 9},
			{Doppler: "d", Epoch: 9, From: 1, To: 9}, {Reason: streampb.Gap_DOPPLER_LOST}}},
			[]OffsetRange{{2, 9}, {1, 1}, {10, 16}}},
		{"gap alone", &streampb.Batch{Position: &streampb.Position{Doppler: "d", Epoch: 1, First: 9}, Gaps: []*streampb.Gap{{From: 2, To: 9}}}, []OffsetRange{{2, 8}}},
	} {
		if got := AckRanges(nil, test.b); !slices.Equal(got, test.want) {
			t.Errorf("%s: %v, want %v", test.name, got, test.want)
		}
	}
}

// FuzzDecodeControl finds that what is taken is what protobuf reads, and
// within the limits.
func FuzzDecodeControl(f *testing.F) {
	for _, m := range goodControls() {
		if p := encoded(f, m); len(p) < 200 { // short inputs are quick
			f.Add(p)
		}
	}
	f.Add([]byte("\x08\x01\x12\x02\x08\x05"))
	f.Add([]byte("\x1a\x04\x1a\x02\x0a\x00"))
	f.Fuzz(func(t *testing.T, msg []byte) {
		got, err := DecodeControl(msg)
		want := &streampb.Control{}
		if fault := discardUnknown.Unmarshal(msg, want); err == nil && (fault != nil || !proto.Equal(got, want)) {
			t.Fatalf("%v, protobuf reads %v, %v", got, want, fault)
		}
		if err != nil {
			return
		}
		if len(got.GetWatch().GetAdd()) > MaxWatches || len(got.GetWatch().GetRemove()) > MaxWatches || len(got.GetAck().GetRanges()) > MaxRanges {
			t.Error("over the limits")
		}
		again, err := AppendControl(nil, got)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := DecodeControl(again); err != nil || !proto.Equal(back, got) {
			t.Errorf("%v comes back as %v, %v", got, back, err)
		}
	})
}
