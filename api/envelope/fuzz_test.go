package envelope_test

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// maxFuzzed keeps the fuzzer on inputs that it can mutate and minimise fast.
// Larger ones are the matter of the other tests.
const maxFuzzed = 4096

func FuzzScanEnvelope(f *testing.F) {
	for _, s := range allSamples(f) {
		if len(s.wire) <= maxFuzzed {
			f.Add([]byte(s.wire))
		}
	}
	f.Fuzz(func(t *testing.T, env []byte) {
		if len(env) > maxFuzzed {
			return
		}
		if _, err := checkEnvelope(env); err != nil {
			t.Error(err)
		}
	})
}

func FuzzScanBatch(f *testing.F) {
	var few string
	for i, s := range allSamples(f) {
		if len(s.wire) <= maxFuzzed/2 {
			f.Add([]byte(str(1, s.wire) + str(1, "\x08\x01")))
		}
		if i%8 == 0 && len(few)+len(s.wire) < maxFuzzed/2 {
			few += str(1, s.wire)
		}
	}
	f.Add([]byte(few))
	f.Add([]byte(str(1, logLine) + str(1001, "forged") + num(1, 1) + group(7) + str(1, "") + key(9, 4)))
	f.Add([]byte(pad(1<<3|2, 3) + pad(uint64(len(logLine)), 2) + logLine + "\x0a\x7f"))
	f.Fuzz(func(t *testing.T, batch []byte) {
		if len(batch) > maxFuzzed {
			return
		}
		if err := checkBatch(batch, envelope.Limits{MaxEnvelope: 600, MaxSourceID: 40}); err != nil {
			t.Error(err)
		}
	})
}

// Records are trusted bytes; Walk must still end, within them.
func FuzzWalk(f *testing.F) {
	f.Add([]byte(str(1, logLine) + str(1, "")))
	f.Add([]byte("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"))
	f.Add([]byte("\x12\x00\x0a"))
	f.Fuzz(func(t *testing.T, records []byte) {
		var n int
		for env := range envelope.Walk(records) {
			n += len(env) + 2
		}
		if n > len(records) {
			t.Errorf("%d bytes of records in %d", n, len(records))
		}
	})
}
