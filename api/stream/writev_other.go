//go:build !linux

package stream

import (
	"net"
	"syscall"
)

// rawWriter is for Linux; elsewhere a message is copied, then written.
func rawWriter(*net.TCPConn) syscall.RawConn { return nil }

func tryWrite(syscall.RawConn, [][]byte) (int, error) { return 0, nil }
