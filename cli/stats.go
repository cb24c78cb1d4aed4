package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// stats counts envelopes, second by second.
type stats struct {
	since  time.Time
	counts [envelope.NumClasses]uint64
	bytes  uint64
	missed uint64
}

func newStats() *stats { return &stats{since: time.Now()} }

// add counts the first n envelopes of a batch, and its gaps.
func (s *stats) add(b *nozzle.Batch, n int) {
	for _, gap := range b.Gaps {
		s.missed += gap.GetCount()
	}
	for _, env := range b.All() {
		if n--; n < 0 {
			return
		}
		s.bytes += uint64(len(env))
		// The Doppler took it in, so it is well formed; if not, it has no class.
		class := envelope.None
		if r, err := envelope.ScanEnvelope(env, envelope.Limits{}); err == nil {
			class = r.Class
		}
		s.counts[class]++
	}
}

// line is what happened since the last line, per second.
func (s *stats) line(now time.Time) string {
	seconds := max(now.Sub(s.since).Seconds(), 1e-3)
	total := uint64(0)
	var parts []string
	for class, n := range s.counts {
		total += n
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s %.0f", envelope.Class(class), float64(n)/seconds))
		}
	}
	text := fmt.Sprintf("%s %10.0f envelopes/s %8.2f MiB/s", now.Format("15:04:05"),
		float64(total)/seconds, float64(s.bytes)/(1<<20)/seconds)
	if len(parts) > 0 {
		text += "   " + strings.Join(parts, ", ")
	}
	if s.missed > 0 {
		text += fmt.Sprintf("   %d missed", s.missed)
	}
	*s = stats{since: now}
	return text
}
