package top

import (
	"fmt"

	"github.com/a1ea6966/loggregator/internal/figures"
)

// View draws readings.
type View struct {
	// Title says what is looked at.
	Title string
	// Colour makes titles bold and drops red.
	Colour bool
}

const (
	bold  = "\x1b[1m"
	red   = "\x1b[31m"
	reset = "\x1b[0m"
)

// Lines draws one reading for a screen of so many columns; at most rows lines,
// or all there is if rows is 0. before is the reading before it, or nil: what
// is shown per second grew since then.
func (v View) Lines(now, before *Reading, columns, rows int) []string {
	head := v.head(now, columns)
	rings := ringTable(now)
	sources, subscriptions := sourceTable(now), subscriptionTable(now, before)
	if rows > 0 {
		// Blank lines and titles: one of each per table.
		left := rows - len(head) - (max(len(rings.rows), 1) + 2) - 2 - 2
		share(&sources, &subscriptions, max(left, 2))
	}
	out := head
	for _, t := range []table{rings, sources, subscriptions} {
		out = append(out, "")
		for i, line := range t.lines(columns) {
			if i == 0 {
				line = v.paint(bold, line)
			}
			out = append(out, line)
		}
	}
	if rows > 0 && len(out) > rows {
		out = out[:rows]
	}
	return out
}

func (v View) head(now *Reading, columns int) []string {
	known := len(now.Sources) // there may be more than are listed
	for _, r := range now.Rings {
		known = max(known, r.Known)
	}
	var lag, dropped uint64
	open, closed := 0, 0
	for _, s := range now.Subscriptions {
		if s.closed() {
			closed++
			continue
		}
		open++
		lag += s.Lag
		dropped += s.Dropped
	}
	title := fmt.Sprintf("%s   %s", v.Title, now.At.Format("15:04:05"))
	sum := fmt.Sprintf("%s envelopes/s from %s; %s, lag %s, dropped %s",
		rate(now.rate()), plural(known, "source"),
		plural(open, "subscription"), figures.Count(lag), figures.Count(dropped))
	if closed > 0 {
		sum += "; " + figures.Count(uint64(closed)) + " closed of late"
	}
	out := []string{v.paint(bold, clip(title, columns)), clip(sum, columns)}
	for _, fault := range now.Faults {
		out = append(out, v.paint(red, clip(fault, columns)))
	}
	return out
}

func (v View) paint(colour, s string) string {
	if !v.Colour || s == "" {
		return s
	}
	return colour + s + reset
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return figures.Count(uint64(n)) + " " + what + "s"
}

// share gives the two tables the rows there are: each its half, and what one
// does not need to the other.
func share(a, b *table, rows int) {
	half := rows / 2
	want := min(max(len(b.rows), 1), max(half, rows-len(a.rows)))
	b.limit(want)
	a.limit(rows - want)
}

// limit keeps the first rows so that with the line that tells of the others
// there are no more than n.
func (t *table) limit(n int) {
	if len(t.rows) <= n {
		return
	}
	keep := max(n-1, 0)
	t.more = len(t.rows) - keep
	t.rows = t.rows[:keep]
}

func ringTable(now *Reading) table {
	t := table{titles: []string{"DOPPLER", " PER SECOND", " TAKEN IN", " HELD", " BYTES HELD", " OF", " AT THIS RATE"}}
	for _, r := range now.Rings {
		t.rows = append(t.rows, []string{
			r.Doppler, rate(r.Rate), figures.Count(r.Head), figures.Count(r.Head - min(r.Oldest, r.Head)), figures.Bytes(r.HeldBytes), figures.Bytes(r.RingBytes), span(r.HeldSeconds),
		})
	}
	return t
}

func sourceTable(now *Reading) table {
	t := table{titles: []string{"SOURCE", " PER SECOND", " SHARE", " ENVELOPES", " BYTES", " HELD", " LIMITED", " LIMITED/S"}}
	total := now.rate()
	for _, s := range now.Sources {
		t.rows = append(t.rows, []string{s.ID, rate(s.Rate), percent(s.Rate, total), figures.Count(s.Envelopes), figures.Bytes(s.Bytes), figures.Count(s.Held), figures.Count(s.Limited), rate(s.LimitedRate)})
	}
	return t
}

// mostClosed is how many of the subscriptions that are gone are listed.
const mostClosed = 20

func subscriptionTable(now, before *Reading) table {
	t := table{titles: []string{"SUBSCRIPTION", "KIND", " LAG", " FOR", " BYTES", " DROPPED", " /S", " SENT/S", " SENT", " IN FLIGHT", "READER", "FROM", "STATE"}}
	grew := func(s Subscription, of func(Subscription) uint64) string {
		if v, ok := s.perSecond(now, before, of); ok && !s.closed() {
			return rate(v)
		}
		return "-"
	}
	closed := 0
	for _, s := range now.Subscriptions {
		if s.closed() {
			if closed++; closed > mostClosed {
				break // the others went before
			}
		}
		t.rows = append(t.rows, []string{
			s.name(), s.Kind, figures.Count(s.Lag), span(s.LagAge), figures.Bytes(s.LagBytes),
			figures.Count(s.Dropped), grew(s, func(s Subscription) uint64 { return s.Dropped }),
			grew(s, func(s Subscription) uint64 { return s.Sent }), figures.Count(s.Sent), figures.Count(s.InFlight),
			s.who(), s.from(), s.state(now.At),
		})
	}
	return t
}
