package stream

import (
	"encoding/binary"
	"strings"
	"unicode/utf8"
)

// opcode of a frame (RFC 6455, 5.2).
type opcode byte

const (
	opContinuation opcode = 0x0
	opText         opcode = 0x1
	opBinary       opcode = 0x2
	opClose        opcode = 0x8
	opPing         opcode = 0x9
	opPong         opcode = 0xA
)

func (o opcode) control() bool { return o&0x8 != 0 }

const (
	finBit     = 0x80
	rsvBits    = 0x70
	opcodeBits = 0x0f
	maskBit    = 0x80

	maxControlPayload = 125
	maxHeader         = 14
)

// header of a frame.
type header struct {
	opcode opcode
	fin    bool
	rsv    byte // reserved bits, 0 unless the peer sets them
	masked bool
	key    [4]byte
	length uint64 // of the payload
}

// parseHeader reads a header from the start of p. n is its length, or, when p
// is too short, 0 with need telling how many bytes it takes at least.
func parseHeader(p []byte) (h header, n, need int) {
	if len(p) < 2 {
		return h, 0, 2
	}
	h.fin = p[0]&finBit != 0
	h.rsv = p[0] & rsvBits
	h.opcode = opcode(p[0] & opcodeBits)
	h.masked = p[1]&maskBit != 0
	short := p[1] &^ maskBit
	n = 2
	switch short {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	at := n
	if h.masked {
		n += 4
	}
	if len(p) < n {
		return h, 0, n
	}
	switch short {
	case 126:
		h.length = uint64(binary.BigEndian.Uint16(p[2:]))
	case 127:
		h.length = binary.BigEndian.Uint64(p[2:])
	default:
		h.length = uint64(short)
	}
	if h.masked {
		copy(h.key[:], p[at:])
	}
	return h, n, n
}

// frameHeaderLen is the length of an unmasked header for a payload.
func frameHeaderLen(payload int) int {
	switch {
	case payload < 126:
		return 2
	case payload <= 0xffff:
		return 4
	}
	return 10
}

// AppendFrameHeader appends the header of a server frame (final, binary,
// unmasked) whose payload has so many bytes.
func AppendFrameHeader(dst []byte, payload int) []byte {
	return appendHeader(dst, opBinary, payload, 0)
}

func appendHeader(dst []byte, op opcode, payload int, mask byte) []byte {
	dst = append(dst, finBit|byte(op))
	switch {
	case payload < 126:
		return append(dst, mask|byte(payload))
	case payload <= 0xffff:
		return binary.BigEndian.AppendUint16(append(dst, mask|126), uint16(payload))
	}
	return binary.BigEndian.AppendUint64(append(dst, mask|127), uint64(payload))
}

// mask applies key to p, whose first byte is byte at of the payload.
func mask(p []byte, key [4]byte, at uint64) {
	if key == ([4]byte{}) {
		return
	}
	var turned [8]byte
	for i := range turned {
		turned[i] = key[(at+uint64(i))&3]
	}
	k := binary.LittleEndian.Uint64(turned[:])
	for len(p) >= 32 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
		binary.LittleEndian.PutUint64(p[8:], binary.LittleEndian.Uint64(p[8:])^k)
		binary.LittleEndian.PutUint64(p[16:], binary.LittleEndian.Uint64(p[16:])^k)
		binary.LittleEndian.PutUint64(p[24:], binary.LittleEndian.Uint64(p[24:])^k)
		p = p[32:]
	}
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^k)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= turned[i]
	}
}

// appendClosePayload appends code and reason, the reason made valid and cut to
// what a control frame holds. Of a code that cannot be sent it appends nothing.
func appendClosePayload(dst []byte, code CloseCode, reason string) []byte {
	if !code.sendable() {
		return dst
	}
	end := len(dst) + maxControlPayload
	dst = binary.BigEndian.AppendUint16(dst, uint16(code))
	for _, r := range strings.ToValidUTF8(reason, "?") {
		if len(dst)+utf8.RuneLen(r) > end {
			break
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// parseClosePayload reads what a close frame says.
func parseClosePayload(p []byte) (*CloseError, error) {
	if len(p) == 0 {
		return &CloseError{Code: CloseNoStatus}, nil
	}
	if len(p) == 1 {
		return nil, &ProtocolError{CloseProtocol, "close frame with one byte"}
	}
	e := &CloseError{Code: CloseCode(binary.BigEndian.Uint16(p)), Reason: string(p[2:])}
	if !e.Code.sendable() {
		return nil, &ProtocolError{CloseProtocol, "close frame with the invalid code " + e.Code.String()}
	}
	if !utf8.ValidString(e.Reason) {
		return nil, &ProtocolError{CloseBadPayload, "close frame whose reason is not UTF-8"}
	}
	return e, nil
}
