//go:build unix

package sink

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

type files struct {
	t    *testing.T
	path string
	now  time.Time
	cfg  FileConfig
}

func newFiles(t *testing.T) *files {
	t.Helper()
	f := &files{t: t, path: filepath.Join(t.TempDir(), "out.log"), now: time.Date(2026, 11, 21, 8, 30, 0, 0, time.UTC)}
	f.cfg = FileConfig{Path: f.path, Append: asLines, Log: quiet(), now: func() time.Time { return f.now }}
	return f
}

func (f *files) open() *File {
	f.t.Helper()
	s, err := OpenFile(f.cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = s.Close() })
	return s
}

func (f *files) write(s *File, texts ...string) {
	f.t.Helper()
	if err := s.Write(f.t.Context(), batches(texts...)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) want(path, content string) {
	f.t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		f.t.Fatalf("%s holds %q, want %q (%v)", filepath.Base(path), got, content, err)
	}
}

func (f *files) put(content string) {
	f.t.Helper()
	if err := os.WriteFile(f.path, []byte(content), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func TestFileAppends(t *testing.T) {
	for _, sync := range []bool{false, true} {
		f := newFiles(t)
		f.cfg.Sync = sync
		f.put("before\n")
		s := f.open()
		f.write(s, "a,b", "c")
		f.write(s, "d")
		f.want(f.path, "before\na\nb\nc\nd\n")
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Write(t.Context(), batches("x")); !errors.Is(err, fs.ErrClosed) {
			t.Fatal(err)
		}
		if err := s.Reopen(); !errors.Is(err, fs.ErrClosed) {
			t.Fatal(err)
		}
	}
}

func TestFileCutsATornLine(t *testing.T) {
	long := strings.Repeat("x", 150<<10)
	for before, after := range map[string]string{
		"":                       "",
		"whole\n":                "whole\n",
		"whole\nt":               "whole\n",
		"whole\ntor":             "whole\n",
		"tor":                    "",
		"whole\n" + long:         "whole\n",
		long + "\n" + long:       long + "\n",
		long + "\n\n" + long[1:]: long + "\n\n",
	} {
		f := newFiles(t)
		f.put(before)
		f.write(f.open(), "next")
		f.want(f.path, after+"next\n")
	}
}

func TestFileIsForOneProcess(t *testing.T) {
	f := newFiles(t)
	s := f.open()
	if _, err := OpenFile(f.cfg); !errors.Is(err, errInUse) {
		t.Fatal(err)
	}
	f.write(s, "a")
	_ = s.Close()
	f.write(f.open(), "b")
	f.want(f.path, "a\nb\n")
}

func TestFileFaults(t *testing.T) {
	f := newFiles(t)
	f.cfg.Path = filepath.Join(t.TempDir(), "missing", "out.log")
	if _, err := OpenFile(f.cfg); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	f.cfg.Path = t.TempDir()
	if _, err := OpenFile(f.cfg); err == nil {
		t.Fatal("a directory is no file")
	}
}

func TestFileThatIsADevice(t *testing.T) {
	f := newFiles(t)
	f.cfg.Path, f.cfg.Sync, f.cfg.RotateBytes = os.DevNull, true, 1
	s := f.open()
	f.write(s, "a")
	f.write(s, "b")
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
}

// limitFiles lets no file grow beyond a size, as a full disk does: a write
// takes what fits.
func limitFiles(t *testing.T, size uint64) (lift func()) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: size, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before); err != nil {
			t.Fatal(err)
		}
	}
}

// A write that fails half way leaves nothing.
func TestFileUndoesAFailedWrite(t *testing.T) {
	f := newFiles(t)
	s := f.open()
	f.write(s, "first")
	lift := limitFiles(t, 14)
	for range 2 {
		if err := s.Write(t.Context(), batches("second", "third")); !errors.Is(err, syscall.EFBIG) {
			t.Fatal(err)
		}
		f.want(f.path, "first\n")
	}
	lift()
	f.write(s, "second", "third")
	f.want(f.path, "first\nsecond\nthird\n")
}

