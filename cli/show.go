package cli

import (
	"bufio"
	"fmt"
	"slices"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/cli/internal/render"
	"github.com/a1ea6966/loggregator/cli/internal/terminal"
)

// gapPause is how often gaps of one kind are told at most: a reader that is
// too slow would else be told after every few lines.
const gapPause = time.Second

// showFlags say how envelopes are written.
type showFlags struct {
	JSON  bool   `help:"One JSON object per envelope."`
	Color string `default:"auto" placeholder:"WHEN" help:"auto, always or never (default ${default}; $$NO_COLOR counts)."`
}

func (f showFlags) check() error { return checkColour(f.Color) }

// show writes envelopes to stdout and notices to stderr, in the order in which
// they come. It is not for concurrent use.
type show struct {
	streams Streams
	out     *bufio.Writer
	text    *render.Text // nil for JSON
	dim     bool         // notices
	bold    bool         // names
	buf     []byte

	toldAt time.Time // the last gap
	gaps   []missed  // since then, one of a kind
}

// missed is the sum of gaps of one kind.
type missed struct {
	source, doppler string
	precision       streampb.Gap_Precision
	reason          streampb.Gap_Reason
	count           uint64
	times           int
}

// newShow shows each line's source if prefix is set; names are those known
// beforehand.
func newShow(s Streams, f showFlags, prefix bool, names ...string) *show {
	mode := render.ColourMode(f.Color)
	onErr := mode.On(terminal.Is(s.Err))
	w := &show{streams: s, out: bufio.NewWriterSize(s.Out, 64<<10), dim: onErr, bold: onErr}
	if !f.JSON {
		w.text = render.NewText(time.Local, mode.On(terminal.Is(s.Out)), prefix, names...)
	}
	return w
}

// envelope writes one envelope; it may stay in the buffer.
func (w *show) envelope(e *loggregatorv2.Envelope) error {
	w.buf = w.buf[:0]
	if w.text != nil {
		w.buf = w.text.Append(w.buf, e)
	} else {
		var err error
		if w.buf, err = render.AppendJSON(w.buf, e); err != nil {
			return err
		}
	}
	if _, err := w.out.Write(w.buf); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	return nil
}

// line writes a line that is no envelope.
func (w *show) line(text string) error {
	if _, err := w.out.WriteString(text + "\n"); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	return nil
}

// idle is called when nothing more is at hand: everything is seen then.
func (w *show) idle() error {
	if err := w.tellGaps(); err != nil {
		return err
	}
	return w.flush()
}

func (w *show) flush() error {
	if err := w.out.Flush(); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	return nil
}

// header is what a command begins with.
func (w *show) header(format string, names ...string) {
	bold := make([]any, len(names))
	for i, name := range names {
		bold[i] = render.Bold(name, w.bold)
	}
	fmt.Fprintf(w.streams.Err, format+"\n\n", bold...)
}

// notice tells a person something, after what was written so far.
func (w *show) notice(format string, args ...any) error {
	if err := w.flush(); err != nil {
		return err
	}
	fmt.Fprintln(w.streams.Err, render.Dim("-- "+fmt.Sprintf(format, args...), w.dim))
	return nil
}

// gap tells what was missed; what comes soon after another is summed up and
// told with it. source may be empty.
func (w *show) gap(source string, g *streampb.Gap, at *streampb.Position) error {
	m := missed{
		source: source, doppler: g.GetDoppler(), precision: g.GetPrecision(), reason: g.GetReason(),
		count: g.GetCount(), times: 1,
	}
	if m.doppler == "" {
		m.doppler = at.GetDoppler()
	}
	i := slices.IndexFunc(w.gaps, m.like)
	if i < 0 {
		w.gaps = append(w.gaps, m)
	} else {
		w.gaps[i].count += m.count
		w.gaps[i].times++
	}
	if time.Since(w.toldAt) < gapPause {
		return nil
	}
	return w.tellGaps()
}

func (m missed) like(o missed) bool {
	o.count, o.times = m.count, m.times
	return o == m
}

func (w *show) tellGaps() error {
	if len(w.gaps) == 0 {
		return nil
	}
	w.toldAt = time.Now()
	for _, m := range w.gaps {
		text := render.Missed(m.count, m.precision, m.reason, m.doppler)
		if m.source != "" {
			text = m.source + ": " + text
		}
		if m.times > 1 && m.precision == streampb.Gap_UNKNOWN {
			text += fmt.Sprintf(", %d times", m.times)
		}
		if err := w.notice("%s", text); err != nil {
			return err
		}
	}
	w.gaps = w.gaps[:0]
	return nil
}
