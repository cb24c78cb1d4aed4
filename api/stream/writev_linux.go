package stream

import (
	"sync"
	"syscall"
	"unsafe"
)

// maxIovecs is IOV_MAX of Linux.
const maxIovecs = 1024

// writev writes as much of bufs as the socket takes without waiting.
func writev(fd uintptr, bufs [][]byte, scratch *[]syscall.Iovec) (total int, err error) {
	for len(bufs) > 0 {
		v := (*scratch)[:0]
		want := 0
		for len(bufs) > 0 && len(v) < maxIovecs {
			if b := bufs[0]; len(b) > 0 {
				v = append(v, syscall.Iovec{Base: unsafe.SliceData(b), Len: uint64(len(b))})
				want += len(b)
			}
			bufs = bufs[1:]
		}
		if len(v) == 0 {
			break
		}
		n, _, errno := syscall.Syscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)))
		clear(v)
		*scratch = v
		switch {
		case errno == syscall.EINTR && len(v) > 0:
			return total, nil
		case errno == syscall.EAGAIN:
			return total, nil
		case errno != 0:
			return total, errno
		}
		total += int(n)
		if int(n) < want {
			break
		}
	}
	return total, nil
}

// iovecs are reused: a batch of envelopes that are not neighbours is many
// pieces.
var iovecs = sync.Pool{New: func() any { return new([]syscall.Iovec) }}

// tryWrite writes what the socket takes now.
func (c *Conn) tryWrite(bufs [][]byte) (n int, err error) {
	v := iovecs.Get().(*[]syscall.Iovec)
	defer iovecs.Put(v)
	var errno error
	err = c.plain.Write(func(fd uintptr) bool {
		n, errno = writev(fd, bufs, v)
		return true
	})
	if err == nil {
		err = errno
	}
	return n, err
}
