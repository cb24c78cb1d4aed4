package canary

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Line says in one line for people how it goes; how long envelopes were under
// way is since the last line.
func Line(b *Book) string {
	var s strings.Builder
	emitted := uint64(0)
	for _, l := range b.Lanes() {
		emitted += l.Emitted
	}
	fmt.Fprintf(&s, "sent %d", emitted)
	word := "ok"
	for _, p := range Paths() {
		r := b.Path(p)
		recent, _ := b.Latency(p)
		fmt.Fprintf(&s, "  %s %d back%s%s", p, r.Received, times(&recent), r.trouble())
		if r.fault() != nil {
			word = "FAULT"
		}
	}
	return s.String() + "  " + word
}

func times(s *Spread) string {
	if s.Total() == 0 {
		return ""
	}
	return fmt.Sprintf(" p50 %s p99 %s", short(s.Quantile(0.5)), short(s.Quantile(0.99)))
}

// short rounds to what a person reads.
func short(d time.Duration) time.Duration {
	for unit := time.Microsecond; unit < time.Second; unit *= 10 {
		if d < 100*unit {
			return d.Round(unit)
		}
	}
	return d.Round(time.Second)
}

// slow is how long one may be under way without a word about it.
const slow = time.Second

// trouble says what is not as it should be, whosever fault it is.
func (r *PathReport) trouble() string {
	var all []string
	add := func(n uint64, what string) {
		if n > 0 {
			all = append(all, fmt.Sprintf("%d %s", n, what))
		}
	}
	if r.Oldest >= slow {
		add(r.Outstanding, "outstanding, for up to "+short(r.Oldest).String())
	}
	add(r.Lost-r.Unexplained, "lost and told")
	add(r.Unexplained, "LOST WITHOUT A WORD")
	add(r.Late, "late")
	add(r.Given, "never confirmed")
	add(r.Duplicates, "DUPLICATE")
	add(r.Redelivered, "redelivered")
	add(r.Resent, "twice because sent twice")
	add(r.OutOfOrder, "OUT OF ORDER")
	add(r.Corrupt+r.Strange, "CORRUPT")
	add(r.Foreign, "of other canaries")
	add(r.Forgotten, "too late to tell")
	if len(all) == 0 {
		return ""
	}
	return " (" + strings.Join(all, ", ") + ")"
}

// fault is what the platform has promised never to do, or nil.
func (r *PathReport) fault() error {
	var faults []error
	add := func(n uint64, what string) {
		if n > 0 {
			faults = append(faults, fmt.Errorf("%d envelopes %s", n, what))
		}
	}
	add(r.Unexplained, "lost without a word")
	add(r.Duplicates, "delivered twice without a mark")
	add(r.Corrupt+r.Strange, "not as they were made")
	add(r.OutOfOrder, "out of order")
	return errors.Join(faults...)
}

// Fault is what the platform has promised never to do, on any path, or nil.
func Fault(b *Book) error {
	var faults []error
	for _, p := range Paths() {
		if err := b.faultOf(p); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

func (b *Book) faultOf(p Path) error {
	r := b.Path(p)
	err := r.fault()
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %s", p, strings.ReplaceAll(err.Error(), "\n", ", "))
}

// Summary says in a few lines for people how it went.
func Summary(b *Book) []string {
	var all []string
	for _, l := range b.Lanes() {
		all = append(all, l.text())
	}
	for _, p := range Paths() {
		r := b.Path(p)
		_, whole := b.Latency(p)
		text := fmt.Sprintf("%s: %d back", p, r.Received)
		if whole.Total() > 0 {
			text += fmt.Sprintf(", p50 %s, p99 %s, slowest %s", short(whole.Quantile(0.5)), short(whole.Quantile(0.99)), short(whole.Max()))
		}
		all = append(all, text+r.trouble())
	}
	if Fault(b) == nil {
		all = append(all, "nothing is wrong")
	}
	return all
}

func (l *LaneReport) text() string {
	confirmed := "all confirmed"
	if l.Confirmed != l.Emitted {
		confirmed = fmt.Sprintf("%d confirmed", l.Confirmed)
	}
	if l.Resent > 0 {
		confirmed += fmt.Sprintf(", %d sent again", l.Resent)
	}
	return fmt.Sprintf("to %s: %d sent, %s", l.Addr, l.Emitted, confirmed)
}
