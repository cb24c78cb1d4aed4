package sink

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// rotatedFormat is what a rotated file has behind its name: when it was
// rotated, in UTC.
const rotatedFormat = ".20060102T150405Z"

// rotatedSuffix matches it; files of one second are numbered.
var rotatedSuffix = regexp.MustCompile(`^\.\d{8}T\d{6}Z(-\d{3})?$`)

// freeName returns a name that no file has.
func freeName(name string) (string, error) {
	try := name
	for i := 1; i < 1000; i++ {
		_, err := os.Lstat(try)
		if errors.Is(err, fs.ErrNotExist) {
			return try, nil
		}
		if err != nil {
			return "", fmt.Errorf("find a name: %w", err)
		}
		try = fmt.Sprintf("%s-%03d", name, i)
	}
	return "", fmt.Errorf("find a name: %s and a thousand more are taken", name)
}

// prune removes rotated files, the oldest first, until Keep remain.
func (s *File) prune() error {
	if s.cfg.Keep <= 0 {
		return nil
	}
	all, err := rotated(s.cfg.Path)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range all[:max(len(all)-s.cfg.Keep, 0)] {
		errs = append(errs, os.Remove(name))
	}
	return errors.Join(errs...)
}

// rotated lists the rotated files of path, the oldest first.
func rotated(path string) ([]string, error) {
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list rotated files: %w", err)
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if len(name) > len(base) && name[:len(base)] == base && rotatedSuffix.MatchString(name[len(base):]) {
			names = append(names, filepath.Join(dir, name))
		}
	}
	slices.Sort(names)
	return names, nil
}
