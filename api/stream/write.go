package stream

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"
)

// maxFrameHeader is the longest header of a server frame.
const maxFrameHeader = 10

// AppendFrameHeader appends the header of a whole binary server frame with
// payload bytes of content.
func AppendFrameHeader(dst []byte, payload int) []byte {
	return appendHeader(dst, opBinary, payload)
}

func appendHeader(dst []byte, opcode byte, payload int) []byte {
	dst = append(dst, 0x80|opcode)
	switch {
	case payload < 126:
		return append(dst, byte(payload))
	case payload <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(payload))
	default:
		return binary.BigEndian.AppendUint64(append(dst, 127), uint64(payload))
	}
}

// FrameSize is the number of bytes a server frame with payload bytes takes.
func FrameSize(payload int) int {
	switch {
	case payload < 126:
		return payload + 2
	case payload <= 0xffff:
		return payload + 4
	default:
		return payload + maxFrameHeader
	}
}

func appendClose(dst []byte, code CloseCode, reason string) []byte {
	if len(reason) > maxControlPayload-2 {
		reason = reason[:maxControlPayload-2]
	}
	dst = appendHeader(dst, opClose, 2+len(reason))
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	return append(dst, reason...)
}

// errClosedWrite says that a close frame went out before.
var errClosedWrite = fmt.Errorf("write WebSocket frames: %w", net.ErrClosed)

// WriteFrames sends whole frames that are encoded already; bufs together are
// their bytes. Server side only.
//
// On plain TCP it tries to write at once, without waiting and without copying.
// What the socket does not take, and everything on TLS, is copied first. In
// either case release is called exactly once, as soon as bufs are no longer
// used; spilled says that the call is going to wait for the socket. Then it
// blocks until all is written or timeout is over. After an error nothing more
// can be written.
func (c *Conn) WriteFrames(bufs [][]byte, release func(spilled bool), timeout time.Duration) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	if c.werr != nil {
		release(false)
		return c.werr
	}
	written := 0
	if c.plain != nil {
		written, c.werr = c.tryWrite(bufs)
		if c.werr != nil {
			release(false)
			c.werr = fmt.Errorf("write WebSocket frames: %w", c.werr)
			return c.werr
		}
	}
	size := -written
	for _, b := range bufs {
		size += len(b)
	}
	if size == 0 {
		release(false)
		return nil
	}
	rest := NewBuffer(size)
	defer rest.Release()
	gather(rest.Bytes(), bufs, written)
	release(c.plain != nil)
	_ = c.raw.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := c.raw.Write(rest.Bytes()); err != nil {
		c.werr = fmt.Errorf("write WebSocket frames: %w", err)
	}
	return c.werr
}

// gather copies bufs without their first skip bytes to dst.
func gather(dst []byte, bufs [][]byte, skip int) {
	for _, b := range bufs {
		if skip >= len(b) {
			skip -= len(b)
			continue
		}
		dst = dst[copy(dst, b[skip:]):]
		skip = 0
	}
}

// writeControl sends a control frame unless the connection is busy writing
// and stays so; then the peer has other signs of life.
func (c *Conn) writeControl(opcode byte, payload []byte) {
	if !c.lockWrite(closeWait) {
		return
	}
	defer c.wmu.Unlock()
	if c.werr != nil {
		return
	}
	frame := append(appendHeader(make([]byte, 0, 2+maxControlPayload), opcode, len(payload)), payload...)
	_ = c.raw.SetWriteDeadline(time.Now().Add(closeWait))
	if _, err := c.raw.Write(frame); err != nil {
		c.werr = fmt.Errorf("write WebSocket control frame: %w", err)
	}
}

// writeClose sends a close frame as the last thing.
func (c *Conn) writeClose(code CloseCode, reason string) {
	if !c.lockWrite(closeWait) {
		return
	}
	defer c.wmu.Unlock()
	if c.werr == nil {
		_ = c.raw.SetWriteDeadline(time.Now().Add(closeWait))
		_, _ = c.raw.Write(appendClose(nil, code, reason))
		c.werr = errClosedWrite
	}
}

// ping sends a ping if that needs no waiting.
func (c *Conn) ping() {
	if !c.wmu.TryLock() {
		return
	}
	defer c.wmu.Unlock()
	if c.werr != nil {
		return
	}
	frame := []byte{0x80 | opPing, 0}
	if c.plain == nil {
		_ = c.raw.SetWriteDeadline(time.Now().Add(closeWait))
		_, err := c.raw.Write(frame)
		if err != nil {
			c.werr = fmt.Errorf("ping: %w", err)
		}
		return
	}
	n, err := c.tryWrite([][]byte{frame})
	if n == 1 {
		_ = c.raw.SetWriteDeadline(time.Now().Add(closeWait))
		_, err = c.raw.Write(frame[1:])
	}
	if err != nil {
		c.werr = fmt.Errorf("ping: %w", err)
	}
}
