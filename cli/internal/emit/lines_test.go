package emit_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
)

// collect copies in and returns the payloads that were sent.
func collect(l *emit.Lines, in string) ([]string, emit.LineStats, error) {
	var got []string
	stats, err := l.Copy(strings.NewReader(in), func(e *loggregatorv2.Envelope) error {
		got = append(got, string(e.GetLog().GetPayload()))
		return nil
	})
	return got, stats, err
}

func TestLinesAreSentAsTheyAre(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		want     []string
	}{
		{"nothing", "", nil},
		{"two", "a\nb\n", []string{"a", "b"}},
		{"last without newline", "a\nb", []string{"a", "b"}},
		{"empty lines", "\n\na\n", []string{"", "", "a"}},
		{"carriage returns and bytes", "a\r\n\xff\x00\n", []string{"a\r", "\xff\x00"}},
		{"longer than the read buffer", strings.Repeat("x", 100<<10) + "\ny", []string{strings.Repeat("x", 100<<10), "y"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, stats, err := collect(&emit.Lines{Source: "app", MaxEnvelope: 1 << 20}, tc.in)
			if err != nil {
				t.Fatal(err)
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tc.want) {
				t.Errorf("got %.100q, want %.100q", got, tc.want)
			}
			if stats.Lines != uint64(len(tc.want)) || stats.Split != 0 {
				t.Errorf("stats %+v", stats)
			}
		})
	}
}

func TestEnvelopesOfLines(t *testing.T) {
	clock := time.Unix(100, 0)
	l := emit.Lines{
		Source: "app", Instance: "3", Tags: map[string]string{"source_type": "APP"},
		Type: loggregatorv2.Log_ERR, Now: func() time.Time { return clock },
	}
	var got []*loggregatorv2.Envelope
	_, err := l.Copy(strings.NewReader("a\nb\n"), func(e *loggregatorv2.Envelope) error {
		got = append(got, proto.CloneOf(e))
		return nil
	})
	if err != nil || len(got) != 2 {
		t.Fatal(got, err)
	}
	want := &loggregatorv2.Envelope{
		Timestamp: clock.UnixNano(), SourceId: "app", InstanceId: "3",
		Tags:    map[string]string{"source_type": "APP"},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("a"), Type: loggregatorv2.Log_ERR}},
	}
	if !proto.Equal(got[0], want) {
		t.Errorf("got %v, want %v", got[0], want)
	}
	if got[1].GetTimestamp() <= got[0].GetTimestamp() {
		t.Error("two lines have the same time")
	}
}

func TestLongLinesAreSplitAndTold(t *testing.T) {
	var told []string
	l := &emit.Lines{Source: "app", MaxEnvelope: emit.MinEnvelope, Notice: func(s string) { told = append(told, s) }}
	long := strings.Repeat("äöü€", 3000)
	got, stats, err := collect(l, "short\n"+long+"\n"+long)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, "") != "short"+long+long {
		t.Error("the pieces do not make the lines")
	}
	for _, piece := range got {
		if len(piece) > emit.MinEnvelope || !utf8.ValidString(piece) {
			t.Errorf("piece of %d bytes, valid %t", len(piece), utf8.ValidString(piece))
		}
	}
	if stats.Lines != 3 || stats.Split != 2 || stats.Pieces != uint64(len(got))-1 {
		t.Errorf("stats %+v for %d pieces", stats, len(got))
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], "line 2 is longer than") {
		t.Errorf("told %q", told)
	}
}

func TestPiecesFitInAnEnvelope(t *testing.T) {
	l := &emit.Lines{Source: strings.Repeat("s", 200), Tags: map[string]string{"k": "v"}, MaxEnvelope: 1 << 20}
	largest := 0
	_, err := l.Copy(strings.NewReader(strings.Repeat("x", 5<<20)), func(e *loggregatorv2.Envelope) error {
		largest = max(largest, proto.Size(e))
		return nil
	})
	if err != nil || largest > 1<<20 || largest < 1<<20-64 {
		t.Errorf("largest envelope %d bytes, %v", largest, err)
	}
}

func TestErrorsOfBothEnds(t *testing.T) {
	l := &emit.Lines{Source: "app"}
	failure := errors.New("failure")
	_, err := l.Copy(strings.NewReader("a\n"), func(*loggregatorv2.Envelope) error { return failure })
	if !errors.Is(err, failure) {
		t.Errorf("send: %v", err)
	}
	sent := 0
	_, err = l.Copy(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("abc"))),
		func(*loggregatorv2.Envelope) error { sent++; return nil })
	if !errors.Is(err, iotest.ErrTimeout) || sent != 1 {
		t.Errorf("read: %v, sent %d", err, sent)
	}
}

func FuzzLines(f *testing.F) {
	f.Add([]byte("a\nb"), 1)
	f.Add([]byte("\n\n"), 3)
	f.Add(bytes.Repeat([]byte("€"), 5000), 7)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		l := &emit.Lines{Source: "app", MaxEnvelope: emit.MinEnvelope}
		var got [][]byte
		reader := &steps{rest: in, step: max(1, step%100_000)}
		stats, err := l.Copy(reader, func(e *loggregatorv2.Envelope) error {
			got = append(got, bytes.Clone(e.GetLog().GetPayload()))
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		want := bytes.Count(in, []byte("\n"))
		if len(in) > 0 && in[len(in)-1] != '\n' {
			want++
		}
		if stats.Lines != uint64(want) {
			t.Errorf("%d lines, want %d", stats.Lines, want)
		}
		if !bytes.Equal(bytes.Join(got, nil), bytes.ReplaceAll(in, []byte("\n"), nil)) {
			t.Error("bytes lost or doubled")
		}
	})
}

// steps reads a few bytes at a time.
type steps struct {
	rest []byte
	step int
}

func (s *steps) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), s.step)], s.rest)
	s.rest = s.rest[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}
