// Package figures writes numbers for people: in views, and in reasons why a
// connection was closed.
package figures

import (
	"fmt"
	"strconv"
	"time"
)

// Count writes a number with its thousands apart.
func Count(n uint64) string {
	digits := strconv.FormatUint(n, 10)
	out := make([]byte, 0, len(digits)+len(digits)/3)
	for i := range len(digits) {
		if i > 0 && (len(digits)-i)%3 == 0 {
			out = append(out, ',')
		}
		out = append(out, digits[i])
	}
	return string(out)
}

// Bytes writes a size in the unit that fits.
func Bytes(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	v, i := float64(n)/1024, 0
	for v >= 1023.95 && i < len(units)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, units[i])
}

// Seconds writes a time that passed: short ones with a digit, long ones in
// hours, minutes and seconds.
func Seconds(seconds float64) string {
	switch {
	case seconds < 10:
		return fmt.Sprintf("%.1f s", max(seconds, 0))
	case seconds < 120:
		return fmt.Sprintf("%.0f s", seconds)
	}
	return time.Duration(seconds * float64(time.Second)).Round(time.Second).String()
}
