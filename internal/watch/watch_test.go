package watch

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestValue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var logged bytes.Buffer
		file := filepath.Join(t.TempDir(), "file")
		loads := 0
		load := func() (string, error) {
			loads++
			b, err := os.ReadFile(file)
			if strings.HasPrefix(string(b), "bad") {
				err = errors.New("it is bad")
			}
			return string(b), err
		}
		v, err := New(slog.New(slog.NewTextHandler(&logged, nil)), load, file)
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatalf("without a file: %v", err)
		}
		for _, c := range []struct {
			write string
			wait  time.Duration
			want  string
			loads int
			log   string
		}{
			{"one", 0, "", 1, ""}, // not looked at yet
			{"one", time.Second, "one", 2, "read again"},
			{"", time.Second, "one", 2, ""},
			{"bad and longer", time.Second, "one", 3, "it is bad"},
			{"", time.Second, "one", 3, ""}, // told once
			{"two, longer still", time.Second, "two, longer still", 4, "read again"},
		} {
			logged.Reset()
			if c.write != "" {
				if err := os.WriteFile(file, []byte(c.write), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			time.Sleep(c.wait)
			if got := v.Get(); got != c.want || loads != c.loads {
				t.Errorf("%q written: %q after %d loads, want %q after %d", c.write, got, loads, c.want, c.loads)
			}
			if said := logged.String(); (said == "") != (c.log == "") || !strings.Contains(said, c.log) {
				t.Errorf("%q written: logged %q, want %q", c.write, said, c.log)
			}
		}
	})
}
