package stream

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode/utf8"
)

// conformance is what a server makes of frames, after the Autobahn suite: the
// messages it takes, the pings it answers, and the code it closes with (0 when
// it stays open).
type conformance struct {
	name     string
	send     [][]byte
	messages []string
	pongs    []string
	code     CloseCode
	reason   string // part of it
}

func fin(op opcode) byte { return finBit | byte(op) }

func cat(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

func closeFrame(code CloseCode, reason string) []byte {
	return clientFrame(fin(opClose), append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...))
}

var bin = func(s string) []byte { return clientFrame(fin(opBinary), []byte(s)) }

func conformances() []conformance {
	list := []conformance{
		{name: "two messages in one write", send: [][]byte{cat(bin("a"), bin("b"))}, messages: []string{"a", "b"}},
		{name: "empty message", send: [][]byte{bin("")}, messages: []string{""}},
		{name: "message byte by byte", send: chop(bin("hello"), 1), messages: []string{"hello"}},
		{name: "length longer than needed", messages: []string{"x"},
			send: [][]byte{{fin(opBinary), maskBit | 127, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}}},

		{name: "fragments", messages: []string{"abcdef"}, send: [][]byte{
			clientFrame(byte(opBinary), []byte("ab")), clientFrame(byte(opContinuation), []byte("cd")), clientFrame(fin(opContinuation), []byte("ef"))}},
		{name: "empty fragments", messages: []string{"x"}, send: [][]byte{
			clientFrame(byte(opBinary), nil), clientFrame(byte(opContinuation), nil), clientFrame(fin(opContinuation), []byte("x"))}},
		{name: "ping between fragments", messages: []string{"abcd"}, pongs: []string{"p"}, send: [][]byte{
			clientFrame(byte(opBinary), []byte("ab")), clientFrame(fin(opPing), []byte("p")), clientFrame(fin(opContinuation), []byte("cd"))}},
		{name: "pong between fragments", messages: []string{"abcd"}, send: [][]byte{
			clientFrame(byte(opBinary), []byte("ab")), clientFrame(fin(opPong), []byte("p")), clientFrame(fin(opContinuation), []byte("cd"))}},
		{name: "close between fragments", code: CloseNormal, send: [][]byte{
			clientFrame(byte(opBinary), []byte("ab")), closeFrame(CloseNormal, "")}},
		{name: "continuation of nothing", code: CloseProtocol, reason: "continuation", send: [][]byte{clientFrame(fin(opContinuation), []byte("x"))}},
		{name: "continuation after the end", messages: []string{"a"}, code: CloseProtocol, reason: "continuation",
			send: [][]byte{bin("a"), clientFrame(fin(opContinuation), []byte("x"))}},
		{name: "new message within one", code: CloseProtocol, reason: "end of another",
			send: [][]byte{clientFrame(byte(opBinary), []byte("a")), bin("b")}},

		{name: "ping without payload", pongs: []string{""}, send: [][]byte{clientFrame(fin(opPing), nil)}},
		{name: "ping with all bytes", pongs: []string{string(pattern(125, 3))}, send: [][]byte{clientFrame(fin(opPing), pattern(125, 3))}},
		{name: "ping too long", code: CloseProtocol, reason: "126 bytes", send: [][]byte{clientFrame(fin(opPing), pattern(126, 0))}},
		{name: "fragmented ping", code: CloseProtocol, reason: "fragmented", send: [][]byte{clientFrame(byte(opPing), []byte("x"))}},
		{name: "pong nobody asked for", send: [][]byte{clientFrame(fin(opPong), []byte("x")), bin("a")}, messages: []string{"a"}},

		{name: "text", code: CloseBadMessage, reason: "binary", send: [][]byte{clientFrame(fin(opText), []byte("x"))}},
		{name: "fragmented text", code: CloseBadMessage, reason: "binary", send: [][]byte{clientFrame(byte(opText), []byte("x"))}},
		{name: "no mask", code: CloseProtocol, reason: "mask", send: [][]byte{{fin(opBinary), 1, 'x'}}},
		{name: "ping without mask", code: CloseProtocol, reason: "mask", send: [][]byte{{fin(opPing), 0}}},
		{name: "over the limit", code: CloseTooBig, reason: "100000 bytes", send: [][]byte{appendHeader(nil, opBinary, 100001, maskBit), {0, 0, 0, 0}}},
		{name: "far over the limit", code: CloseTooBig, reason: "limit",
			send: [][]byte{{fin(opBinary), maskBit | 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0}}},
		{name: "fragments over the limit", code: CloseTooBig, reason: "limit", send: [][]byte{
			clientFrame(byte(opBinary), pattern(60000, 0)), clientFrame(byte(opContinuation), pattern(40001, 0))}},
		{name: "fragments up to the limit", messages: []string{string(pattern(60000, 0)) + string(pattern(40000, 0))}, send: [][]byte{
			clientFrame(byte(opBinary), pattern(60000, 0)), clientFrame(fin(opContinuation), pattern(40000, 0))}},

		{name: "close without code", code: CloseNoStatus, send: [][]byte{clientFrame(fin(opClose), nil)}},
		{name: "close with one byte", code: CloseProtocol, reason: "one byte", send: [][]byte{clientFrame(fin(opClose), []byte{3})}},
		{name: "close too long", code: CloseProtocol, reason: "126 bytes", send: [][]byte{closeFrame(CloseNormal, strings.Repeat("x", 124))}},
		{name: "close with a long reason", code: CloseNormal, send: [][]byte{closeFrame(CloseNormal, strings.Repeat("x", 123))}},
		{name: "close whose reason is no UTF-8", code: CloseBadPayload, reason: "UTF-8", send: [][]byte{closeFrame(CloseNormal, "\xff")}},
		{name: "nothing after close counts", code: CloseNormal, send: [][]byte{cat(closeFrame(CloseNormal, ""), bin("a"), clientFrame(fin(opPing), nil))}},
	}
	for _, size := range []int{1, 125, 126, 127, 128, 4079, 4080, 4081, 65535, 65536, 65537, 100000} {
		p := pattern(size, 1)
		list = append(list, conformance{name: fmt.Sprintf("message of %d bytes", size), send: [][]byte{clientFrame(fin(opBinary), p)}, messages: []string{string(p)}})
	}
	for op := opcode(3); op <= 0xf; op++ {
		if op >= opClose && op <= opPong {
			continue
		}
		list = append(list, conformance{name: fmt.Sprintf("opcode %#x", byte(op)), send: [][]byte{clientFrame(fin(op), nil)}, code: CloseProtocol, reason: "opcode"})
	}
	for _, bit := range []byte{0x40, 0x20, 0x10} {
		list = append(list,
			conformance{name: fmt.Sprintf("reserved bit %#x", bit), send: [][]byte{bin("a"), clientFrame(fin(opBinary)|bit, []byte("x"))}, messages: []string{"a"}, code: CloseProtocol, reason: "reserved"},
			conformance{name: fmt.Sprintf("reserved bit %#x in a ping", bit), send: [][]byte{clientFrame(fin(opPing)|bit, nil)}, code: CloseProtocol, reason: "reserved"})
	}
	for _, code := range []CloseCode{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1014, 3000, 3999, 4000, 4001, 4999} {
		list = append(list, conformance{name: fmt.Sprintf("close code %d", code), send: [][]byte{closeFrame(code, "why")}, code: code})
	}
	for _, code := range []CloseCode{0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		list = append(list, conformance{name: fmt.Sprintf("invalid close code %d", code), send: [][]byte{closeFrame(code, "why")}, code: CloseProtocol, reason: "invalid code"})
	}
	return list
}

