package dropsonde

import "math"

// parseInt reads a decimal number as strconv.ParseInt does, without making an
// error: what is not a number of that many bits is 0.
func parseInt(s []byte, bits uint) int64 {
	negative := len(s) > 0 && s[0] == '-'
	if negative || len(s) > 0 && s[0] == '+' {
		s = s[1:]
	}
	limit := uint64(1)<<(bits-1) - 1
	if negative {
		limit++
	}
	var v uint64
	for _, c := range s {
		d := uint64(c - '0')
		if c < '0' || c > '9' || v > (limit-d)/10 {
			return 0
		}
		v = v*10 + d
	}
	if negative {
		return -int64(v)
	}
	return int64(v)
}

// toUint64 cuts off the fraction. Out of range it is what Go on amd64 returns,
// and thus what v1 clients know.
func toUint64(f float64) uint64 {
	switch {
	case f >= 1<<63 && f < 1<<64:
		return uint64(f)
	case f > -1<<63 && f < 1<<63:
		return uint64(int64(f))
	}
	return 1 << 63
}

// toInt32 is toUint64 for an int32.
func toInt32(f float64) int32 {
	if f > math.MinInt32-1 && f < math.MaxInt32+1 {
		return int32(f)
	}
	return math.MinInt32
}
