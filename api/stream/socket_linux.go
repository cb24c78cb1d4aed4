package stream

import (
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"
)

// maxVector is how many pieces one writev takes (IOV_MAX).
const maxVector = 1024

// rawSocket gives access to the descriptor of tcp, or nil.
func rawSocket(tcp *net.TCPConn) syscall.RawConn {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// socketLender is the lender of a TCP connection.
type socketLender struct {
	raw  syscall.RawConn
	call func(fd uintptr) bool // made once, for it is allocated

	// of one call of lend
	space int
	b     *Buffer
	n     int
	err   error
}

func newSocketLender(raw syscall.RawConn) lender {
	s := &socketLender{raw: raw}
	s.call = s.read
	return s
}

func (s *socketLender) lend(space int) (*Buffer, int, error) {
	s.space, s.b, s.n, s.err = space, nil, 0, nil
	if err := s.raw.Read(s.call); err != nil {
		return nil, 0, err
	}
	return s.b, s.n, s.err
}

// read returns false to be called again when there is something to read.
func (s *socketLender) read(fd uintptr) bool {
	b := NewBuffer(s.space)
	for {
		n, err := syscall.Read(int(fd), b.mem[room:])
		switch {
		case err == syscall.EINTR:
			continue
		case n > 0:
			s.b, s.n = b, n
			return true
		}
		b.Release()
		if err == syscall.EAGAIN {
			return false
		}
		if s.err = err; err == nil {
			s.err = io.EOF
		}
		return true
	}
}

// vector is one writev: reused, because what crosses the RawConn interface is
// allocated.
type vector struct {
	pieces []syscall.Iovec
	n      int
	errno  syscall.Errno
	call   func(fd uintptr) bool
}

var vectors = sync.Pool{New: func() any {
	v := &vector{pieces: make([]syscall.Iovec, 0, 16)}
	v.call = v.write
	return v
}}

func (v *vector) write(fd uintptr) bool {
	for {
		n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v.pieces[0])), uintptr(len(v.pieces)))
		switch errno {
		case 0:
			v.n = int(n)
			return true
		case syscall.EINTR:
		case syscall.EAGAIN:
			v.n = 0
			return true
		default:
			v.n, v.errno = 0, errno
			return true
		}
	}
}

// tryWrite writes what the socket takes at once of bufs, in order, and says
// how many bytes it was. It does not block.
func tryWrite(raw syscall.RawConn, bufs [][]byte) (int, error) {
	v := vectors.Get().(*vector)
	defer func() {
		clear(v.pieces)
		v.pieces, v.errno = v.pieces[:0], 0
		vectors.Put(v)
	}()
	total := 0
	for len(bufs) > 0 {
		size := 0
		v.pieces = v.pieces[:0]
		for len(bufs) > 0 && len(v.pieces) < maxVector {
			if p := bufs[0]; len(p) > 0 {
				v.pieces = append(v.pieces, syscall.Iovec{Base: &p[0], Len: uint64(len(p))})
				size += len(p)
			}
			bufs = bufs[1:]
		}
		if size == 0 {
			break
		}
		if err := raw.Write(v.call); err != nil {
			return total, err
		}
		if v.errno != 0 {
			return total, v.errno
		}
		total += v.n
		if v.n < size {
			break
		}
	}
	return total, nil
}
