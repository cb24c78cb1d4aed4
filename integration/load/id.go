// Package load makes numbered envelopes, pushes them into a Doppler at a
// given rate or as fast as it takes them, and accounts for them on the other
// side: what is missing, doubled, out of order, and how long each was under
// way. Both ends work on encoded bytes and cost little, because they share a
// machine with what they measure.
package load

import "encoding/binary"

// ID numbers an envelope: the Nth, from 0, that this sender sent for this
// source. As a decimal number it reads SSSssssssNNNNNNNNNNN.
type ID struct {
	Sender, Source int
	N              uint64
}

// Limits of an ID.
const (
	MaxSenders = 184
	MaxSources = 1_000_000

	perSource = 100_000_000_000
	perSender = perSource * MaxSources
)

// Pack makes one number of an ID within the limits.
func (id ID) Pack() uint64 {
	return uint64(id.Sender)*perSender + uint64(id.Source)*perSource + id.N
}

// Unpack is the reverse of Pack.
func Unpack(packed uint64) ID {
	return ID{
		Sender: int(packed / perSender),
		Source: int(packed % perSender / perSource),
		N:      packed % perSource,
	}
}

// digits is the length of an ID in decimal.
const digits = 20

// putDigits writes the last 11 digits of an ID, which are N, in decimal.
func putDigits(dst []byte, n uint64) {
	low := n % 100_000_000
	binary.LittleEndian.PutUint64(dst[3:11], eightDigits(low))
	high := n / 100_000_000
	dst[0], dst[1], dst[2] = '0'+byte(high/100), '0'+byte(high/10%10), '0'+byte(high%10)
}

// eightDigits spreads a number below 10^8 over eight ASCII digits, the first
// one in the lowest byte, by halving it three times in parallel.
func eightDigits(n uint64) uint64 {
	pairs := n/10_000 | n%10_000<<32
	// Two numbers below 10^4, then four below 100, then eight below 10.
	hundreds := pairs * 10486 >> 20 & 0x7f_0000007f
	fours := hundreds | (pairs-hundreds*100)<<16
	tens := fours * 103 >> 10 & 0x000f_000f_000f_000f
	return (tens | (fours-tens*10)<<8) + 0x30303030_30303030
}

// parseDigits reads 20 decimal digits; ok is false when there is anything else
// among them.
func parseDigits(b []byte) (n uint64, ok bool) {
	_ = b[digits-1]
	a, aok := parseEight(binary.LittleEndian.Uint64(b))
	m, mok := parseEight(binary.LittleEndian.Uint64(b[8:]))
	// The last four once more behind the four before them, which are known.
	z, zok := parseEight(binary.LittleEndian.Uint64(b[12:]))
	return a*1_000_000_000_000 + m*10_000 + z%10_000, aok && mok && zok
}

func parseEight(chunk uint64) (n uint64, ok bool) {
	v := chunk - 0x30303030_30303030
	// A byte below '0' borrows and one above '9' carries into its top bit.
	ok = (v|(v+0x76767676_76767676))&0x80808080_80808080 == 0
	v = v*10 + v>>8
	const mask = 0x000000ff_000000ff
	return (v&mask*0x000f4240_00000064 + v>>16&mask*0x00002710_00000001) >> 32 & 0xffffffff, ok
}