func chop(p []byte, size int) (parts [][]byte) {
	for len(p) > 0 {
		n := min(size, len(p))
		parts = append(parts, p[:n])
		p = p[n:]
	}
	return parts
}

func TestConformance(t *testing.T) {
	t.Parallel()
	for _, test := range conformances() {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server, nc := rawClient(t, AcceptOptions{ReadLimit: 100000})
			messages, end := pump(server)
			for _, p := range test.send {
				if _, err := nc.Write(p); err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range test.messages {
				if got := within(t, messages); string(got) != want {
					t.Fatalf("message of %d bytes %.20q, want %d bytes %.20q", len(got), got, len(want), want)
				}
			}
			for _, want := range test.pongs {
				if op, got, err := readFrame(nc); err != nil || op != opPong || string(got) != want {
					t.Fatalf("answer %#x %q (%v), want pong %q", op, got, err, want)
				}
			}
			if test.code == 0 {
				expectAlive(t, nc)
				return
			}
			expectClose(t, nc, test.code, test.reason)
			_ = nc.Close()
			within(t, end)
			if n := len(messages); n > 0 {
				t.Errorf("%d messages too many", n)
			}
		})
	}
}

// expectAlive proves with a ping that the connection is open, and has nothing
// else to say.
func expectAlive(t *testing.T, nc io.ReadWriter) {
	t.Helper()
	if _, err := nc.Write(clientFrame(fin(opPing), []byte("alive?"))); err != nil {
		t.Fatal(err)
	}
	if op, got, err := readFrame(nc); err != nil || op != opPong || string(got) != "alive?" {
		t.Fatalf("answer %#x %q (%v), want a pong", op, got, err)
	}
}

