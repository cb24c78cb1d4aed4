package nozzle

import (
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// step is something that happens to a schedule at a time, and what it answers.
type step struct {
	at   time.Duration
	what func(s *schedule, now time.Time) time.Duration
	want time.Duration
}

// says is an answer of the server, read at the step's time.
func says(left time.Duration, fault string) func(*schedule, time.Time) time.Duration {
	return func(s *schedule, now time.Time) time.Duration {
		return s.answered(&streampb.Access{ExpiresInMillis: left.Milliseconds(), Error: fault}, now)
	}
}

func sends(s *schedule, now time.Time) time.Duration { return s.asked(now) }

func TestSchedule(t *testing.T) {
	const m, s = time.Minute, time.Second
	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"of who reads at once", []step{{0, says(10*m, ""), 9 * m}, {9 * m, sends, 30 * s}, {9 * m, says(10*m, ""), 9 * m}, {18 * m, sends, 30 * s}}},
		{"of short tokens", []step{{0, says(20*s, ""), 15 * s}, {15 * s, sends, 2500 * time.Millisecond}, {15 * s, says(2*s, ""), 1500 * time.Millisecond}}},
		{"of who reads late", []step{{4 * m, says(10*m, ""), 5 * m}, {9 * m, sends, 30 * s}, {9*m + 20*s, says(10*m, ""), 8*m + 40*s}}},
		{"of who reads too late", []step{{20 * m, says(10*m, ""), s}, {20*m + s, sends, m}}},
		{"without answers", []step{{0, says(10*m, ""), 9 * m}, {9 * m, sends, 30 * s}, {9*m + 30*s, sends, 15 * s}, {9*m + 45*s, sends, 7500 * time.Millisecond}, {10*m - s, sends, s}, {10 * m, sends, m}}},
		{"of answers to tokens under way", []step{
			{0, says(10*m, ""), 9 * m}, {9 * m, sends, 30 * s}, {9*m + 30*s, sends, 15 * s},
			{9*m + 40*s, says(10*m, ""), 8*m + 20*s}, // to the first
			{9*m + 40*s, says(10*m, ""), 8*m + 50*s}, // to the second
			{18*m + 30*s, sends, 30 * s},
		}},
		{"of a token that does not end", []step{{0, says(0, ""), 0}}},
		{"of one that was replaced by such", []step{{0, says(10*m, ""), 9 * m}, {9 * m, sends, 30 * s}, {9 * m, says(0, ""), 0}}},
		{"of a token that was refused", []step{{0, says(10*m, ""), 9 * m}, {9 * m, sends, 30 * s}, {9 * m, says(m, "no"), 45 * s}, {9*m + 45*s, sends, 7500 * time.Millisecond}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			began := time.Unix(1e9, 0)
			s := newSchedule(began)
			for i, step := range tc.steps {
				if got := step.what(s, began.Add(step.at)); got != step.want {
					t.Errorf("step %d: wait %s, not %s", i, got, step.want)
				}
			}
		})
	}
}

// Failures in a row are further and further apart, but no further than a quarter
// of what was left at the first; a token that was taken is a new beginning.
func TestScheduleOfFailures(t *testing.T) {
	now := time.Unix(1e9, 0)
	for _, tc := range []struct {
		left, most time.Duration
		tries      int // at most, until the token has ended
	}{{40 * time.Second, 10 * time.Second, 14}, {2 * time.Second, time.Second, 5}, {-time.Second, earliness, 0}} {
		s := newSchedule(now)
		s.ends = now.Add(tc.left)
		tries := 0
		for past := time.Duration(0); tries < 50; tries++ {
			wait := s.failed(now.Add(past))
			if tries == 0 && wait > 3*soonestRenewal/2 || wait < soonestRenewal/2 || wait > tc.most*3/2 {
				t.Errorf("%s left: wait %d is %s", tc.left, tries, wait)
			}
			if past += wait; past > tc.left {
				break
			}
		}
		if tries > tc.tries || s.failures != tries+1 {
			t.Errorf("%s left: %d tries, %d failures", tc.left, tries, s.failures)
		}
		// A server that refuses is not asked more often.
		s.asked(now)
		if wait := s.answered(&streampb.Access{ExpiresInMillis: 1, Error: "no"}, now); wait < soonestRenewal || s.failures != tries+2 {
			t.Errorf("%s left: refused for the %dth time, wait %s", tc.left, s.failures, wait)
		}
		s.asked(now)
		s.answered(&streampb.Access{ExpiresInMillis: 1000}, now)
		if wait := s.failed(now); s.failures != 1 || wait > 3*soonestRenewal/2 {
			t.Errorf("%s left: begins anew with %d failures, wait %s", tc.left, s.failures, wait)
		}
	}
}
