package pump

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// CursorFile keeps a cursor between runs. It remembers for what subscription
// and selectors, for a cursor counts what they match. It is not for concurrent
// use.
type CursorFile struct {
	path   string
	stream string
	last   string
}

// stored is what is in the file.
type stored struct {
	Stream string `json:"stream"`
	Cursor string `json:"cursor"`
}

// OpenCursorFile reads a cursor, which is empty when there is no file yet.
// stream says in some canonical form what is read; a file with another one is
// an error.
func OpenCursorFile(path, stream string) (f *CursorFile, cursor string, err error) {
	f = &CursorFile{path: path, stream: stream}
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, "", nil
	}
	if err != nil {
		return nil, "", fmt.Errorf("read cursor: %w", err)
	}
	var s stored
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, "", fmt.Errorf("read cursor %s: %w (remove the file to begin anew)", path, err)
	}
	if s.Stream != stream {
		return nil, "", fmt.Errorf("cursor %s is of %s, not of %s: use another file, or remove it to begin anew", path, s.Stream, stream)
	}
	f.last = s.Cursor
	return f, s.Cursor, nil
}

// Save stores a cursor if it is another one than before. The file is replaced
// as a whole: whatever happens, there is the old cursor or the new one.
func (f *CursorFile) Save(cursor string) error {
	if cursor == f.last {
		return nil
	}
	data, err := json.Marshal(stored{Stream: f.stream, Cursor: cursor})
	if err != nil {
		return fmt.Errorf("store cursor: %w", err)
	}
	if err := replace(f.path, append(data, '\n')); err != nil {
		return fmt.Errorf("store cursor: %w", err)
	}
	f.last = cursor
	return nil
}

// replace writes a file in one step.
func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