func expectClose(t *testing.T, nc io.Reader, code CloseCode, reason string) {
	t.Helper()
	op, payload, err := readFrame(nc)
	if err != nil || op != opClose {
		t.Fatalf("answer %#x %q (%v), want close %d", op, payload, err, code)
	}
	got, err := parseClosePayload(payload)
	if err != nil {
		t.Fatal(err)
	}
	if got.Code != code || !strings.Contains(got.Reason, reason) {
		t.Errorf("closed with %d %q, want %d %q", got.Code, got.Reason, code, reason)
	}
	if n, err := io.ReadFull(nc, make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("after the close frame: %d bytes, %v; want the end", n, err)
	}
}

func TestClosePayload(t *testing.T) {
	for _, test := range []struct {
		name, reason, want string
		code               CloseCode
	}{
		{"plain", "why", "why", CloseNormal},
		{"too long", strings.Repeat("x", 200), strings.Repeat("x", 123), CloseStuck},
		{"cut between runes", strings.Repeat("é", 62), strings.Repeat("é", 61), CloseStuck},
		{"not UTF-8", "a\xffb", "a?b", CloseStuck},
		{"not UTF-8 and too long", strings.Repeat("\xff ", 200), strings.Repeat("? ", 61) + "?", CloseStuck},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := appendClosePayload([]byte("before"), test.code, test.reason)[len("before"):]
			e, err := parseClosePayload(p)
			if err != nil || len(p) > maxControlPayload || e.Code != test.code || e.Reason != test.want {
				t.Errorf("%q: %+v, %v", p, e, err)
			}
		})
	}
	if p := appendClosePayload(nil, CloseNoStatus, "x"); len(p) != 0 {
		t.Errorf("1005 in a close frame: %q", p)
	}
}

func TestMask(t *testing.T) {
	key := [4]byte{1, 2, 3, 4}
	for size := range 70 {
		for at := range uint64(9) {
			p := pattern(size, 0)
			mask(p, key, at)
			for i, b := range p {
				if want := pattern(size, 0)[i] ^ key[(uint64(i)+at)&3]; b != want {
					t.Fatalf("size %d at %d: byte %d is %d, want %d", size, at, i, b, want)
				}
			}
		}
	}
}

func TestFrameHeader(t *testing.T) {
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 30} {
		p := AppendFrameHeader(nil, size)
		h, n, _ := parseHeader(p)
		if n != len(p) || n != frameHeaderLen(size) || h.length != uint64(size) || !h.fin || h.opcode != opBinary || h.masked {
			t.Errorf("%d: %x: %+v, %d bytes", size, p, h, n)
		}
		for cut := range p {
			if _, n, need := parseHeader(p[:cut]); n != 0 || need <= cut || need > len(p) {
				t.Errorf("%d cut at %d: %d bytes, needs %d", size, cut, n, need)
			}
		}
	}
}

