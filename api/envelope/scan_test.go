package envelope_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
)

func TestScanEnvelopeSamples(t *testing.T) {
	for _, s := range allSamples(t) {
		t.Run(s.name, func(t *testing.T) {
			accepted, err := checkEnvelope([]byte(s.wire))
			if err != nil {
				t.Error(err)
			}
			if accepted != (s.class != rejected) {
				t.Fatalf("accepted: %v", accepted)
			}
			if !accepted {
				return
			}
			if r, _ := envelope.ScanEnvelope([]byte(s.wire), envelope.Limits{}); r.Class != s.class {
				t.Errorf("class %v, want %v", r.Class, s.class)
			}
		})
	}
}

// Every prefix of an envelope ends at some place where one may not.
func TestScanEnvelopePrefixes(t *testing.T) {
	for _, s := range allSamples(t) {
		if len(s.wire) > 1000 {
			continue
		}
		for n := range len(s.wire) {
			if _, err := checkEnvelope([]byte(s.wire[:n])); err != nil {
				t.Errorf("%s, first %d bytes: %v", s.name, n, err)
			}
		}
	}
}

func TestScanBatchSamples(t *testing.T) {
	lim := envelope.Limits{MaxEnvelope: 400, MaxSourceID: 40}
	all := allSamples(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		rng.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		var b strings.Builder
		for _, s := range all[:rng.IntN(20)] {
			switch rng.IntN(20) {
			case 0:
				b.WriteString(num(uint64(rng.IntN(5)+1), 1))
			case 1:
				b.WriteString(group(1, str(1, "x")))
			case 2:
				b.WriteString(pad(1<<3|2, rng.IntN(4)) + pad(uint64(len(s.wire)), rng.IntN(6)) + s.wire)
			default:
				b.WriteString(str(1, s.wire))
			}
		}
		batch := b.String()
		if rng.IntN(3) == 0 {
			batch = batch[:rng.IntN(len(batch)+1)]
		}
		if err := checkBatch([]byte(batch), lim); err != nil {
			t.Errorf("%x: %v", batch, err)
		}
	}
}

func TestScanBatchKeepsNeighbours(t *testing.T) {
	good := string(envelopetest.Reference())
	big := str(4, str(1, strings.Repeat("x", 1000)))
	batch := []byte(msg(
		str(1, good),
		str(1, "\x12\x01\xff"),
		str(1001, "position, forged"),
		pad(1<<3|2, 2), pad(500, 2), good,
		str(1, big),
		str(1, str(2, strings.Repeat("s", 65))),
		pad(1<<3|2, 1), pad(500, 3), good,
		str(1, good),
		"\x0a\xff\x7f", good,
	))
	lim := envelope.Limits{MaxEnvelope: 999, MaxSourceID: 64}
	records, d := envelope.ScanBatch(batch, lim, nil)
	want := envelope.Dropped{Malformed: 1, TooLarge: 1, SourceTooLong: 1, UnknownFields: 1, Truncated: true}
	if d != want || d.Envelopes() != 3 {
		t.Errorf("dropped %+v, want %+v", d, want)
	}
	var canonical []bool
	for _, r := range records {
		canonical = append(canonical, r.Canonical)
		if string(batch[r.Start:r.End]) != good {
			t.Errorf("other bytes: %q", batch[r.Start:r.End])
		}
	}
	if !slices.Equal(canonical, []bool{true, false, false, true}) {
		t.Errorf("canonical %v", canonical)
	}
}

func TestDefaultLimits(t *testing.T) {
	for _, tc := range []struct {
		name string
		wire string
		want error
	}{
		{"largest", str(4, strings.Repeat("\x10\x01", (envelope.DefaultMaxEnvelope-4)/2)), nil},
		{"too large", str(4, strings.Repeat("\x10\x01", envelope.DefaultMaxEnvelope/2)), envelope.ErrTooLarge},
		{"longest source", str(2, strings.Repeat("s", envelope.DefaultMaxSourceID)), nil},
		{"source too long", str(2, strings.Repeat("s", envelope.DefaultMaxSourceID+1)), envelope.ErrSourceTooLong},
		{"long source overruled", str(2, strings.Repeat("s", envelope.DefaultMaxSourceID+1)) + str(2, "s"), nil},
	} {
		if _, err := envelope.ScanEnvelope([]byte(tc.wire), envelope.Limits{}); !errors.Is(err, tc.want) {
			t.Errorf("%s (%d bytes): %v", tc.name, len(tc.wire), err)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	batch := referenceBatch(t, 100)
	records := make([]envelope.Record, 0, 100)
	env := envelopetest.Reference()
	gauge := []byte(str(6, container()))
	names := []string{"memory", "requests"}
	room := make([]byte, 0, 1024)
	for name, f := range map[string]func(){
		"ScanBatch":    func() { records, _ = envelope.ScanBatch(batch, envelope.Limits{}, records[:0]) },
		"ScanEnvelope": func() { _, _ = envelope.ScanEnvelope(env, envelope.Limits{}) },
		"AppendRecord": func() { room = envelope.AppendRecord(room[:0], env) },
		"MatchName":    func() { _ = envelope.MatchName(gauge, names) },
		"Readers":      func() { _, _ = envelope.Timestamp(env), envelope.SourceID(env) },
		"Walk": func() {
			for e := range envelope.Walk(batch) {
				_ = e
			}
		},
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestHashSource(t *testing.T) {
	a, err := envelope.ScanEnvelope([]byte(str(2, "a")), envelope.Limits{})
	if err != nil || a.Hash != envelope.HashSource("a") || a.Hash == envelope.HashSource("b") {
		t.Errorf("hash %x of a, HashSource %x, of b %x, %v", a.Hash, envelope.HashSource("a"), envelope.HashSource("b"), err)
	}
	for _, wire := range []string{"", str(2, ""), str(2, "a") + str(2, "")} {
		if r, err := envelope.ScanEnvelope([]byte(wire), envelope.Limits{}); err != nil || r.Hash != envelope.HashSource("") {
			t.Errorf("%x: hash %x, %v", wire, r.Hash, err)
		}
	}
}

// The batch of the empty envelopes has the most records for its size; chunks
// bound what they take.
func TestScanChunkBoundsRecords(t *testing.T) {
	batch := []byte(strings.Repeat(str(1, ""), 1000))
	dst := make([]envelope.Record, 0, 64)
	var d envelope.Dropped
	var n, calls int
	for next := 0; next < len(batch); calls++ {
		dst, next = envelope.ScanChunk(batch, next, envelope.Limits{}, dst[:0], &d)
		n += len(dst)
	}
	if n != 1000 || cap(dst) != 64 || calls != 16 || d != (envelope.Dropped{}) {
		t.Errorf("%d records in %d calls, room for %d, %+v", n, calls, cap(dst), d)
	}
}
