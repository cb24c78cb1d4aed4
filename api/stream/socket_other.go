//go:build !linux

package stream

import (
	"net"
	"syscall"
)

// rawSocket is for Linux; elsewhere a message is copied, then written, and a
// connection keeps a buffer to read into.
func rawSocket(*net.TCPConn) syscall.RawConn { return nil }

func newSocketLender(syscall.RawConn) lender { return nil }

func tryWrite(syscall.RawConn, [][]byte) (int, error) { return 0, nil }
