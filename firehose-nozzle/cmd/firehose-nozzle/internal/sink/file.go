package sink

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// FileConfig says where a File writes and when it rotates.
type FileConfig struct {
	Path   string
	Append Append
	// RotateBytes is the size that a file is not to exceed, 0 for none. A
	// single write that is larger gets a file of its own.
	RotateBytes int64
	// RotateAge lets a new file begin at every full period since midnight
	// UTC, with the first line of the period. 0 for never.
	RotateAge time.Duration
	// Keep is how many rotated files remain, 0 for all.
	Keep int
	// Sync makes every write durable before it is done; else that is left to
	// the system, and a machine that fails may lose the last seconds.
	Sync bool
	Log  *slog.Logger

	now func() time.Time // of tests
}

// File writes lines to a file and rotates it: the file is renamed to
// PATH.20060102T150405Z, and a new one is begun. The last line of the file is
// never torn: what a crash has left of one is cut off when the file is opened,
// and what a failed write has left before the next. Only one process can have
// the file open.
//
// All methods may be called concurrently.
type File struct {
	cfg FileConfig

	// guarded by mu
	mu      sync.Mutex
	lines   lines
	file    *os.File
	regular bool  // not a pipe or a device, which have no size and no rotation
	good    int64 // size without what a failed write has left
	dirty   bool  // such a rest may be there
	period  int64
	retry   time.Time // when to try again to rotate
}

// rotateRetry is how long a file that cannot be renamed is written on.
const rotateRetry = time.Minute

// OpenFile opens the file, or creates it, and repairs its end.
func OpenFile(cfg FileConfig) (*File, error) {
	if cfg.now == nil {
		cfg.now = time.Now
	}
	s := &File{cfg: cfg, lines: lines{append: cfg.Append}}
	if err := s.open(); err != nil {
		return nil, err
	}
	return s, nil
}

// Write is done when the file has taken all lines, and has them on its disk
// if Sync is set. After an error none of them is in the file. It blocks as
// long as the disk does.
func (s *File) Write(_ context.Context, batches []*nozzle.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.lines.of(batches)
	if s.file == nil {
		return fmt.Errorf("write %s: %w", s.cfg.Path, fs.ErrClosed)
	}
	if err := s.prepare(int64(len(text))); err != nil {
		return err
	}
	s.dirty = s.regular
	if _, err := s.file.Write(text); err != nil {
		_ = s.undo() // the next write tries again
		return fmt.Errorf("write file: %w", err)
	}
	if s.cfg.Sync && s.regular {
		if err := s.file.Sync(); err != nil {
			_ = s.undo()
			return fmt.Errorf("sync file: %w", err)
		}
	}
	s.dirty = false
	return nil
}

// prepare makes the file ready to take n bytes.
func (s *File) prepare(n int64) error {
	if !s.regular {
		return nil
	}
	if s.dirty {
		if err := s.undo(); err != nil {
			return err
		}
	}
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("look at file: %w", err)
	}
	if removed(info) {
		s.cfg.Log.Warn("file was removed, making it anew", "file", s.cfg.Path)
		if err := s.reopen(); err != nil {
			return err
		}
		if info, err = s.file.Stat(); err != nil {
			return fmt.Errorf("look at file: %w", err)
		}
	}
	s.good = info.Size() // others may have truncated it
	if s.due(n) {
		s.rotate()
	}
	return nil
}

// undo cuts off what a failed write has left.
func (s *File) undo() error {
	if !s.dirty {
		return nil
	}
	info, err := s.file.Stat()
	if err == nil && info.Size() > s.good {
		err = s.file.Truncate(s.good)
	}
	if err != nil {
		return fmt.Errorf("undo a failed write: %w", err)
	}
	s.dirty = false
	return nil
}

// due tells whether the file is to be rotated before n more bytes.
func (s *File) due(n int64) bool {
	now := s.cfg.now()
	if s.good == 0 {
		s.period = s.periodOf(now)
		return false
	}
	if now.Before(s.retry) {
		return false
	}
	return s.cfg.RotateBytes > 0 && s.good+n > s.cfg.RotateBytes || s.periodOf(now) != s.period
}

