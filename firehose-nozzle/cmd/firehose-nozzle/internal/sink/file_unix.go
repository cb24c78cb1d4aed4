//go:build unix

package sink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// lock makes this process the only one that writes to f, as long as f is open.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = errInUse
	}
	if err != nil {
		return fmt.Errorf("lock file: %w", err)
	}
	return nil
}

func unlock(f *os.File) {
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_UN) // closing it does the same
}

// removed tells whether an open file has no name any more.
func removed(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}
