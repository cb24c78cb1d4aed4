package process

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Command is what to run.
type Command struct {
	Path string
	Args []string
	// Env is added to the environment of this process.
	Env []string
	// Stdin and Stdout may be nil.
	Stdin  io.Reader
	Stdout io.Writer
	// Stderr gets a copy of every line of the log, if not nil.
	Stderr io.Writer
	// Start starts the program in a place of its own; nil is here.
	Start func(*exec.Cmd) error
}

// Process is one running program. Its methods may be called concurrently.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended and its log is read

	mu        sync.Mutex
	log       []byte            // the newest part of standard error
	listening map[string]string // nil until the process has said so
	bound     chan struct{}     // closed when listening is set
}

const keptLog = 1 << 20

// Start starts a program. On Linux it dies with this process. The caller must
// see it end, by Stop, Kill or Wait.
func Start(c Command) (*Process, error) {
	cmd := exec.CommandContext(context.Background(), c.Path, c.Args...) // signals end it
	cmd.Env = append(os.Environ(), c.Env...)
	cmd.Stdin, cmd.Stdout = c.Stdin, c.Stdout
	cmd.SysProcAttr = dieWithParent()
	cmd.WaitDelay = time.Second // a reader of stdin that never ends
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	start := (*exec.Cmd).Start
	if c.Start != nil {
		start = c.Start
	}
	if err := start(cmd); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.Path, err)
	}
	p := &Process{cmd: cmd, done: make(chan struct{}), bound: make(chan struct{})}
	go func() {
		defer close(p.done)
		p.read(stderr, c.Stderr)
		_ = cmd.Wait() // ExitCode tells
	}()
	return p, nil
}

// read keeps the log and looks for the addresses in it.
func (p *Process) read(stderr io.Reader, echo io.Writer) {
	lines := bufio.NewReader(stderr)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if echo != nil {
				_, _ = echo.Write(line)
			}
			p.note(line)
		}
		if err != nil {
			return
		}
	}
}

func (p *Process) note(line []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log = append(p.log, line...); len(p.log) > 2*keptLog {
		p.log = append(p.log[:0], p.log[len(p.log)-keptLog:]...)
	}
	if p.listening != nil || !bytes.Contains(line, []byte(`"listening"`)) {
		return
	}
	var said map[string]any
	if json.Unmarshal(line, &said) != nil || said["msg"] != "listening" {
		return
	}
	p.listening = make(map[string]string)
	for key, value := range said {
		if text, ok := value.(string); ok {
			p.listening[key] = text
		}
	}
	close(p.bound)
}

// Listening blocks until the process has logged the addresses it listens on,
// and returns them by name.
func (p *Process) Listening(ctx context.Context) (map[string]string, error) {
	select {
	case <-p.bound:
	case <-p.done:
		select {
		case <-p.bound: // said it and ended
		default:
			return nil, fmt.Errorf("%s ended with code %d before it listened:\n%s", p.Name(), p.code(), p.Log())
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for %s to listen: %w:\n%s", p.Name(), context.Cause(ctx), p.Log())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.listening, nil
}

// Name of the program.
func (p *Process) Name() string { return p.cmd.Path[strings.LastIndexByte(p.cmd.Path, '/')+1:] }

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the newest part of what it wrote to standard error.
func (p *Process) Log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return string(p.log)
}

// Signal sends a signal. A process that has ended is no error.
func (p *Process) Signal(s syscall.Signal) error {
	err := p.cmd.Process.Signal(s)
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name(), err)
	}
	return nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait blocks until the process has ended and returns its exit code: -1 when
// a signal ended it.
func (p *Process) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.code(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for %s to end: %w", p.Name(), context.Cause(ctx))
	}
}

// Stop sends SIGTERM and waits. When ctx ends first it kills the process and
// says so.
func (p *Process) Stop(ctx context.Context) (int, error) {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return 0, err
	}
	code, err := p.Wait(ctx)
	if err != nil {
		p.Kill()
	}
	return code, err
}

// Kill ends the process with SIGKILL and waits until it is gone.
func (p *Process) Kill() {
	_ = p.Signal(syscall.SIGKILL) // it ends by itself otherwise
	<-p.done
}

// code may be called when done is closed.
func (p *Process) code() int { return p.cmd.ProcessState.ExitCode() }

// Usage is what a process took of the machine.
type Usage struct {
	// CPU time since its start, user and system.
	CPU time.Duration
	// Bytes of memory resident now, and at most since ResetPeak.
	Resident, Peak int64
}

// Sub is the CPU time since an earlier reading, with the memory of this one.
func (u Usage) Sub(earlier Usage) Usage {
	u.CPU -= earlier.CPU
	return u
}