func (s *File) periodOf(t time.Time) int64 {
	if s.cfg.RotateAge <= 0 {
		return 0
	}
	return t.UnixNano() / int64(s.cfg.RotateAge)
}

// rotate begins a new file. When that fails the old one is written on.
func (s *File) rotate() {
	now := s.cfg.now()
	to, err := freeName(s.cfg.Path + now.UTC().Format(rotatedFormat))
	if err == nil {
		err = os.Rename(s.cfg.Path, to)
	}
	if err == nil {
		if err = s.reopen(); err != nil {
			err = errors.Join(err, os.Rename(to, s.cfg.Path))
		}
	}
	if err != nil {
		s.retry = now.Add(rotateRetry)
		s.cfg.Log.Error("cannot rotate file, writing on", "file", s.cfg.Path, "error", err)
		return
	}
	s.cfg.Log.Info("file rotated", "file", s.cfg.Path, "to", to)
	if err := s.prune(); err != nil {
		s.cfg.Log.Error("cannot remove old file", "error", err)
	}
}

// Reopen closes the file and opens whatever has its name now, after logrotate
// for instance has renamed it. When that fails the old file is written on.
func (s *File) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reopen()
}

func (s *File) reopen() error {
	old := s.file
	if old == nil {
		return fmt.Errorf("reopen %s: %w", s.cfg.Path, fs.ErrClosed)
	}
	if err := s.undo(); err != nil {
		return err
	}
	// Of two descriptors of one file only one can have the lock.
	unlock(old)
	if err := s.open(); err != nil {
		return errors.Join(err, lock(old))
	}
	if err := s.sync(old); err != nil {
		s.cfg.Log.Error("old file", "error", err)
	}
	return nil
}

func (s *File) sync(f *os.File) error {
	var err error
	if s.cfg.Sync && s.regular {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("close file: %w", err)
	}
	return nil
}

// Close closes the file.
func (s *File) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := errors.Join(s.undo(), s.sync(s.file))
	s.file = nil
	return err
}

// open opens the file that has the name now.
func (s *File) open() error {
	f, err := os.OpenFile(s.cfg.Path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o640)
	if err != nil {
		return fmt.Errorf("open sink: %w", err)
	}
	info, err := f.Stat()
	if err == nil && info.Mode().IsRegular() {
		if err = lock(f); err == nil {
			err = s.repair(f, info)
		}
	}
	if err == nil && s.cfg.Sync && info.Mode().IsRegular() {
		err = syncDir(filepath.Dir(s.cfg.Path))
	}
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open sink %s: %w", s.cfg.Path, err)
	}
	s.file, s.regular = f, info.Mode().IsRegular()
	return nil
}

// repair cuts off a torn last line.
func (s *File) repair(f *os.File, info fs.FileInfo) error {
	s.period, s.dirty = s.periodOf(info.ModTime()), false
	end, err := lastLineEnd(f, info.Size())
	if err != nil {
		return err
	}
	if torn := info.Size() - end; torn > 0 {
		s.cfg.Log.Warn("cutting off a torn last line", "file", s.cfg.Path, "bytes", torn)
		if err := f.Truncate(end); err != nil {
			return fmt.Errorf("cut off a torn line: %w", err)
		}
	}
	s.good = end
	return nil
}

// lastLineEnd returns the offset behind the last newline.
func lastLineEnd(f *os.File, size int64) (int64, error) {
	buf := make([]byte, 64<<10)
	for size > 0 {
		part := buf[:min(size, int64(len(buf)))]
		if _, err := f.ReadAt(part, size-int64(len(part))); err != nil {
			return 0, fmt.Errorf("look for a torn line: %w", err)
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			return size - int64(len(part)) + int64(i) + 1, nil
		}
		size -= int64(len(part))
	}
	return 0, nil
}

// syncDir makes names in a directory durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
