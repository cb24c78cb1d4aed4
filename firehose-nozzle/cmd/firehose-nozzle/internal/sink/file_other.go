//go:build !unix

package sink

import (
	"io/fs"
	"os"
)

// Where there are no such locks, operators have to take care themselves.
func lock(*os.File) error { return nil }

func unlock(*os.File) {}

func removed(fs.FileInfo) bool { return false }
