// Package worker runs senders and readers in processes of their own, so that
// what the load costs can be told from what the services cost. A worker is the
// load tool itself, started once more; it is asked over its standard input and
// answers over its standard output, a line of JSON each.
package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/a1ea6966/loggregator/integration/process"
)

// Argument makes the load tool a worker.
const Argument = "work-for-parent"

type request struct {
	Method string
	Params json.RawMessage
}

type response struct {
	Error  string
	Result json.RawMessage
}

// Worker is a running worker process. Calls are answered one after another.
type Worker struct {
	*process.Process
	mu  sync.Mutex // held during a call
	in  *os.File
	out *bufio.Reader
}

// Start starts the load tool at path as a worker. It ends with Stop.
func Start(path string) (*Worker, error) {
	stdin, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	out, stdout, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start worker: %w", err), stdin.Close(), in.Close())
	}
	p, err := process.Start(process.Command{
		Path: path, Args: []string{Argument}, Stdin: stdin, Stdout: stdout, Stderr: os.Stderr,
	})
	err = errors.Join(err, stdin.Close(), stdout.Close()) // the process has its own
	if err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	return &Worker{Process: p, in: in, out: bufio.NewReaderSize(out, 1<<20)}, nil
}

// Call asks the worker and blocks until it has answered; into gets the
// result and may be nil. When ctx ends first, the worker is killed.
func (w *Worker) Call(ctx context.Context, method string, params, into any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	stop := context.AfterFunc(ctx, w.Kill)
	defer stop()
	if err := w.call(method, params, into); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("worker: %s: %w", method, err)
	}
	return nil
}

func (w *Worker) call(method string, params, into any) error {
	encoded, err := json.Marshal(params)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w.in).Encode(request{method, encoded}); err != nil {
		return err
	}
	line, err := w.out.ReadBytes('\n')
	if err != nil {
		return err
	}
	var answer response
	if err := json.Unmarshal(line, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return errors.New(answer.Error)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer.Result, into)
}

// Stop ends the worker by closing its input, and waits for it.
func (w *Worker) Stop(ctx context.Context) error {
	_ = w.in.Close() // it may be gone already
	code, err := w.Wait(ctx)
	if err != nil {
		w.Kill()
		return err
	}
	if code > 0 {
		return fmt.Errorf("worker ended with code %d", code)
	}
	return nil
}

// Serve is the worker's side: it answers until its input ends.
func Serve(ctx context.Context, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &work{ctx: ctx, readers: make(map[string][]*reading)}
	defer w.wait()
	defer cancel()
	requests, answers := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var r request
		if err := requests.Decode(&r); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if err := answers.Encode(w.answer(r)); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
}

func (w *work) answer(r request) response {
	result, err := w.handle(r)
	if err != nil {
		return response{Error: err.Error()}
	}
	encoded, err := json.Marshal(result)
	if err != nil {
		return response{Error: err.Error()}
	}
	return response{Result: encoded}
}
