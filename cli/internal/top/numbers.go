package top

import (
	"fmt"
	"strconv"

	"github.com/a1ea6966/loggregator/internal/figures"
)

// rate writes envelopes per second; small ones keep a digit.
func rate(perSecond float64) string {
	if perSecond > 0 && perSecond < 9.95 {
		return strconv.FormatFloat(perSecond, 'f', 1, 64)
	}
	return figures.Count(uint64(perSecond + 0.5))
}

// percent writes what part of total v is.
func percent(v, total float64) string {
	if total <= 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f%%", 100*min(v/total, 1))
}

// span writes how long something lasts, if it does.
func span(seconds float64) string {
	if seconds <= 0 {
		return "-"
	}
	return figures.Seconds(seconds)
}
