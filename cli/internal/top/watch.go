package top

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// Screen is where readings are shown.
type Screen struct {
	Out io.Writer
	// Full is set on a terminal that is redrawn; nil means that one reading is
	// printed under the other.
	Full *FullScreen
}

// FullScreen is a terminal.
type FullScreen struct {
	// Size is asked before each drawing.
	Size func() (columns, rows int)
	// Keys are what is pressed; q ends the view. Nil if there are none.
	Keys <-chan byte
	// Resized asks for a drawing out of turn.
	Resized <-chan os.Signal
	// Enter, Redraw, LineEnd, Below and Leave are what the terminal is told:
	// before the first drawing, before each, at the end of each line, after
	// each, and at last.
	Enter, Redraw, LineEnd, Below, Leave string
}

// plainColumns is how wide lines are that nobody looks at in a window.
const plainColumns = 200

// Watch shows a reading at every interval until ctx ends or q is pressed; that
// is no error. The errors are those of writing.
func Watch(ctx context.Context, c *Client, v View, s Screen, interval time.Duration) (err error) {
	if s.Full != nil {
		if _, err := io.WriteString(s.Out, s.Full.Enter); err != nil {
			return fmt.Errorf("draw: %w", err)
		}
		defer func() {
			if _, leaveErr := io.WriteString(s.Out, s.Full.Leave); err == nil && leaveErr != nil {
				err = fmt.Errorf("draw: %w", leaveErr)
			}
		}()
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	now, before := c.Read(ctx), (*Reading)(nil)
	for ctx.Err() == nil {
		if err := v.show(s, now, before); err != nil {
			return fmt.Errorf("draw: %w", err)
		}
		again, more := s.wait(ctx, ticker.C)
		if !more {
			return nil
		}
		if !again {
			now, before = c.Read(ctx), now
		}
	}
	return nil
}

// wait returns more = false at the end, again = true if the same reading is to
// be drawn again.
func (s Screen) wait(ctx context.Context, tick <-chan time.Time) (again, more bool) {
	var keys <-chan byte
	var resized <-chan os.Signal
	if s.Full != nil {
		keys, resized = s.Full.Keys, s.Full.Resized
	}
	for {
		select {
		case <-ctx.Done():
			return false, false
		case <-tick:
			return false, true
		case <-resized:
			return true, true
		case key, open := <-keys:
			if !open {
				keys = nil
			}
			if key == 'q' || key == 'Q' {
				return false, false
			}
		}
	}
}

func (v View) show(s Screen, now, before *Reading) error {
	var b strings.Builder
	if s.Full == nil {
		for _, line := range v.Lines(now, before, plainColumns, 0) {
			b.WriteString(line + "\n")
		}
		b.WriteString("\n")
	} else {
		columns, rows := s.Full.Size()
		b.WriteString(s.Full.Redraw)
		for i, line := range v.Lines(now, before, columns, rows) {
			if i > 0 {
				b.WriteString("\r\n")
			}
			b.WriteString(line + s.Full.LineEnd)
		}
		b.WriteString(s.Full.Below)
	}
	_, err := io.WriteString(s.Out, b.String())
	return err
}

// Once prints one reading. It fails when no server answered.
func Once(ctx context.Context, c *Client, v View, out io.Writer) error {
	now := c.Read(ctx)
	if len(now.Faults) == len(c.Addrs) && len(now.Rings) == 0 && len(now.Subscriptions) == 0 {
		return fmt.Errorf("no server answered: %s", strings.Join(now.Faults, "; "))
	}
	return v.show(Screen{Out: out}, now, nil)
}
