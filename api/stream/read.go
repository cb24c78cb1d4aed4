package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"
)

// Opcodes and limits of RFC 6455 section 5.2 and 5.5.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xa

	maxControlPayload = 125
)

// frameHeader is the start of a client frame.
type frameHeader struct {
	fin    bool
	opcode byte
	length int64
	mask   [4]byte
}

// readServer reads client frames up to the end of a message. rmu is held.
func (c *Conn) readServer() (*Buffer, error) {
	var msg *Buffer
	for {
		h, err := c.readHeader()
		if err == nil && h.opcode >= opClose {
			err = c.readControl(h)
			if err == nil {
				continue
			}
		}
		if err == nil {
			msg, err = c.readData(h, msg)
		}
		if err != nil {
			if msg != nil {
				msg.Release()
			}
			return nil, c.failRead(err)
		}
		if h.fin {
			return msg, nil
		}
	}
}

// failRead ends the connection after a read error, with a close frame when
// the client broke the protocol.
func (c *Conn) failRead(err error) error {
	var broken *CloseError
	if errors.As(err, &broken) && broken.local {
		c.writeClose(broken.Code, broken.Reason)
	}
	return err
}

// readHeader reads a frame header and checks what holds for every frame.
func (c *Conn) readHeader() (h frameHeader, err error) {
	var b [8]byte
	if _, err := io.ReadFull(c.br, b[:2]); err != nil {
		return h, fmt.Errorf("read frame: %w", err)
	}
	h.fin, h.opcode = b[0]&0x80 != 0, b[0]&0x0f
	masked := b[1]&0x80 != 0
	h.length = int64(b[1] & 0x7f)
	switch {
	case b[0]&0x70 != 0:
		return h, protocolError("a reserved bit is set")
	case h.opcode > opBinary && h.opcode < opClose || h.opcode > opPong:
		return h, protocolError("unknown opcode %d", h.opcode)
	case !masked:
		return h, protocolError("a client frame has to be masked")
	case h.opcode >= opClose && (!h.fin || h.length > maxControlPayload):
		return h, protocolError("a control frame has to be whole and of at most %d bytes", maxControlPayload)
	}
	switch h.length {
	case 126:
		if _, err := io.ReadFull(c.br, b[:2]); err != nil {
			return h, fmt.Errorf("read frame: %w", err)
		}
		h.length = int64(binary.BigEndian.Uint16(b[:2]))
	case 127:
		if _, err := io.ReadFull(c.br, b[:8]); err != nil {
			return h, fmt.Errorf("read frame: %w", err)
		}
		if h.length = int64(binary.BigEndian.Uint64(b[:8])); h.length < 0 {
			return h, protocolError("frame length is over 2^63")
		}
	}
	if _, err := io.ReadFull(c.br, h.mask[:]); err != nil {
		return h, fmt.Errorf("read frame: %w", err)
	}
	return h, nil
}

// readData appends the payload of a data frame to msg, nil for a first frame.
func (c *Conn) readData(h frameHeader, msg *Buffer) (*Buffer, error) {
	switch {
	case h.opcode == opText:
		return msg, &CloseError{Code: CloseBadMessage, Reason: "text messages are not understood", local: true}
	case msg == nil && h.opcode == opContinuation:
		return msg, protocolError("a continuation without a message")
	case msg != nil && h.opcode != opContinuation:
		return msg, protocolError("a new message within a message")
	}
	have := 0
	if msg != nil {
		have = len(msg.Bytes())
	}
	if h.length > c.limit-int64(have) {
		return msg, &CloseError{Code: CloseTooBig, Reason: fmt.Sprintf("message is over %d bytes", c.limit), local: true}
	}
	if msg == nil {
		msg = NewBuffer(int(h.length))
	} else {
		msg = msg.grow(int(h.length))
	}
	part := msg.Bytes()[have:]
	if _, err := io.ReadFull(c.br, part); err != nil {
		return msg, fmt.Errorf("read frame: %w", err)
	}
	unmask(part, h.mask)
	return msg, nil
}

// readControl handles a ping, pong or close.
func (c *Conn) readControl(h frameHeader) error {
	var b [maxControlPayload]byte
	payload := b[:h.length]
	if _, err := io.ReadFull(c.br, payload); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	unmask(payload, h.mask)
	switch h.opcode {
	case opPing:
		c.writeControl(opPong, payload)
	case opPong:
		c.pong.Store(time.Now().UnixNano())
	case opClose:
		return c.peerClosed(payload)
	}
	return nil
}

// peerClosed answers a close frame and returns what it said.
func (c *Conn) peerClosed(payload []byte) error {
	e := &CloseError{Code: closeNoStatus}
	switch {
	case len(payload) == 1:
		return protocolError("a close frame of one byte")
	case len(payload) >= 2:
		e.Code = CloseCode(binary.BigEndian.Uint16(payload))
		e.Reason = string(payload[2:])
		if !e.Code.valid() || !utf8.ValidString(e.Reason) {
			return protocolError("a close frame with a bad code or reason")
		}
	}
	code := e.Code
	if code == closeNoStatus {
		code = CloseNormal
	}
	c.writeClose(code, "")
	return e
}

// unmask undoes RFC 6455 section 5.3 in place.
func unmask(b []byte, mask [4]byte) {
	m := uint64(binary.LittleEndian.Uint32(mask[:]))
	m |= m << 32
	for len(b) >= 8 {
		binary.LittleEndian.PutUint64(b, binary.LittleEndian.Uint64(b)^m)
		b = b[8:]
	}
	for i := range b {
		b[i] ^= mask[i&3]
	}
}
