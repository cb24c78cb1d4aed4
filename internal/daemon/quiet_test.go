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

// Whoever makes up names makes neither memory nor lines without end, and those that
// were there before are heard.
func TestQuietEachIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		each := NewQuietEach(slog.New(slog.NewTextHandler(&out, nil)), "addr")
		each.Of("known").Info("found")
		for i := range 20 * maxGates {
			each.Of(fmt.Sprint(i)).Info("found")
		}
		if n := strings.Count(out.String(), "\n"); len(each.gates) != maxGates || n != maxGates+1+spare {
			t.Errorf("%d are remembered, %d lines", len(each.gates), n)
		}
		time.Sleep(quietFor)
		out.Reset()
		each.Of("known").Info("lost")
		each.Of("new").Info("found")
		if text := out.String(); !strings.Contains(text, "addr=known") || !strings.Contains(text, "addr=new times_unsaid=18999") {
			t.Errorf("said %q", text)
		}
		time.Sleep(5 * quietFor)
		each.Of("new").Info("found")
		if n := len(each.gates); n != 1 {
			t.Errorf("%d are remembered later", n)
		}
	})
}

// Names are not gone through at every call.
func TestQuietEachSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		each := NewQuietEach(slog.New(slog.DiscardHandler), "addr")
		for i := range 100 {
			each.Of(fmt.Sprint(i)) // nothing is said: it could be forgotten at once
		}
		if n := len(each.gates); n != 100 {
			t.Errorf("%d are left after calls at one time", n)
		}
		time.Sleep(sweepEvery)
		if each.Of("new"); len(each.gates) != 1 {
			t.Errorf("%d are left later", len(each.gates))
		}
	})
}
