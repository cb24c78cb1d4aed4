package integration

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

const jobLines = 100_000

// realProgram runs a program that has a lot to say, and returns its first lines.
func realProgram(ctx context.Context, t *testing.T) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, "go", "tool", "objdump", blackbox.Programs.Path(process.Lgr))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var all []string
	for s := bufio.NewScanner(out); len(all) < jobLines && s.Scan(); {
		all = append(all, s.Text())
	}
	cancel()
	_ = cmd.Wait() // was told to stop in the middle of a word
	if len(all) < jobLines {
		t.Fatalf("the program has only %d lines to say", len(all))
	}
	return all
}

// TestMainJob sends the lines of a real program in, and has a tail and a nozzle
// that writes a file on the other side.
func TestMainJob(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 1,
		// Room for all of it: the program is faster than a terminal.
		ControllerArgs: []string{"--tail-queue-bytes", "64MiB"}})
	dir := t.TempDir()
	sink, tailed := filepath.Join(dir, "sink.json"), filepath.Join(dir, "tail.json")
	nozzle := launch(t, process.Nozzle, process.Command{Args: []string{
		"--addr", p.URL(0), "--subscription", "main-job", "--admin-addr", "127.0.0.1:0", "--sink", "file", "--file", sink, "--format", "json",
	}})
	poll(ctx, t, "the nozzle to be a member", func() bool { return members(ctx, t, p.Dopplers[0], "main-job") == 1 })
	tailOut, err := os.Create(tailed)
	if err != nil {
		t.Fatal(err)
	}
	defer tailOut.Close()
	tail := launch(t, process.Lgr, process.Command{
		Args: []string{"logs", "my-app", "--addr", p.URL(0), "--since", "1h", "--json"}, Stdout: tailOut,
	})

	said := realProgram(ctx, t)
	reader, writer := io.Pipe()
	go func() {
		for _, line := range said {
			_, _ = io.WriteString(writer, line+"\n") // emit's code tells
		}
		_ = writer.Close()
	}()
	finish(ctx, t, launch(t, process.Lgr, process.Command{
		Args: []string{"emit", "--source", "my-app", "--addr", p.Dopplers[0].Addrs[pipeline.GRPC]}, Stdin: reader,
	}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%d lines in the file; the nozzle says:\n%s", lines(t, sink), nozzle.Log())
			t.Logf("%d lines in the tail, which says:\n%s", lines(t, tailed), tail.Log())
		}
	})
	for name, path := range map[string]string{"file sink": sink, "tail": tailed} {
		poll(ctx, t, "all lines in the "+name, func() bool { return lines(t, path) >= jobLines })
	}
	for _, program := range []*process.Process{nozzle, tail} {
		if _, err := program.Stop(ctx); err != nil {
			t.Error(err)
		}
	}
	for _, path := range []string{sink, tailed} {
		blackbox.SamePayloads(t, path, len(said), func(i int) string { return said[i] })
	}
}
