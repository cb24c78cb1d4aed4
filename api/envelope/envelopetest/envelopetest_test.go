package envelopetest_test

import (
	"bytes"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

func decode(t *testing.T, env []byte) *loggregatorv2.Envelope {
	t.Helper()
	e := &loggregatorv2.Envelope{}
	if err := proto.Unmarshal(env, e); err != nil {
		t.Fatal(err)
	}
	return e
}

func TestReference(t *testing.T) {
	ref := envelopetest.Reference()
	e := decode(t, ref)
	if len(ref) != envelopetest.ReferenceSize || len(e.GetTags()) != 8 || e.GetLog() == nil {
		t.Errorf("%d bytes, %d tags, %T", len(ref), len(e.GetTags()), e.GetMessage())
	}
	if e.GetSourceId() != envelopetest.ReferenceSource || e.GetTimestamp() != envelopetest.ReferenceTime {
		t.Errorf("source id %q, timestamp %d", e.GetSourceId(), e.GetTimestamp())
	}
	ref[0] = 0xff
	if bytes.Equal(ref, envelopetest.Reference()) {
		t.Error("Reference returned the same memory twice")
	}
}

func TestStampMakesTheReference(t *testing.T) {
	s, err := envelopetest.NewStamp(envelopetest.ReferenceSource)
	if err != nil {
		t.Fatal(err)
	}
	got := s.Append(nil, 0, time.Unix(0, envelopetest.ReferenceTime))
	if !bytes.Equal(got, envelopetest.Reference()) {
		t.Errorf("other bytes than the committed file: %q", got)
	}
}

func TestStamp(t *testing.T) {
	at := time.Unix(1_800_000_000, 42)
	for _, source := range []string{"", "a", envelopetest.Source(7), strings.Repeat("s", 64)} {
		s, err := envelopetest.NewStamp(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, seq := range []uint64{0, 7, math.MaxUint64} {
			env := s.Append([]byte("x"), seq, at)[1:]
			e := decode(t, env)
			if len(env) != envelopetest.ReferenceSize || len(env) != s.Size() || len(e.GetTags()) != 8 {
				t.Errorf("%q: %d bytes, Size %d, %d tags", source, len(env), s.Size(), len(e.GetTags()))
			}
			if e.GetSourceId() != source || e.GetTimestamp() != at.UnixNano() {
				t.Errorf("%q: source id %q, timestamp %d", source, e.GetSourceId(), e.GetTimestamp())
			}
			if got, ok := envelopetest.Sequence(env); got != seq || !ok {
				t.Errorf("%q: sequence %d, want %d", source, got, seq)
			}
			if got, ok := envelopetest.Sent(env); !got.Equal(at) || !ok {
				t.Errorf("%q: sent %v, want %v", source, got, at)
			}
			record := s.AppendRecord([]byte("x"), seq, at)[1:]
			if !bytes.Equal(record, envelope.AppendRecord(nil, env)) || len(record) != s.RecordSize() {
				t.Errorf("%q: record %q", source, record)
			}
		}
	}
}

func TestStampRefuses(t *testing.T) {
	if _, err := envelopetest.NewStamp("\xff"); err == nil {
		t.Error("a source id that is not UTF-8 was taken")
	}
	s, err := envelopetest.NewStamp(strings.Repeat("s", 300))
	if err != nil || s.Size() <= envelopetest.ReferenceSize {
		t.Errorf("long source id: %v", err)
	}
}

func TestForeignBytes(t *testing.T) {
	for _, env := range []string{"", "x", strings.Repeat("x", 30), "\x08" + strings.Repeat("\xff", 30)} {
		if _, ok := envelopetest.Sequence([]byte(env)); ok {
			t.Errorf("sequence of %q", env)
		}
		if _, ok := envelopetest.Sent([]byte(env)); ok {
			t.Errorf("time of %q", env)
		}
	}
}

func TestStampDoesNotAllocate(t *testing.T) {
	s, err := envelopetest.NewStamp(envelopetest.ReferenceSource)
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(0, envelopetest.ReferenceTime)
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buf = s.AppendRecord(buf[:0], 1, at) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRandom(t *testing.T) {
	rng, again := rand.New(rand.NewPCG(1, 1)), rand.New(rand.NewPCG(1, 1))
	var seen envelope.ClassMask
	smallest, largest := math.MaxInt, 0
	for range 2000 {
		e := envelopetest.Random(rng, envelopetest.RandomOptions{})
		env, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(e, envelopetest.Random(again, envelopetest.RandomOptions{})) {
			t.Fatal("the same seed made another envelope")
		}
		r, err := envelope.ScanEnvelope(env, envelope.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		seen |= envelope.Mask(r.Class)
		smallest, largest = min(smallest, len(env)), max(largest, len(env))
	}
	if seen != envelope.AllClasses {
		t.Errorf("classes %b", seen)
	}
	if smallest > 35 || smallest < 18 || largest > 60_000 || largest < 50_000 {
		t.Errorf("%d to %d bytes", smallest, largest)
	}
}

func TestRandomOptions(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for c := range envelope.NumClasses {
		class := envelope.Class(c)
		o := envelopetest.RandomOptions{Classes: envelope.Mask(class), MinSize: 1000, MaxSize: 1000, Sources: 1}
		for range 50 {
			env, err := proto.Marshal(envelopetest.Random(rng, o))
			if err != nil {
				t.Fatal(err)
			}
			r, err := envelope.ScanEnvelope(env, envelope.Limits{})
			if err != nil || r.Class != class {
				t.Fatalf("class %v, want %v: %v", r.Class, class, err)
			}
			if len(env) < 930 || len(env) > 1000 || string(envelope.SourceID(env)) != envelopetest.Source(0) {
				t.Errorf("%v: %d bytes of %s", class, len(env), envelope.SourceID(env))
			}
		}
	}
}
