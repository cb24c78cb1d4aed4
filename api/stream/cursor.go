package stream

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Limits of a cursor string.
const (
	MaxCursorBytes   = 64 << 10
	MaxCursorEntries = 1024

	cursorPrefix = "c1."
)

// ErrCursor is wrapped by every error of DecodeCursor.
var ErrCursor = errors.New("cursor is not understood")

// EncodeCursor returns the opaque, URL-safe form of c. A cursor without
// entries is the empty string.
func EncodeCursor(c *streampb.Cursor) string {
	if len(c.GetEntries()) == 0 {
		return ""
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(c)
	if err != nil {
		return "" // only a name that is no UTF-8 does this; no Doppler has one
	}
	return cursorPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// DecodeCursor undoes EncodeCursor. The empty string is a cursor without
// entries.
func DecodeCursor(s string) (*streampb.Cursor, error) {
	c := &streampb.Cursor{}
	if s == "" {
		return c, nil
	}
	if len(s) > MaxCursorBytes {
		return nil, fmt.Errorf("%w: it has %d bytes, the limit is %d", ErrCursor, len(s), MaxCursorBytes)
	}
	body, ok := strings.CutPrefix(s, cursorPrefix)
	if !ok {
		return nil, fmt.Errorf("%w: it is not of version 1", ErrCursor)
	}
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil {
		return nil, fmt.Errorf("%w: it is cut or changed", ErrCursor)
	}
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("%w: it is cut or changed", ErrCursor)
	}
	if n := len(c.GetEntries()); n > MaxCursorEntries {
		return nil, fmt.Errorf("%w: it has %d entries, the limit is %d", ErrCursor, n, MaxCursorEntries)
	}
	return c, nil
}