// As long as what a failed write has left cannot be cut off, nothing is
// written behind it.
func TestFileUndoesAFailedWriteLater(t *testing.T) {
	f := newFiles(t)
	s := f.open()
	f.write(s, "first")
	half, err := os.OpenFile(f.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if _, err := half.WriteString("sec"); err != nil {
		t.Fatal(err)
	}
	readOnly, err := os.Open(f.path)
	if err != nil {
		t.Fatal(err)
	}
	whole := s.file
	s.file, s.good, s.dirty = readOnly, int64(len("first\n")), true
	for range 2 {
		if err := s.Write(t.Context(), batches("second")); err == nil || !strings.Contains(err.Error(), "undo") {
			t.Fatal(err)
		}
	}
	s.file = whole
	_ = readOnly.Close()
	f.write(s, "second")
	f.want(f.path, "first\nsecond\n")
}

func TestFileRotatesBySize(t *testing.T) {
	f := newFiles(t)
	f.cfg.RotateBytes, f.cfg.Keep = 25, 2
	s := f.open()
	for _, text := range []string{"0123456789", "0123456789", "third", "0123456789012345678901234567890", "fifth", "0123456789012345678901234"} {
		f.write(s, text)
		f.now = f.now.Add(time.Second)
	}
	all, err := rotated(f.path)
	if err != nil || len(all) != 2 {
		t.Fatalf("got %v, %v", all, err)
	}
	f.want(all[0], "0123456789012345678901234567890\n") // the two first are gone
	f.want(all[1], "fifth\n")
	f.want(f.path, "0123456789012345678901234\n")
	if !strings.HasSuffix(all[1], "out.log.20261121T083005Z") {
		t.Fatalf("got %v", all)
	}
}

func TestFileRotatesWithinASecond(t *testing.T) {
	f := newFiles(t)
	f.cfg.RotateBytes = 3
	s := f.open()
	for _, text := range []string{"aa", "bb", "cc", "dd"} {
		f.write(s, text)
	}
	all, err := rotated(f.path)
	if err != nil || len(all) != 3 {
		t.Fatalf("got %v, %v", all, err)
	}
	for i, text := range []string{"aa\n", "bb\n", "cc\n"} {
		f.want(all[i], text)
	}
	f.want(f.path, "dd\n")
}

func TestFileRotatesByAge(t *testing.T) {
	f := newFiles(t)
	f.cfg.RotateAge = time.Hour
	s := f.open()
	f.write(s, "8:30")
	f.now = f.now.Add(29 * time.Minute)
	f.write(s, "8:59")
	f.now = f.now.Add(time.Minute)
	f.write(s, "9:00")
	f.want(f.path, "9:00\n")
	_ = s.Close()

	// A restart in a later period notices as well.
	if err := os.Chtimes(f.path, f.now, f.now); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(59 * time.Minute)
	s = f.open()
	f.write(s, "9:59")
	_ = s.Close()
	if err := os.Chtimes(f.path, f.now, f.now); err != nil {
		t.Fatal(err)
	}
	f.now = f.now.Add(3 * time.Hour)
	f.write(f.open(), "12:59")
	all, err := rotated(f.path)
	if err != nil || len(all) != 2 {
		t.Fatalf("got %v, %v", all, err)
	}
	f.want(all[0], "8:30\n8:59\n")
	f.want(all[1], "9:00\n9:59\n")
	f.want(f.path, "12:59\n")
}

func TestRotatedFilesAreKnownByTheirNames(t *testing.T) {
	f := newFiles(t)
	dir := filepath.Dir(f.path)
	for _, name := range []string{
		"out.log.20261121T083000Z", "out.log.20261121T083000Z-001", "out.log.20261121T082959Z",
		"out.log.1", "out.log.20261121T083000Z.gz", "xout.log.20261121T083000Z", "out.log",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := rotated(f.path)
	for i := range all {
		all[i] = strings.TrimPrefix(filepath.Base(all[i]), "out.log.")
	}
	if want := []string{"20261121T082959Z", "20261121T083000Z", "20261121T083000Z-001"}; err != nil || !slices.Equal(all, want) {
		t.Fatalf("got %v, %v", all, err)
	}
}

// A file that cannot be rotated is written on.
func TestFileThatCannotRotate(t *testing.T) {
	f := newFiles(t)
	f.cfg.RotateBytes = 3
	s := f.open()
	f.write(s, "aa")
	if err := os.Rename(f.path, f.path+".moved"); err != nil { // so a rename finds nothing
		t.Fatal(err)
	}
	f.write(s, "bb")
	f.write(s, "cc")
	f.want(f.path+".moved", "aa\nbb\ncc\n")
	f.now = f.now.Add(2 * rotateRetry)
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	f.write(s, "dd")
	f.want(f.path, "dd\n")
}

func TestFileReopens(t *testing.T) {
	f := newFiles(t)
	s := f.open()
	f.write(s, "a")
	if err := os.Rename(f.path, f.path+".1"); err != nil {
		t.Fatal(err)
	}
	f.write(s, "b")
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	f.write(s, "c")
	if err := s.Reopen(); err != nil { // with nothing renamed
		t.Fatal(err)
	}
	f.write(s, "d")
	f.want(f.path+".1", "a\nb\n")
	f.want(f.path, "c\nd\n")
	if _, err := OpenFile(f.cfg); !errors.Is(err, errInUse) {
		t.Fatal("reopening has lost the lock:", err)
	}

	// When that fails, the old one will do.
	dir := filepath.Dir(f.path)
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	if err := s.Reopen(); err == nil {
		t.Fatal("no error")
	}
	f.write(s, "e")
	f.want(filepath.Join(dir+".gone", "out.log"), "c\nd\ne\n")
	_ = os.Rename(dir+".gone", dir)
}

func TestFileThatWasRemovedIsMadeAnew(t *testing.T) {
	f := newFiles(t)
	s := f.open()
	f.write(s, "a")
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	f.write(s, "b")
	f.want(f.path, "b\n")
}

// logrotate's copytruncate leaves the file, but empty.
func TestFileThatWasTruncated(t *testing.T) {
	f := newFiles(t)
	f.cfg.RotateBytes = 8
	s := f.open()
	f.write(s, "aaaaaa")
	if err := os.Truncate(f.path, 0); err != nil {
		t.Fatal(err)
	}
	f.write(s, "b")
	f.want(f.path, "b\n")
	if all, _ := rotated(f.path); len(all) != 0 {
		t.Fatalf("rotated to %v", all)
	}
}

// Whatever happens in between, every line is in some file, once and in order.
func TestFileLosesNothing(t *testing.T) {
	f := newFiles(t)
	f.cfg.RotateBytes = 500
	s := f.open()
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				if err := s.Reopen(); err != nil {
					t.Error(err)
				}
			}
		}
	})
	all := numbered(0, 2000)
	for i := 0; i < len(all); i += 4 {
		f.now = f.now.Add(time.Millisecond)
		f.write(s, all[i:i+4]...)
	}
	close(stop)
	wg.Wait()
	names, err := rotated(f.path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range append(names, f.path) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(text) > 500 {
			t.Errorf("%s has %d bytes", name, len(text))
		}
		got = append(got, strings.Fields(strings.ReplaceAll(string(text), "line ", ""))...)
	}
	want := strings.Fields(strings.ReplaceAll(strings.Join(all, " "), "line ", ""))
	if !slices.Equal(got, want) {
		t.Fatalf("%d lines of %d, or not in order", len(got), len(want))
	}
}
