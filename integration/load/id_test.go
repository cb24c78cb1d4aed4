package load

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestDigits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	numbers := []uint64{0, 9, 10, 99, 9999, 10000, 99_999_999, 100_000_000, perSource - 1}
	for range 10000 {
		numbers = append(numbers, rng.Uint64N(perSource), rng.Uint64N(1e8), rng.Uint64N(1e4))
	}
	for _, n := range numbers {
		id := ID{Sender: rng.IntN(MaxSenders), Source: rng.IntN(MaxSources), N: n}
		b := fmt.Appendf(nil, "%03d%06d", id.Sender, id.Source)
		b = append(b, make([]byte, 11)...)
		putDigits(b[9:], n)
		if want := fmt.Sprintf("%020d", id.Pack()); string(b) != want {
			t.Fatalf("%+v is written %q, want %q", id, b, want)
		}
		packed, ok := parseDigits(b)
		if !ok || Unpack(packed) != id {
			t.Fatalf("%q is read as %+v, %t, want %+v", b, Unpack(packed), ok, id)
		}
	}
}

func TestDigitsRefuseOthers(t *testing.T) {
	for at := range digits {
		for _, c := range []byte{0, ' ', '/', ':', 'a', 0x80, 0xff} {
			b := []byte("01234567890123456789")
			b[at] = c
			if _, ok := parseDigits(b); ok {
				t.Errorf("%q is taken for digits", b)
			}
		}
	}
}
