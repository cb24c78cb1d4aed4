//go:build linux || darwin

package terminal

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

func size(f *os.File) (columns, rows int, ok bool) {
	ws, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return 0, 0, false
	}
	return int(ws.Col), int(ws.Row), true
}

// Keys delivers the keys pressed on f, which must be a terminal, as they are
// pressed and unseen. Signals keep working. stop gives the terminal back as it
// was and closes the channel; it must be called, and may be called again.
func Keys(f *os.File) (keys <-chan byte, stop func(), err error) {
	fd := int(f.Fd())
	before, err := unix.IoctlGetTermios(fd, getTermios)
	if err != nil {
		return nil, nil, fmt.Errorf("read the terminal's mode: %w", err)
	}
	now := *before
	now.Lflag &^= unix.ICANON | unix.ECHO
	// A read gives up after a tenth of a second, so that stop can be heard.
	now.Cc[unix.VMIN], now.Cc[unix.VTIME] = 0, 1
	if err := unix.IoctlSetTermios(fd, setTermios, &now); err != nil {
		return nil, nil, fmt.Errorf("set the terminal's mode: %w", err)
	}
	out, quit, done := make(chan byte), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		defer close(out)
		readKeys(fd, out, quit)
	}()
	return out, sync.OnceFunc(func() {
		close(quit)
		<-done
		// There is nobody left to tell that this failed.
		_ = unix.IoctlSetTermios(fd, setTermios, before)
	}), nil
}

func readKeys(fd int, out chan<- byte, quit <-chan struct{}) {
	var key [1]byte
	for {
		select {
		case <-quit:
			return
		default:
		}
		n, err := unix.Read(fd, key[:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		if n != 1 {
			continue
		}
		select {
		case <-quit:
			return
		case out <- key[0]:
		}
	}
}

// NotifyResize sends a signal to c whenever the window was resized, until
// signal.Stop(c).
func NotifyResize(c chan<- os.Signal) { signal.Notify(c, unix.SIGWINCH) }
