package envelope_test

import (
	_ "embed"
	"encoding/hex"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
)

// Wire-level builders. A field is its key and value; msg joins fields.

func msg(fields ...string) string { return strings.Join(fields, "") }

func key(num uint64, typ protowire.Type) string {
	return string(protowire.AppendVarint(nil, num<<3|uint64(typ)))
}

func num(n, v uint64) string {
	return key(n, protowire.VarintType) + string(protowire.AppendVarint(nil, v))
}

func str(n uint64, v string) string {
	return key(n, protowire.BytesType) + string(protowire.AppendString(nil, v))
}

func fix64(n, v uint64) string {
	return key(n, protowire.Fixed64Type) + string(protowire.AppendFixed64(nil, v))
}

func fix32(n uint64, v uint32) string {
	return key(n, protowire.Fixed32Type) + string(protowire.AppendFixed32(nil, v))
}

func group(n uint64, fields ...string) string {
	return key(n, protowire.StartGroupType) + msg(fields...) + key(n, protowire.EndGroupType)
}

// pad writes v as a varint of at least n bytes.
func pad(v uint64, n int) string {
	b := protowire.AppendVarint(nil, v)
	for len(b) < n {
		b[len(b)-1] |= 0x80
		b = append(b, 0)
	}
	return string(b)
}

func entry(k, v string) string { return str(9, str(1, k)+str(2, v)) }

// old is an entry of deprecated_tags.
func old(k string, value ...string) string { return str(3, str(1, k)+str(2, msg(value...))) }

// metric is an entry of a gauge.
func metric(name, unit string, bits uint64) string {
	return str(1, str(1, name)+str(2, str(1, unit)+fix64(2, bits)))
}

const one = 0x3ff0000000000000 // bits of the double 1

func container(replace ...string) string {
	var s string
	for i, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
		if i < len(replace) {
			s += replace[i]
		} else {
			s += metric(name, "", one)
		}
	}
	return s
}

// sample is an envelope with the class it must get; rejected is none.
type sample struct {
	name  string
	class envelope.Class
	wire  string
}

const rejected envelope.Class = 255

var (
	logLine = str(4, str(1, "line")+num(2, 1))
	errTag  = entry("__v1_type", "Error")
	oldErr  = old("__v1_type", str(1, "Error"))
)

//go:embed testdata/vectors.txt
var vectors string

// vectorSamples returns the envelopes of the conversion vectors.
func vectorSamples(tb testing.TB) []sample {
	tb.Helper()
	classes := map[string]envelope.Class{"rejected": rejected}
	for c := range envelope.NumClasses {
		classes[envelope.Class(c).String()] = envelope.Class(c)
	}
	var samples []sample
	for line := range strings.Lines(vectors) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		class, ok := classes[f[1]]
		wire, err := hex.DecodeString(strings.TrimPrefix(f[2], "-"))
		if err != nil || !ok {
			tb.Fatalf("bad line for %s: %v", f[0], err)
		}
		samples = append(samples, sample{"vector " + f[0], class, string(wire)})
	}
	return samples
}

// allSamples returns every hand-made and every vector sample.
func allSamples(tb testing.TB) []sample {
	tb.Helper()
	all := append(kindSamples(), mergeSamples()...)
	all = append(all, wireSamples()...)
	all = append(all, sample{"reference", envelope.Log, string(envelopetest.Reference())})
	return append(all, vectorSamples(tb)...)
}
