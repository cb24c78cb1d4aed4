package conformance

import (
	"encoding/json"
	"io"
	"strings"
	"testing"
)

// sse reads Server-Sent Events of batches, strictly as old gateways wrote
// them.
type sse struct {
	in   io.Reader
	text string // read, and not taken
	eof  bool
}

// next is the next batch: "data: {"batch":[...]}", and an empty line.
func (s *sse) next(t *testing.T) []json.RawMessage {
	t.Helper()
	for !strings.Contains(s.text, "\n\n") {
		if s.eof {
			t.Fatalf("the stream has ended with %q", s.text)
		}
		s.more(t)
	}
	event, rest, _ := strings.Cut(s.text, "\n\n")
	s.text = rest
	data, ok := strings.CutPrefix(event, "data: ")
	var batch struct{ Batch []json.RawMessage }
	if err := json.Unmarshal([]byte(data), &batch); err != nil || !ok || strings.Contains(data, "\n") || !strings.HasPrefix(data, `{"batch":[`) {
		t.Fatalf("event %q: %v", event, err)
	}
	return batch.Batch
}

// left tells whether there is more.
func (s *sse) left() bool {
	if s.text == "" && !s.eof {
		var one [1]byte
		n, err := s.in.Read(one[:])
		s.text, s.eof = string(one[:n]), err != nil
	}
	return s.text != ""
}

func (s *sse) more(t *testing.T) {
	t.Helper()
	chunk := make([]byte, 64<<10)
	n, err := s.in.Read(chunk)
	if s.text += string(chunk[:n]); err == io.EOF {
		s.eof = true
	} else if err != nil {
		t.Fatal(err)
	}
}
