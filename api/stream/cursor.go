package stream

import (
	"encoding/base64"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Limits of a cursor.
const (
	MaxCursorEntries = 1024
	MaxCursorBytes   = 64 << 10 // decoded
)

// cursorPrefix is the version a cursor string starts with; what follows is the
// URL-safe base64 of a streampb.Cursor.
const cursorPrefix = "1."

// CursorError is what is wrong with a cursor string, in plain words.
type CursorError struct{ Fault string }

func (e *CursorError) Error() string { return "cursor: " + e.Fault }

// EncodeCursor puts c in a string that is opaque to clients, safe in a URL as
// it is, and read by DecodeCursor of this and later versions.
func EncodeCursor(c *streampb.Cursor) string {
	p, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil { // a name that is not UTF-8: no Doppler has it
		p = nil
	}
	return cursorPrefix + base64.RawURLEncoding.EncodeToString(p)
}

// DecodeCursor reads a cursor string. The error is a *CursorError that names
// the fault. What it returns has one entry at most of a Doppler's epoch.
func DecodeCursor(s string) (*streampb.Cursor, error) {
	version, body, ok := strings.Cut(s, ".")
	switch {
	case !ok || len(version) > 4 || strings.Trim(version, "0123456789") != "" || version == "":
		return nil, &CursorError{"not a cursor string"}
	case version+"." != cursorPrefix:
		return nil, &CursorError{"version " + version + " is not known; this server reads version 1"}
	case base64.RawURLEncoding.DecodedLen(len(body)) > MaxCursorBytes:
		return nil, &CursorError{fmt.Sprintf("longer than %d bytes", MaxCursorBytes)}
	}
	p, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, &CursorError{"cut or altered: " + err.Error()}
	}
	if err := checkCursorSize(p); err != nil {
		return nil, err
	}
	c := &streampb.Cursor{}
	if err := discardUnknown.Unmarshal(p, c); err != nil {
		return nil, &CursorError{"cut or altered: no cursor inside"}
	}
	if err := checkCursor(c); err != nil {
		return nil, err
	}
	return c, nil
}

// cursorEntries is the field number of Cursor.entries.
const cursorEntries = 2

// checkCursorSize counts entries before anything is allocated for them.
func checkCursorSize(p []byte) error {
	n := 0
	err := eachField(p, func(num protowire.Number, _ protowire.Type, _ []byte) error {
		if num == cursorEntries {
			n++
		}
		return nil
	})
	if err != nil {
		return &CursorError{"cut or altered: " + err.Error()}
	}
	if n > MaxCursorEntries {
		return &CursorError{fmt.Sprintf("%d entries, the limit is %d", n, MaxCursorEntries)}
	}
	return nil
}

func checkCursor(c *streampb.Cursor) error {
	type place struct {
		doppler string
		epoch   uint64
	}
	known := make(map[place]bool, len(c.GetEntries()))
	for i, e := range c.GetEntries() {
		name := e.GetDoppler()
		at := place{name, e.GetEpoch()}
		switch {
		case name == "":
			return &CursorError{fmt.Sprintf("entry %d names no Doppler", i)}
		case len(name) > MaxName:
			return &CursorError{fmt.Sprintf("entry %d has a name of %d bytes, the limit is %d", i, len(name), MaxName)}
		case known[at]:
			return &CursorError{fmt.Sprintf("two entries of Doppler %q, epoch %d", name, at.epoch)}
		case e.GetMatched() > e.GetOffset():
			return &CursorError{fmt.Sprintf("entry of Doppler %q has more matches than offsets", name)}
		}
		known[at] = true
	}
	return nil
}
