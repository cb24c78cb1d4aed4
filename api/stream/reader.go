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

// What is read at a time. With a source that can lend, a connection holds none
// of it while it waits; otherwise it always does. The least is a control frame.
const (
	lendServer = 4<<10 - room
	lendClient = 144<<10 - room // a batch as a whole
	keepServer = 256 - room
	keepClient = 4<<10 - room

	// A message at least so long, in one frame, is not copied out of what was
	// read: it would get a buffer of the same size.
	inPlace = 16<<10 - room
)

// lender reads from a source into a Buffer that it takes only when there is
// something to read.
type lender interface {
	// lend blocks. It gives a Buffer with at least so much space, read into from
	// byte room on, and how much was read.
	lend(space int) (b *Buffer, n int, err error)
}

// frameReader puts the frames of one peer together to messages. It keeps its
// place when the source fails with a timeout: next may be called again and
// goes on. It does not run concurrently.
type frameReader struct {
	// static
	src    io.Reader
	lender lender // the same source, or nil
	masked bool   // what the peer's frames have to be
	limit  uint64

	heard atomic.Uint64 // frames begun; read by anyone
	parts atomic.Uint64 // times that a part of a message was read; likewise

	// read and not used yet: held.mem[r:w]
	held *Buffer
	r, w int

	// the frame being read
	inFrame bool
	head    header
	done    uint64 // payload bytes of it taken

	// the message being read
	inMessage bool
	msg       *Buffer
	have      int // bytes of msg

	control []byte // payload of the control frame just read; valid until next
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

// drop lets go of everything; nothing can be read after it.
func (f *frameReader) drop() {
	f.closed = true
	for _, b := range []*Buffer{f.msg, f.held} {
		if b != nil {
			b.Release()
		}
	}
	f.msg, f.held, f.control = nil, nil, nil
}

// begin reads the header of the next frame and checks that it may come here.
func (f *frameReader) begin() error {
	h, n, need := parseHeader(f.unused())
	for n == 0 {
		if err := f.fill(need); err != nil {
			return err
		}
		h, n, need = parseHeader(f.unused())
	}
	if err := f.check(h); err != nil {
		return err
	}
	f.r += n
	f.heard.Add(1)
	f.inFrame, f.head, f.done = true, h, 0
	f.inMessage = f.inMessage || !h.opcode.control()
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

// controlFrame takes the payload of a control frame; it fits what is held.
func (f *frameReader) controlFrame() (event, error) {
	size := int(f.head.length)
	if f.w-f.r < size {
		if err := f.fill(size); err != nil {
			return 0, err
		}
	}
	f.control = f.unused()[:size]
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

// payload takes the rest of a data frame into the message.
func (f *frameReader) payload() error {
	if f.msg == nil {
		if f.fitsHeld() {
			return f.payloadInPlace()
		}
		f.msg = NewBuffer(int(min(f.head.length, f.trust())))
	}
	for f.done < f.head.length {
		space := f.space(f.head.length - f.done)
		n := copy(space, f.unused())
		f.r += n
		if n == 0 {
			var err error
			if n, err = f.src.Read(space); n == 0 {
				return broken(err)
			}
			f.parts.Add(1)
		}
		mask(space[:n], f.head.key, f.done)
		f.done += uint64(n)
		f.have += n
	}
	return nil
}

// trust is how much is allocated on a header's word.
func (f *frameReader) trust() uint64 {
	if f.masked {
		return serverTrust
	}
	return clientTrust
}

// space is where the next bytes of the message go, at most left of them. The
// message grows as its bytes come in, not as they are announced.
func (f *frameReader) space(left uint64) []byte {
	if f.have == f.msg.Cap() {
		want := uint64(f.have) + left
		grown := NewBuffer(int(min(want, max(4*uint64(f.have), f.trust()))))
		copy(grown.Bytes(), f.msg.Bytes()[:f.have])
		f.msg.Release()
		f.msg = grown
	}
	f.msg.Resize(f.msg.Cap())
	free := f.msg.Bytes()[f.have:]
	if uint64(len(free)) > left {
		free = free[:left]
	}
	return free
}

// fitsHeld tells whether the frame is a long message of its own, begun in what
// is held, with the space to be completed there.
func (f *frameReader) fitsHeld() bool {
	return f.head.fin && f.head.opcode == opBinary && f.held != nil &&
		f.head.length >= inPlace && f.head.length <= uint64(len(f.held.mem)-f.r)
}

// payloadInPlace makes what is held the message, and holds on to what was read
// behind it.
func (f *frameReader) payloadInPlace() error {
	size := int(f.head.length)
	for f.w-f.r < size {
		n, err := f.src.Read(f.held.mem[f.w : f.r+size])
		f.w += n
		if n == 0 {
			return broken(err)
		}
		f.parts.Add(1)
	}
	msg, behind := f.held, f.held.mem[f.r+size:f.w]
	msg.start = f.r
	f.held, f.r, f.w = nil, 0, 0
	if len(behind) > 0 {
		f.held = NewBuffer(len(msg.mem) - room)
		f.r = room
		f.w = room + copy(f.held.mem[room:], behind)
	}
	f.msg, f.have, f.done = msg, size, f.head.length
	mask(msg.mem[msg.start:msg.start+size], f.head.key, 0)
	return nil
}

// unused is what was read and not taken yet.
func (f *frameReader) unused() []byte {
	if f.held == nil {
		return nil
	}
	return f.held.mem[f.r:f.w]
}

// fill reads until at least need bytes are unused.
func (f *frameReader) fill(need int) error {
	if f.r == f.w {
		if err := f.refill(); err != nil {
			return broken(err)
		}
	}
	if f.r+need > len(f.held.mem) {
		f.w = room + copy(f.held.mem[room:], f.unused())
		f.r = room
	}
	for f.w-f.r < need {
		n, err := f.src.Read(f.held.mem[f.w:])
		f.w += n
		if n == 0 {
			return broken(err)
		}
	}
	return nil
}

// refill makes f.held ready to be read into, and may have done so when it
// returns; nothing is unused when it is called.
func (f *frameReader) refill() error {
	space, keep := lendClient, keepClient
	if f.masked {
		space, keep = lendServer, keepServer
	}
	f.r, f.w = room, room
	if f.lender == nil {
		if f.held == nil {
			f.held = NewBuffer(keep)
		}
		return nil
	}
	if f.held != nil {
		f.held.Release()
		f.held = nil
	}
	b, n, err := f.lender.lend(space)
	if err != nil {
		return err
	}
	f.held, f.w = b, room+n
	return nil
}

// preload gives the reader bytes that came before those of its source.
func (f *frameReader) preload(p []byte) {
	if len(p) == 0 {
		return
	}
	f.held = NewBuffer(max(len(p), keepServer))
	f.r = room
	f.w = room + copy(f.held.mem[room:], p)
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
