// Package sink has what the nozzle writes lines to: standard output, and a
// file that rotates.
package sink

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// Append appends the lines of a batch to dst.
type Append func(dst []byte, b *nozzle.Batch) []byte

// maxScratch is how much memory a sink keeps between writes.
const maxScratch = 32 << 20

// lines is the scratch memory of a sink.
type lines struct {
	append Append
	buf    []byte
}

func (l *lines) of(batches []*nozzle.Batch) []byte {
	if cap(l.buf) > maxScratch {
		l.buf = nil
	}
	l.buf = l.buf[:0]
	for _, b := range batches {
		l.buf = l.append(l.buf, b)
	}
	return l.buf
}

// Writer writes to anything that takes bytes, standard output for instance.
type Writer struct {
	w io.Writer

	// guarded by mu
	mu    sync.Mutex
	lines lines
	torn  bool // the last thing written was a part of a line
	stuck bool // a write was left alone
}

// NewWriter returns a sink that writes to w, one Write for all batches it has.
func NewWriter(w io.Writer, format Append) *Writer {
	return &Writer{w: w, lines: lines{append: format}}
}

// Write is done when w has taken all lines. Those of a write that failed half
// way come again when it is repeated; the line that was torn is ended first.
// It blocks as long as w does. When ctx ends meanwhile, that write is left
// alone and no other is begun. It may be called concurrently.
func (s *Writer) Write(ctx context.Context, batches []*nozzle.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stuck {
		return errStuck
	}
	if s.torn {
		if _, err := s.write(ctx, []byte{'\n'}); err != nil {
			return fmt.Errorf("end a torn line: %w", err)
		}
		s.torn = false
	}
	text := s.lines.of(batches)
	n, err := s.write(ctx, text)
	if err != nil {
		s.torn = n > 0 && text[n-1] != '\n'
		return fmt.Errorf("write %d bytes: %w", len(text), err)
	}
	return nil
}

// write writes until ctx ends; mu is held.
func (s *Writer) write(ctx context.Context, text []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	done := make(chan result, 1)
	go func() {
		n, err := s.w.Write(text)
		if err == nil && n < len(text) {
			err = io.ErrShortWrite
		}
		done <- result{n, err}
	}()
	select {
	case r := <-done:
		return r.n, r.err
	case <-ctx.Done():
		s.stuck = true
		return 0, ctx.Err()
	}
}

// errStuck says that w never came back.
var errStuck = errors.New("an earlier write is still under way")

// errInUse says that another process writes to the file.
var errInUse = errors.New("another process writes to it")
