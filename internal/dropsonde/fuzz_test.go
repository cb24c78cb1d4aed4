package dropsonde_test

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// maxFuzzed keeps the fuzzer on inputs that it can mutate and minimise fast.
const maxFuzzed = 4096

func FuzzV2ToV1(f *testing.F) {
	for _, c := range v2Vectors(f) {
		f.Add([]byte(c.V2))
	}
	for _, v2 := range odd {
		f.Add([]byte(v2))
	}
	f.Add(envelopetest.Reference())
	f.Fuzz(func(t *testing.T, v2 []byte) {
		if len(v2) <= maxFuzzed {
			checkV1(t, &dropsonde.Encoder{}, v2)
		}
	})
}

func FuzzV1ToV2(f *testing.F) {
	for _, c := range v1Vectors(f) {
		f.Add([]byte(c.V1))
	}
	for _, c := range v2Vectors(f) {
		for _, o := range c.ToV1 {
			f.Add([]byte(o.Hex))
		}
	}
	// Bytes that are not UTF-8, odd entries, an event in two parts.
	f.Add([]byte(num(2, 6) + str(1, "\xff") + str(17, pair("\xffk", "\xe2\x82")) + str(9, str(1, "\xc0a")+str(3, "\xff"))))
	f.Add([]byte(num(2, 4) + str(17, str(2, "v")+str(1, "k")) + str(7, str(3, num(1, 1))+str(15, "\xff")+str(15, "b")) +
		str(7, str(3, num(2, 2))+str(12, num(1, 3)))))
	f.Fuzz(func(t *testing.T, v1 []byte) {
		if len(v1) <= maxFuzzed {
			checkV2(t, &dropsonde.Encoder{}, v1)
		}
	})
}
