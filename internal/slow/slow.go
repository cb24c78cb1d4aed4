// Package slow decides which readers are slow, from how far they are behind,
// and says so in words.
//
// It has no clock: whoever asks brings the time, and looks at a reader from time
// to time. A reader over its limits at one look may have met a burst; it is slow
// when it is over them at several in a row and did not catch up meanwhile.
package slow

import (
	"fmt"
	"time"

	"github.com/a1ea6966/loggregator/internal/figures"
)

// Lag is how far a reader is behind.
type Lag struct {
	Envelopes uint64
	Bytes     uint64        // of them
	Age       time.Duration // since the oldest of them came
	Dropped   uint64        // envelopes that it was told it misses, ever
}

// Consumer is how the reason begins for which a slow reader is cut.
const Consumer = "slow consumer"

// Reason says why a reader is cut: it is behind.
func Reason(l Lag) string { return Consumer + ": " + l.String() }

// StuckReason says why a reader is cut that has taken nothing for so long.
func StuckReason(took time.Duration, l Lag) string {
	return fmt.Sprintf("%s: took nothing for %v, %s", Consumer, took, l)
}

// String says it in words that fit into a close frame.
func (l Lag) String() string {
	return fmt.Sprintf("%s envelopes (%s, %s) behind, %s dropped",
		figures.Count(l.Envelopes), figures.Seconds(l.Age.Seconds()), figures.Bytes(l.Bytes), figures.Count(l.Dropped))
}

// Judge remembers the last looks at one reader. The zero value is ready.
type Judge struct {
	looks int // in a row at which it was over its limits
	first Lag // at the first of them
	last  Lag // at the last look of all
}

// Looks is at how many looks in a row a reader has to be over its limits to be
// slow.
const Looks = 3

// Verdict is what a look says of a reader.
type Verdict int

// The verdicts.
const (
	Fine   Verdict = iota // within its limits
	Behind                // over them, but not for long or catching up
	Slow
)

// Look judges a reader that is so far behind. Over its limits is also who lost
// something since the last look: there may be no room for more lag.
func (j *Judge) Look(p Policy, l Lag) Verdict {
	loses := l.Dropped > j.last.Dropped
	j.last = l
	if !p.Over(l) && !loses {
		j.looks = 0
		return Fine
	}
	if j.looks == 0 {
		j.first = l
	}
	j.looks++
	switch {
	case j.looks < Looks:
		return Behind
	case p.catchesUp(j.first, l):
		j.looks, j.first = 1, l
		return Behind
	}
	return Slow
}

// Over tells whether a lag is over a limit.
func (p Policy) Over(l Lag) bool { return p.old(l) || p.big(l) }

func (p Policy) old(l Lag) bool { return p.Age > 0 && l.Age > p.Age }

func (p Policy) big(l Lag) bool { return p.Bytes > 0 && l.Bytes > uint64(p.Bytes) }

// catchesUp tells whether a reader has nothing lost and less of what it has too
// much of.
func (p Policy) catchesUp(from, to Lag) bool {
	return to.Dropped == from.Dropped && (!p.old(to) || to.Age < from.Age) && (!p.big(to) || to.Bytes < from.Bytes)
}

// Cut is why a slow reader was cut.
type Cut int

// The causes.
const (
	NotCut  Cut = iota
	Lagging     // over its limits of lag
	Stuck       // took nothing for too long
	NumCuts
)

// String is the name that metrics have for it.
func (c Cut) String() string { return [...]string{"not", "lag", "stuck"}[c] }
