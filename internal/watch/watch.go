// Package watch keeps values that are made from files, and makes them again when
// the files change.
package watch

import (
	"log/slog"
	"os"
	"sync"
	"time"
)

// every bounds how often files are looked at.
const every = time.Second

// Value is a value made from files. Get makes it again when one of them has
// changed; a change that cannot be used is logged and the old value stays,
// because a file that is half written now is whole a moment later. Its methods
// may be called from any number of goroutines.
type Value[T any] struct {
	files []string
	load  func() (T, error)
	log   *slog.Logger

	mu      sync.Mutex
	value   T
	stamps  []stamp
	checked time.Time
}

// stamp is what a file looks like from outside.
type stamp struct {
	modified time.Time
	size     int64
}

// New returns what load makes of the files. The error is load's; the Value can be
// used all the same, once the files have changed.
func New[T any](log *slog.Logger, load func() (T, error), files ...string) (*Value[T], error) {
	v := &Value[T]{files: files, load: load, log: log, checked: time.Now()}
	v.stamps = v.look()
	var err error
	v.value, err = load()
	return v, err
}

// Get returns the present value. It may stat and read files, at most once a
// second.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := time.Now(); now.Sub(v.checked) >= every {
		v.checked = now
		v.refresh()
	}
	return v.value
}

func (v *Value[T]) refresh() {
	stamps := v.look()
	same := true
	for i := range stamps {
		same = same && stamps[i] == v.stamps[i]
	}
	if same {
		return
	}
	// Remembered also on failure: the fault is told once for each change.
	v.stamps = stamps
	value, err := v.load()
	if err != nil {
		v.log.Warn("changed files cannot be used, keeping the old ones", "files", v.files, "error", err)
		return
	}
	v.value = value
	v.log.Info("changed files read again", "files", v.files)
}

func (v *Value[T]) look() []stamp {
	stamps := make([]stamp, len(v.files))
	for i, name := range v.files {
		if info, err := os.Stat(name); err == nil {
			stamps[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return stamps
}
