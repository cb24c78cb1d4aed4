// Package wsframe makes the messages of the old framing: one dropsonde
// envelope in each binary WebSocket message (protocol/03). A server's frames
// are not masked, so what is encoded here is written to any number of
// connections as it is.
package wsframe

import (
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// Framer encodes. It keeps scratch memory: use one per goroutine.
type Framer struct {
	encoder dropsonde.Encoder
	ends    []int
	parts   []byte
}

// header is the length of the frame header most envelopes need: that of a
// payload of 126 to 65,535 bytes.
const header = 4

// AppendEnvelope appends the frames of what v1 clients get of a v2 envelope:
// mostly one, none of an event, several of a gauge. v2 has passed the scanner
// of package envelope and is only read.
func (f *Framer) AppendEnvelope(dst, v2 []byte) []byte {
	dst, at := open(dst)
	dst, f.ends = f.encoder.AppendV1(dst, f.ends[:0], v2)
	switch len(f.ends) {
	case 0:
		return dst[:at]
	case 1:
		return shut(dst, at)
	}
	f.parts = append(f.parts[:0], dst[at+header:]...)
	dst = dst[:at]
	begin := at + header
	for i, end := range f.ends {
		if i > 0 {
			begin = f.ends[i-1]
		}
		part := f.parts[begin-at-header : end-at-header]
		dst = append(stream.AppendFrameHeader(dst, len(part)), part...)
	}
	return dst
}

// open leaves room for a header.
func open(dst []byte) (_ []byte, at int) {
	return append(dst, make([]byte, header)...), len(dst)
}

// shut writes the header of the frame that begins at at and ends with dst. A
// payload that needs another one is moved.
func shut(dst []byte, at int) []byte {
	size := len(dst) - at - header
	if size > 125 && size < 1<<16 {
		stream.AppendFrameHeader(dst[:at], size)
		return dst
	}
	var room [14]byte
	head := stream.AppendFrameHeader(room[:0], size)
	if more := len(head) - header; more > 0 {
		dst = append(dst, room[:more]...)
	}
	copy(dst[at+len(head):], dst[at+header:at+header+size])
	copy(dst[at:], head)
	return dst[:at+len(head)+size]
}
