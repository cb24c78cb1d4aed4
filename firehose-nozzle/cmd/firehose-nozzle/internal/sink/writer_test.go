package sink

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
)

// flaky fails as often as it is told to, each time after taking some bytes.
type flaky struct {
	bytes.Buffer
	fail []int
}

func (f *flaky) Write(p []byte) (int, error) {
	if len(f.fail) == 0 {
		return f.Buffer.Write(p)
	}
	n := min(f.fail[0], len(p))
	f.fail = f.fail[1:]
	f.Buffer.Write(p[:n])
	if n == len(p) {
		return n, nil
	}
	return n, errors.New("no space")
}

func TestWriter(t *testing.T) {
	w := &flaky{}
	s := NewWriter(w, asLines)
	if err := s.Write(t.Context(), batches("a,b", "c")); err != nil {
		t.Fatal(err)
	}
	if got := w.String(); got != "a\nb\nc\n" {
		t.Fatalf("got %q", got)
	}
}

// A torn line is ended before anything else is written.
func TestWriterTearsNoLine(t *testing.T) {
	// In the middle of a line; its end is refused; then the end of a line.
	w := &flaky{fail: []int{3, 0, 1, 2}}
	s := NewWriter(w, asLines)
	for range 3 {
		if err := s.Write(t.Context(), batches("a", "bcd")); err == nil {
			t.Fatal("no error")
		}
	}
	if err := s.Write(t.Context(), batches("a", "bcd")); err != nil {
		t.Fatal(err)
	}
	if got := w.String(); got != "a\nb\na\na\nbcd\n" {
		t.Fatalf("got %q", got)
	}
}

func TestWriterShort(t *testing.T) {
	s := NewWriter(short{}, asLines)
	if err := s.Write(t.Context(), batches("a")); !errors.Is(err, io.ErrShortWrite) {
		t.Fatal(err)
	}
}

type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) - 1, nil }

// A reader that takes nothing does not keep the process from ending.
func TestWriterLeavesAStuckWrite(t *testing.T) {
	r, w := io.Pipe()
	s := NewWriter(w, asLines)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Write(ctx, batches("a")); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if err := s.Write(t.Context(), batches("a")); !errors.Is(err, errStuck) {
		t.Fatal(err)
	}
	_ = r.Close()
}
