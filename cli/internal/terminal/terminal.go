// Package terminal knows what the program is connected to: whether it is a
// terminal, how large it is and which keys are pressed.
package terminal

import (
	"io"
	"os"

	"github.com/mattn/go-isatty"
)

// Sequences that a full-screen view writes.
const (
	// EnterScreen switches to the alternate screen and hides the cursor;
	// LeaveScreen brings back what was there before.
	EnterScreen = "\x1b[?1049h\x1b[?25l\x1b[H"
	LeaveScreen = "\x1b[?25h\x1b[?1049l"
	// Home moves to the first cell, ClearLine clears to the end of the line,
	// ClearBelow to the end of the screen. Redrawing with them does not
	// flicker as clearing first would.
	Home       = "\x1b[H"
	ClearLine  = "\x1b[K"
	ClearBelow = "\x1b[J"
)

// Is says whether w, or r, is a terminal.
func Is(rw any) bool {
	f, ok := rw.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// Size returns columns and rows of the terminal w is, or 80 and 24.
func Size(w io.Writer) (columns, rows int) {
	if f, ok := w.(*os.File); ok {
		if columns, rows, ok := size(f); ok {
			return columns, rows
		}
	}
	return 80, 24
}
