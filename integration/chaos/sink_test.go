package chaos

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strconv"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// sinkFile reads the lines of firehose-nozzle's file sink while they are
// written. A line without its end does not count yet: it may be cut off.
type sinkFile struct {
	*client
	path string
	at   int64
}

// line is what counts of a line.
type line struct {
	id          nozzle.ID
	packed      uint64
	redelivered bool
}

// size is how long the file is, 0 when there is none yet.
func (f *sinkFile) size() int64 {
	info, err := os.Stat(f.path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// read accounts for what was written since the last time.
func (f *sinkFile) read() error {
	file, err := os.Open(f.path)
	if err != nil {
		return err
	}
	defer file.Close()
	text, err := io.ReadAll(io.NewSectionReader(file, f.at, 1<<40))
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		one, rest, whole := bytes.Cut(text, []byte("\n"))
		if !whole {
			return f.fault
		}
		l, err := parseLine(one)
		if err != nil {
			return err
		}
		f.took(l.id, l.packed, l.redelivered)
		f.at += int64(len(one) + 1)
		text = rest
	}
}

// parseLine looks only at what counts, for there are millions.
func parseLine(text []byte) (line, error) {
	doppler, ok1 := between(text, `"doppler":"`, `"`)
	number, ok2 := between(text, `"epoch":"`, `"`)
	offset, ok3 := between(append(text[:len(text):len(text)], ','), `"offset":`, ",}")
	seq, ok4 := between(text, ` seq=`, `"`)
	l := line{id: nozzle.ID{Doppler: doppler}, redelivered: bytes.Contains(text, []byte(`"redelivered":true`))}
	var err1, err2, err3 error
	l.id.Epoch, err1 = strconv.ParseUint(number, 10, 64)
	l.id.Offset, err2 = strconv.ParseUint(offset, 10, 64)
	l.packed, err3 = strconv.ParseUint(seq, 10, 64)
	if !ok1 || !ok2 || !ok3 || !ok4 || err1 != nil || err2 != nil || err3 != nil {
		return l, fmt.Errorf("a line that is no envelope: %s", text)
	}
	return l, nil
}

// between is what follows the last open, up to any character of ends.
func between(text []byte, open, ends string) (string, bool) {
	i := bytes.LastIndex(text, []byte(open))
	if i < 0 {
		return "", false
	}
	text = text[i+len(open):]
	i = bytes.IndexAny(text, ends)
	if i < 0 {
		return "", false
	}
	return string(text[:i]), true
}
