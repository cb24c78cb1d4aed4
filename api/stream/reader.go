package stream

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
)

// event is what a frameReader has found.
type event int

const (
	gotMessage event = iota + 1 // take it with message
	gotPing                     // payload in control
	gotPong
	gotClose
)

// How much memory a peer gets for a message before it has sent any of it. A
// server believes a client less than a client its server.
const (
	serverTrust = 4 << 10
	clientTrust = 1 << 20
)

// frameReader puts the frames of one peer together to messages. It keeps its
// place when the source fails with a timeout: next may be called again and
// goes on. It does not run concurrently.
type frameReader struct {
	// static
	src    io.Reader
	masked bool // what the peer's frames have to be
	limit  uint64
	trust  int

	heard atomic.Uint64 // frames begun; read by anyone

	// read from src and not used yet: buf[r:w]
	buf  []byte
	r, w int

	// the frame being read
	inFrame bool
	head    header
	done    uint64 // payload bytes of it taken

	// the message being read
	inMessage bool
	msg       *Buffer
	have      int // bytes of msg

	control []byte // payload of the control frame just read, in buf
	closed  bool   // a close frame was read: nothing comes after it
}

// next reads until a message is complete or a control frame came.
func (f *frameReader) next() (event, error) {
	for {
		if f.closed {
			return 0, io.EOF
		}
		if !f.inFrame {
			if err := f.begin(); err != nil {
				return 0, err
			}
		}
		if f.head.opcode.control() {
			return f.controlFrame()
		}
		if err := f.payload(); err != nil {
			return 0, err
		}
		f.inFrame = false
		if f.head.fin {
			f.inMessage = false
			return gotMessage, nil
		}
	}
}

// message hands over the message that next has announced.
func (f *frameReader) message() *Buffer {
	b := f.msg
	b.Resize(f.have)
	f.msg, f.have = nil, 0
	return b
}

// drop lets go of a message that will not be completed.
func (f *frameReader) drop() {
	if f.msg != nil {
		f.msg.Release()
		f.msg, f.have = nil, 0
	}
}

// begin reads the header of the next frame and checks that it may come here.
func (f *frameReader) begin() error {
	h, n, need := parseHeader(f.buf[f.r:f.w])
	for n == 0 {
		if err := f.fill(need); err != nil {
			return err
		}
		h, n, need = parseHeader(f.buf[f.r:f.w])
	}
	if err := f.check(h); err != nil {
		return err
	}
	f.r += n
	f.heard.Add(1)
	f.inFrame, f.head, f.done = true, h, 0
	if h.opcode.control() {
		return nil
	}
	f.inMessage = true
	if f.msg == nil {
		f.msg = NewBuffer(int(min(h.length, uint64(f.trust))))
	}
	return nil
}

// check tells what is wrong with a header.
func (f *frameReader) check(h header) error {
	fault := ""
	switch {
	case h.rsv != 0:
		fault = "frame with reserved bits set"
	case h.masked != f.masked && f.masked:
		fault = "frame of a client without a mask"
	case h.masked != f.masked:
		fault = "frame of a server with a mask"
	case h.opcode.control():
		fault = checkControl(h)
	case h.opcode > opBinary:
		fault = fmt.Sprintf("frame with unknown opcode %#x", byte(h.opcode))
	case h.opcode == opContinuation && !f.inMessage:
		fault = "continuation of no message"
	case h.opcode != opContinuation && f.inMessage:
		fault = "new message before the end of another"
	case h.opcode == opText && f.masked:
		return &ProtocolError{CloseBadMessage, "text message; messages here are binary"}
	case h.opcode == opText:
		return &ProtocolError{CloseUnsupported, "text message; messages here are binary"}
	case h.length > f.limit || uint64(f.have)+h.length > f.limit:
		return &ProtocolError{CloseTooBig, fmt.Sprintf("message over the limit of %d bytes", f.limit)}
	}
	if fault != "" {
		return &ProtocolError{CloseProtocol, fault}
	}
	return nil
}

func checkControl(h header) string {
	switch {
	case h.opcode > opPong:
		return fmt.Sprintf("frame with unknown opcode %#x", byte(h.opcode))
	case h.length > maxControlPayload:
		return fmt.Sprintf("control frame of %d bytes, the limit is %d", h.length, maxControlPayload)
	case !h.fin:
		return "fragmented control frame"
	}
	return ""
}

// controlFrame takes the payload of a control frame; it fits the buffer.
func (f *frameReader) controlFrame() (event, error) {
	size := int(f.head.length)
	if f.w-f.r < size {
		if err := f.fill(size); err != nil {
			return 0, err
		}
	}
	f.control = f.buf[f.r : f.r+size]
	f.r += size
	f.inFrame = false
	mask(f.control, f.head.key, 0)
	switch f.head.opcode {
	case opPing:
		return gotPing, nil
	case opPong:
		return gotPong, nil
	}
	f.closed = true
	return gotClose, nil
}

// payload takes the rest of a data frame into the message. What is larger than
// the buffer is read straight into the message.
func (f *frameReader) payload() error {
	for f.done < f.head.length {
		left := f.head.length - f.done
		space := f.space(left)
		var n int
		switch {
		case f.w > f.r:
			n = copy(space, f.buf[f.r:f.w])
			f.r += n
		case len(space) >= len(f.buf):
			var err error
			if n, err = f.src.Read(space); n == 0 {
				return broken(err)
			}
		default:
			if err := f.fill(1); err != nil {
				return err
			}
			continue
		}
		mask(space[:n], f.head.key, f.done)
		f.done += uint64(n)
		f.have += n
	}
	return nil
}

// space is where the next bytes of the message go, at most left of them. The
// message grows as its bytes come in, not as they are announced.
func (f *frameReader) space(left uint64) []byte {
	if f.have == f.msg.Cap() {
		want := f.have + int(left)
		f.msg = f.msg.grown(min(want, max(4*f.have, f.trust)), f.have)
	}
	f.msg.Resize(f.msg.Cap())
	free := f.msg.Bytes()[f.have:]
	if uint64(len(free)) > left {
		free = free[:left]
	}
	return free
}

// fill reads until at least need bytes are buffered.
func (f *frameReader) fill(need int) error {
	if f.r == f.w {
		f.r, f.w = 0, 0
	}
	if f.r+need > len(f.buf) {
		f.w = copy(f.buf, f.buf[f.r:f.w])
		f.r = 0
	}
	for f.w-f.r < need {
		n, err := f.src.Read(f.buf[f.w:])
		f.w += n
		if n == 0 {
			return broken(err)
		}
	}
	return nil
}

// broken is the error of a read that gave nothing.
func broken(err error) error {
	switch {
	case err == nil:
		return io.ErrNoProgress
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF // a WebSocket ends with a close frame
	}
	return err
}

// preload gives the reader bytes that came before those of its source.
func (f *frameReader) preload(p []byte) {
	if len(p) > len(f.buf) {
		f.buf = make([]byte, len(p))
	}
	f.w = copy(f.buf, p)
}
