package render

import (
	"os"
	"strconv"
	"unicode/utf8"
)

// Terminal sequences. Red is for error lines only, so no source gets it.
const (
	red      = "\x1b[31m"
	boldCyan = "\x1b[36;1m"
	dim      = "\x1b[2m"
	reset    = "\x1b[0m"
)

// sourceColours tells sources apart; they come round again after the last.
var sourceColours = [...]int{36, 33, 32, 35, 34, 96, 93, 92, 95, 94}

// maxPrefix is the widest column of source ids that lines are aligned to: the
// length of a GUID. Longer ids are printed whole.
const maxPrefix = 36

// maxRemembered bounds the sources whose colour is remembered.
const maxRemembered = 10_000

// ColourMode is what --color says.
type ColourMode string

// The values of ColourMode.
const (
	ColourAuto   ColourMode = "auto"
	ColourAlways ColourMode = "always"
	ColourNever  ColourMode = "never"
)

// On says whether to write colours: in auto mode only to a terminal, and not
// if NO_COLOR holds anything or TERM is dumb.
func (m ColourMode) On(terminal bool) bool {
	switch m {
	case ColourAlways:
		return true
	case ColourNever:
		return false
	}
	return terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// Bold makes a name stand out in the sentences around the lines.
func Bold(s string, colour bool) string {
	if !colour {
		return s
	}
	return boldCyan + s + reset
}

// Dim makes a notice stand back from the lines around it.
func Dim(s string, colour bool) string {
	if !colour {
		return s
	}
	return dim + s + reset
}

// prefixes writes the column of source ids.
type prefixes struct {
	colour bool
	width  int
	order  map[string]int
}

func newPrefixes(colour bool, names []string) *prefixes {
	p := &prefixes{colour: colour, order: make(map[string]int)}
	for _, name := range names {
		p.know(name)
	}
	return p
}

// know remembers a source and widens the column for it. The number of sources
// it colours is bounded: a Firehose may carry more of them than memory should.
func (p *prefixes) know(source string) int {
	n, ok := p.order[source]
	if ok {
		return n
	}
	n = len(p.order)
	if n < maxRemembered {
		p.order[source] = n
	}
	p.width = max(p.width, min(utf8.RuneCountInString(source), maxPrefix))
	return n
}

func (p *prefixes) append(dst []byte, source string) []byte {
	n := p.know(source)
	if p.colour {
		dst = append(dst, "\x1b["...)
		dst = strconv.AppendInt(dst, int64(sourceColours[n%len(sourceColours)]), 10)
		dst = append(dst, 'm')
	}
	dst = append(dst, source...)
	for i := utf8.RuneCountInString(source); i < p.width; i++ {
		dst = append(dst, ' ')
	}
	dst = append(dst, " |"...)
	if p.colour {
		dst = append(dst, reset...)
	}
	return append(dst, ' ')
}
