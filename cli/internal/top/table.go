package top

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/a1ea6966/loggregator/internal/figures"
)

// table lays out rows in columns that are as wide as they need to be.
type table struct {
	// titles; those that start with a space stand, with their cells, to the
	// right.
	titles []string
	rows   [][]string
	// more is how many rows there would be besides.
	more int
}

const gap = "  "

// lines are the title line and the rows, none wider than columns: first the
// first column gives way, then what stands at the right is cut off.
func (t table) lines(columns int) []string {
	widths := make([]int, len(t.titles))
	for _, row := range append([][]string{t.titles}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(strings.TrimLeft(cell, " ")))
		}
	}
	total := len(gap) * (len(widths) - 1)
	for _, w := range widths {
		total += w
	}
	const least = 12
	if total > columns {
		widths[0] = max(min(widths[0], least), widths[0]-(total-columns))
	}
	out := make([]string, 0, len(t.rows)+2)
	out = append(out, t.line(t.titles, widths, columns))
	for _, row := range t.rows {
		out = append(out, t.line(row, widths, columns))
	}
	if len(t.rows)+t.more == 0 {
		out = append(out, clip("(none)", columns))
	}
	if t.more > 0 {
		out = append(out, clip("... and "+figures.Count(uint64(t.more))+" more", columns))
	}
	return out
}

func (t table) line(cells []string, widths []int, columns int) string {
	var b strings.Builder
	for i, cell := range cells {
		if i > 0 {
			b.WriteString(gap)
		}
		right := strings.HasPrefix(t.titles[i], " ")
		cell = clip(strings.TrimLeft(cell, " "), widths[i])
		fill := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
		if right {
			b.WriteString(fill + cell)
		} else {
			b.WriteString(cell + fill)
		}
	}
	return strings.TrimRight(clip(b.String(), columns), " ")
}

// clip cuts s to at most width characters and takes out what would disturb the
// screen: source ids are chosen by others.
func clip(s string, width int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	runes := []rune(s)
	if width < 2 {
		return string(runes[:max(width, 0)])
	}
	return string(runes[:width-1]) + "~"
}
