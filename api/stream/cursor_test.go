package stream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

func someCursor(entries int) *streampb.Cursor {
	c := &streampb.Cursor{Version: 1}
	for i := range entries {
		c.Entries = append(c.Entries, &streampb.CursorEntry{
			Doppler: fmt.Sprintf("doppler-%d", i), Epoch: 1 << 60, Offset: 1 << 40, Matched: uint64(i), Seen: 1<<40 + 9, Finished: i%2 == 0,
		})
	}
	return c
}

func TestCursor(t *testing.T) {
	twoEpochs := &streampb.Cursor{Entries: []*streampb.CursorEntry{{Doppler: "d", Epoch: 1, Finished: true}, {Doppler: "d", Epoch: 2}}}
	for _, c := range []*streampb.Cursor{{}, someCursor(1), someCursor(40), someCursor(MaxCursorEntries), twoEpochs} {
		s := EncodeCursor(c)
		if url.QueryEscape(s) != s {
			t.Errorf("not safe in a URL: %s", s)
		}
		got, err := DecodeCursor(s)
		if err != nil || !proto.Equal(got, c) {
			t.Errorf("%d entries: %v", len(c.Entries), err)
		}
	}
	if s := EncodeCursor(nil); s != "1." {
		t.Errorf("no cursor is %q", s)
	}
	if s := EncodeCursor(someCursor(1)); s != EncodeCursor(someCursor(1)) {
		t.Error("encodings differ")
	}
}

// TestCursorGolden has the form of the string stay: clients keep it in files.
func TestCursorGolden(t *testing.T) {
	c := &streampb.Cursor{Version: 1, Entries: []*streampb.CursorEntry{{Doppler: "doppler-0", Epoch: 3, Offset: 1000, Matched: 10, Seen: 1100}}}
	const golden = "1.CAESFQoJZG9wcGxlci0wEAMY6AcgCijMCA"
	if got := EncodeCursor(c); got != golden {
		t.Errorf("%s, want %s", got, golden)
	}
	if got, err := DecodeCursor(golden); err != nil || !proto.Equal(got, c) {
		t.Errorf("%v, %v", got, err)
	}
}

func TestBadCursors(t *testing.T) {
	entry := func(e ...*streampb.CursorEntry) string { return EncodeCursor(&streampb.Cursor{Entries: e}) }
	good := EncodeCursor(someCursor(3))
	for _, test := range []struct{ name, s, words string }{
		{"empty", "", "not a cursor"},
		{"no version", "abc", "not a cursor"},
		{"no number", "x.abc", "not a cursor"},
		{"long number", strings.Repeat("1", 50) + ".", "not a cursor"},
		{"later version", "2." + good[2:], "version 2 is not known"},
		{"not base64", "1.a b", "cut or altered"},
		{"other base64", "1." + strings.Repeat("/", 4), "cut or altered"},
		{"cut", good[:len(good)-4], "cut or altered"},
		{"altered", "1." + base64.RawURLEncoding.EncodeToString([]byte("\x12\x03\x0a\x01\xff")), "cut or altered"},
		{"too long", "1." + strings.Repeat("A", 90000), "longer than 65536 bytes"},
		{"too many entries", EncodeCursor(someCursor(MaxCursorEntries + 1)), "1025 entries, the limit is 1024"},
		{"no name", entry(&streampb.CursorEntry{Offset: 1}), "entry 0 names no Doppler"},
		{"long name", entry(&streampb.CursorEntry{Doppler: strings.Repeat("x", MaxName+1)}), "name of 4097 bytes"},
		{"twice", entry(&streampb.CursorEntry{Doppler: "d", Epoch: 4}, &streampb.CursorEntry{Doppler: "d", Epoch: 4}), `two entries of Doppler "d", epoch 4`},
		{"more matched than there are", entry(&streampb.CursorEntry{Doppler: "d", Offset: 4, Matched: 5}), "more matches than offsets"},
	} {
		_, err := DecodeCursor(test.s)
		var fault *CursorError
		if !errors.As(err, &fault) || !strings.Contains(err.Error(), test.words) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// FuzzDecodeCursor finds that what is taken has one form, within the limits.
func FuzzDecodeCursor(f *testing.F) {
	f.Add(EncodeCursor(nil))
	f.Add(EncodeCursor(someCursor(3)))
	f.Add("1.EgA")
	f.Add("2.AAAA")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := DecodeCursor(s)
		if err != nil {
			var fault *CursorError
			if !errors.As(err, &fault) || c != nil {
				t.Fatalf("%v, %v", c, err)
			}
			return
		}
		if len(c.Entries) > MaxCursorEntries {
			t.Error("too many entries")
		}
		if back, err := DecodeCursor(EncodeCursor(c)); err != nil || !proto.Equal(back, c) {
			t.Errorf("%v comes back as %v, %v", c, back, err)
		}
	})
}