// chunks is a source that gives its parts one by one, with a timeout between
// them when told so.
type chunks struct {
	parts [][]byte
	pause bool
	waits bool
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.parts) == 0 {
		return 0, io.EOF
	}
	if c.pause {
		if c.waits = !c.waits; c.waits {
			return 0, errPause
		}
	}
	n := copy(p, c.parts[0])
	if c.parts[0] = c.parts[0][n:]; len(c.parts[0]) == 0 {
		c.parts = c.parts[1:]
	}
	return n, nil
}

func (c *chunks) lend(space int) (*Buffer, int, error) {
	b := NewBuffer(space)
	n, err := c.Read(b.mem[room:])
	if n == 0 {
		b.Release()
		return nil, 0, err
	}
	return b, n, nil
}

var errPause = fmt.Errorf("pause")

// events reads p to its end and says what came.
func events(p []byte, masked, lends, pause bool, size int) (list []string) {
	src := &chunks{parts: chop(p, size), pause: pause}
	f := frameReader{src: src, masked: masked, limit: 200000}
	if lends {
		f.lender = src
	}
	defer f.drop()
	for {
		what, err := f.next()
		switch {
		case err == errPause:
		case err != nil:
			return append(list, err.Error())
		case what == gotMessage:
			b := f.message()
			list = append(list, fmt.Sprintf("message %d %x frame %x", b.Len(), sha1.Sum(b.Bytes()), b.Frame()[:frameHeaderLen(b.Len())]))
			b.Release()
		default:
			list = append(list, fmt.Sprintf("control %d %x", what, f.control))
		}
	}
}

// FuzzFrameReader finds that the way bytes arrive makes no difference, that
// messages are within the limit, and that their frames are right. Before the
// bytes comes a message of long bytes, for inputs have to be short.
func FuzzFrameReader(f *testing.F) {
	for _, c := range conformances() {
		if p := cat(c.send...); len(p) < 300 {
			f.Add(p, uint32(0), true, byte(7))
			f.Add(p, uint32(70000), true, byte(130))
		}
	}
	f.Add(cat(AppendFrameHeader(nil, 3), []byte("abc")), uint32(66000), false, byte(250))
	f.Add(cat(AppendFrameHeader(nil, 3), []byte("abc")), uint32(20000), false, byte(3))
	f.Fuzz(func(t *testing.T, p []byte, long uint32, masked bool, size byte) {
		if long %= 210000; long > 0 {
			first := AppendFrameHeader(nil, int(long))
			first = append(first, pattern(int(long), size)...)
			if masked {
				first = clientFrame(fin(opBinary), pattern(int(long), size))
			}
			p = cat(first, p)
		}
		want := fmt.Sprint(events(bytes.Clone(p), masked, false, false, len(p)+1))
		for _, lends := range []bool{false, true} {
			for _, size := range []int{int(size)*int(size) + 1 + len(p)/500, len(p)/3 + 1, len(p) + 1} {
				got := fmt.Sprint(events(bytes.Clone(p), masked, lends, true, size))
				if got != want {
					t.Errorf("lends %v, %d bytes at a time: %.200s\nwant %.200s", lends, size, got, want)
				}
			}
		}
	})
}

// FuzzClosePayload finds that what is written can be read.
func FuzzClosePayload(f *testing.F) {
	f.Add(uint16(1000), "bye")
	f.Add(uint16(4001), strings.Repeat("é", 100))
	f.Add(uint16(1005), "\xff\xfe")
	f.Fuzz(func(t *testing.T, code uint16, reason string) {
		p := appendClosePayload(nil, CloseCode(code), reason)
		e, err := parseClosePayload(p)
		if err != nil || len(p) > maxControlPayload || !utf8.ValidString(e.Reason) {
			t.Errorf("%d %q: %x, %v", code, reason, p, err)
		}
	})
}

func TestHugeClaimsCostLittle(t *testing.T) {
	p := appendHeader(nil, opBinary, 16<<20, maskBit)
	f := frameReader{src: &chunks{parts: [][]byte{append(p, make([]byte, 4+10)...)}}, masked: true, limit: 16 << 20}
	defer f.drop()
	if _, err := f.next(); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if f.msg.Cap() > 16<<10 {
		t.Errorf("%d bytes for a message of which 10 came", f.msg.Cap())
	}
}
