package dropsonde_test

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

func BenchmarkV2ToV1(b *testing.B) {
	b.Run("reference", func(b *testing.B) { benchV1(b, [][]byte{envelopetest.Reference()}) })
	b.Run("mixed", func(b *testing.B) { benchV1(b, mixed(b)) })
}

// mixed is every vector that has a v1 form.
func mixed(b *testing.B) [][]byte {
	b.Helper()
	var all [][]byte
	for _, c := range v2Vectors(b) {
		if len(c.ToV1) > 0 {
			all = append(all, c.V2)
		}
	}
	return all
}

func benchV1(b *testing.B, all [][]byte) {
	var e dropsonde.Encoder
	dst, ends := make([]byte, 0, 1<<16), make([]int, 0, 100)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		dst, ends = e.AppendV1(dst[:0], ends[:0], all[i])
		if i++; i == len(all) {
			i = 0
		}
	}
}

func BenchmarkV1ToV2(b *testing.B) {
	var e dropsonde.Encoder
	reference, _ := e.AppendV1(nil, nil, envelopetest.Reference())
	b.Run("reference", func(b *testing.B) { benchV2(b, [][]byte{reference}) })
	var all [][]byte
	for _, c := range v1Vectors(b) {
		all = append(all, c.V1)
	}
	b.Run("mixed", func(b *testing.B) { benchV2(b, all) })
}

func benchV2(b *testing.B, all [][]byte) {
	var e dropsonde.Encoder
	dst := make([]byte, 0, 1<<16)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var err error
		if dst, err = e.AppendV2(dst[:0], all[i]); err != nil {
			b.Fatal(err)
		}
		if i++; i == len(all) {
			i = 0
		}
	}
}
