//go:build unix

package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pipeOf makes a named pipe: held is closed when somebody has it open for writing,
// and free when nobody has any more.
func pipeOf(t *testing.T) (path string, held, free <-chan struct{}) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		if f, err := os.Open(path); err == nil {
			close(begun)
			_, _ = io.Copy(io.Discard, f)
			_ = f.Close()
		}
	}()
	t.Cleanup(func() { // should nobody have come
		if f, err := os.OpenFile(path, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			_ = f.Close()
		}
	})
	return path, begun, ended
}

// holding is a command that takes for ever, and holds a pipe as everything does
// that it starts.
func holding(pipe string) string { return "exec 9>'" + pipe + "'; sleep 600; echo tok" }

// within fails the test if ch gives nothing for a long time.
func within[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	var v T
	select {
	case v = <-ch:
	case <-time.After(20 * time.Second):
		t.Fatal("for 20 s there was not: " + what)
	}
	return v
}

// A command that takes too long ends, with everything that it has started.
func TestTokenCommandHasALimit(t *testing.T) {
	pipe, _, free := pipeOf(t)
	got := make(chan error, 1)
	go func() {
		_, err := tokenOf(context.Background(), holding(pipe), 2*time.Second)
		got <- err
	}()
	if err := within(t, "an end of waiting", got); err == nil || err.Error() != "--token-command: it took longer than 2s" {
		t.Error(err)
	}
	within(t, "an end of all that it has started", free)
}

// lgr can be stopped while it waits for a token at its start.
func TestInterruptedWhileWaitingForAToken(t *testing.T) {
	pipe, held, free := pipeOf(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got := make(chan error, 1)
	go func() {
		_, err := (&readerFlags{TokenCommand: holding(pipe)}).config(ctx)
		got <- err
	}()
	within(t, "a command that runs", held)
	cancel()
	if err := within(t, "an end of waiting", got); !errors.Is(err, errInterrupted) {
		t.Error(err)
	}
	within(t, "an end of all that it has started", free)
}

func TestTokenOfACommand(t *testing.T) {
	for _, tc := range []struct{ name, command, token, fault string }{
		{"a line", "echo tok", "bearer tok", ""},
		{"with its scheme", "echo; echo ' bearer tok '", "bearer tok", ""},
		{"whatever it has started keeps its stdout", "sleep 5 & echo tok", "bearer tok", ""},
		{"nothing", "true", "", "has to print one line"},
		{"two lines", "echo secret; echo two", "", "has to print one line"},
		{"a failure", "echo secret; exit 3", "", "exit status 3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			header, err := tokenOf(t.Context(), tc.command, time.Minute)
			if got := header.Get("Authorization"); got != tc.token {
				t.Errorf("token %q, not %q", got, tc.token)
			}
			switch {
			case (err == nil) != (tc.fault == ""):
				t.Errorf("got %v, want %q", err, tc.fault)
			case err != nil && (!strings.Contains(err.Error(), tc.fault) || strings.Contains(err.Error(), "secret")):
				t.Errorf("got %v, want %q", err, tc.fault)
			}
		})
	}
}
