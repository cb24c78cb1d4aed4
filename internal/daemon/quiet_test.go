package daemon

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// everySecond says a thing every second and returns what was logged.
func everySecond(t *testing.T, seconds int, say func(base *slog.Logger) func(second int)) []string {
	var out bytes.Buffer
	synctest.Test(t, func(*testing.T) {
		say := say(slog.New(slog.NewTextHandler(&out, nil)))
		for i := range seconds {
			say(i)
			time.Sleep(time.Second)
		}
	})
	return strings.Split(strings.TrimSpace(out.String()), "\n")
}

func TestQuiet(t *testing.T) {
	lines := everySecond(t, 100, func(base *slog.Logger) func(int) {
		log := Quiet(base)
		return func(int) { log.Warn("lost") }
	})
	if len(lines) != 2 || !strings.Contains(lines[1], "times_unsaid=59") {
		t.Errorf("said %q", lines)
	}
}

// What is new is said at once, and how it fares; then a line a minute, however
// often it is asked for.
func TestQuietEach(t *testing.T) {
	lines := everySecond(t, 600, func(base *slog.Logger) func(int) {
		each := NewQuietEach(base, "addr")
		return func(i int) { each.Of("a:1").Info("flaps", "i", i) }
	})
	if len(lines) != 11 || !strings.Contains(lines[1], "i=1 ") && !strings.HasSuffix(lines[1], "i=1") || !strings.Contains(lines[2], "i=60") {
		t.Errorf("%d lines: %q", len(lines), lines)
	}
	if !strings.Contains(lines[0], "addr=a:1") {
		t.Errorf("no name in %q", lines[0])
	}
}

// Things that come and go take no memory for ever.
func TestQuietEachForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		each := NewQuietEach(slog.New(slog.NewTextHandler(&out, nil)), "addr")
		for i := range 1000 {
			log := each.Of(fmt.Sprint(i))
			log.Info("found")
			time.Sleep(time.Second)
		}
		if n := len(each.gates); n > 300 {
			t.Errorf("%d are remembered", n)
		}
	})
}
