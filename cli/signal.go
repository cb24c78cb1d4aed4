package cli

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
)

// signalError is why a context ended.
type signalError struct{ signal syscall.Signal }

func (e signalError) Error() string { return e.signal.String() }

// Interrupts returns a context that ends with the first SIGINT or SIGTERM; the
// second has its usual effect. Writing to a pipe nobody reads becomes an error
// instead of the end. stop must be called.
func Interrupts(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case got := <-signals:
			signal.Stop(signals)
			number, _ := got.(syscall.Signal)
			cancel(signalError{number})
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel(nil)
		<-done
		signal.Stop(signals)
	}
}

func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "lgr (built without module support)"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	return "lgr " + v + " " + info.GoVersion
}
