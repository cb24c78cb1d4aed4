// Package cli is the lgr command: it runs the pipeline on a laptop, sends
// envelopes into one and shows what comes out.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"
)

// What lgr exits with. An interrupted command ends with 128 plus the signal,
// as the shell would say of a program that the signal had killed.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
	exitSignal  = 128
)

// Streams are what the command reads and writes: on stdout is the answer to
// what was asked and nothing else, everything about it is on stderr.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// grammar is what may be typed.
type grammar struct {
	Up       upCommand       `cmd:"" help:"Run the whole pipeline on this machine, with demo apps if wanted."`
	Logs     logsCommand     `cmd:"" help:"Show the logs of sources, as cf logs does."`
	Firehose firehoseCommand `cmd:"" help:"Show everything that flows."`
	Emit     emitCommand     `cmd:"" help:"Send lines of stdin, or made-up envelopes, to Dopplers."`
	Top      topCommand      `cmd:"" help:"Show live rates of sources, and subscriptions with lag and drops."`
	Canary   canaryCommand   `cmd:"" help:"Probe a platform for ever: is anything lost, twice, changed or late?"`
	Certs    certsCommand    `cmd:"" help:"Make a working set of certificates."`
	Token    tokenCommand    `cmd:"" help:"Make a static token for a platform without UAA."`
	Version  versionCommand  `cmd:"" help:"Print the version."`
}

// command is what every command of the grammar can do.
type command interface {
	// check returns all faults of the values given, joined.
	check() error
	// run does the work until it is done or ctx ends.
	run(ctx context.Context, s Streams) error
}

const description = `Look at, feed and run a Loggregator pipeline.

    lgr up --demo --tail                all of it on this machine, with apps that log
    some-program | lgr emit -s my-app   send lines
    lgr logs my-app                     see them, as cf logs shows them
    lgr firehose                        see everything
    lgr top                             who sends, who reads, who is behind
    lgr canary                          is anything lost, twice, changed or late`

// Run does what args (without the program's name) say, until it is done or ctx
// ends, and returns what to exit with. It may be called concurrently, but kong
// and colours read the environment.
func Run(ctx context.Context, args []string, s Streams) int {
	cmd, code := parse(args, s)
	if cmd == nil {
		return code
	}
	err := cmd.run(ctx, s)
	var end signalError
	switch {
	case err == nil || errors.Is(err, syscall.EPIPE):
		// Who reads our output has seen enough.
		return exitOK
	case errors.Is(err, errInterrupted) && errors.As(context.Cause(ctx), &end):
		return exitSignal + int(end.signal)
	}
	tell(s, err)
	return exitFailure
}

// errInterrupted says that ctx ended before the work was done.
var errInterrupted = errors.New("interrupted")

// parse returns the command to run, or nil and what to exit with.
func parse(args []string, s Streams) (command, int) {
	var g grammar
	v := &values{}
	helped := false
	parser, err := kong.New(&g,
		kong.Name("lgr"),
		kong.Description(description),
		kong.Writers(s.Out, s.Err),
		kong.Exit(func(int) { helped = true }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.WithHyphenPrefixedParameters(true),
		kong.ExplicitGroups([]kong.Group{
			{Key: "load", Title: "Made-up envelopes:"},
			{Key: "tls", Title: "TLS:"},
		}),
		v.mappers(),
	)
	if err != nil {
		tell(s, fmt.Errorf("the commands are not well formed: %w", err))
		return nil, exitFailure
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	cmd, err := v.read(parser, args)
	if helped {
		return nil, exitOK
	}
	if err != nil {
		tell(s, err)
		fmt.Fprintln(s.Err, "lgr --help, or lgr COMMAND --help, says what there is.")
		return nil, exitUsage
	}
	return cmd, exitOK
}

// read returns the command of args, or all faults that are to be found in
// them: kong stops at the first flag it does not know, so that is taken out
// and the rest read again. It also takes no source after a flag, so that one
// is moved to the front.
func (v *values) read(parser *kong.Kong, args []string) (command, error) {
	var faults []error
	for moved := 0; ; {
		v.faults = nil
		parsed, err := parser.Parse(args)
		if err == nil && len(v.faults) == 0 {
			cmd, ok := parsed.Selected().Target.Addr().Interface().(command)
			if !ok {
				return nil, fmt.Errorf("%s is no command", parsed.Command())
			}
			return cmd, errors.Join(append(faults, cmd.check())...)
		}
		if rest, found := withSourceInFront(args, err); found && moved < len(args) {
			args = rest
			moved++
			continue
		}
		rest, found := withoutUnknown(args, err)
		if !found {
			return nil, errors.Join(append(append(faults, v.faults...), err)...)
		}
		faults, args = append(faults, err), rest
	}
}

// withoutUnknown takes the flag that err complains about out of args.
func withoutUnknown(args []string, err error) (rest []string, found bool) {
	if err == nil {
		return nil, false
	}
	said, ok := strings.CutPrefix(err.Error(), "unknown flag ")
	if !ok {
		return nil, false
	}
	flag, _, _ := strings.Cut(said, ",")
	i := slices.IndexFunc(args, func(arg string) bool { return arg == flag || strings.HasPrefix(arg, flag+"=") })
	if i < 0 {
		return nil, false
	}
	return slices.Delete(slices.Clone(args), i, i+1), true
}

// withSourceInFront moves the source that err complains about to the front.
func withSourceInFront(args []string, err error) (rest []string, found bool) {
	if err == nil || args[0] != "logs" {
		return nil, false
	}
	source, ok := strings.CutPrefix(err.Error(), "unexpected argument ")
	i := len(args) - 1
	for i > 0 && args[i] != source {
		i--
	}
	if !ok || i == 0 {
		return nil, false
	}
	return slices.Insert(slices.Delete(slices.Clone(args), i, i+1), 1, source), true
}

// tell writes an error for people, each fault on a line of its own.
func tell(s Streams, err error) {
	for _, fault := range split(err) {
		fmt.Fprintf(s.Err, "lgr: %v\n", fault)
	}
}

func split(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var out []error
	for _, e := range joined.Unwrap() {
		out = append(out, split(e)...)
	}
	return out
}

// versionCommand prints what was built.
type versionCommand struct{}

func (*versionCommand) check() error { return nil }

func (*versionCommand) run(_ context.Context, s Streams) error {
	_, err := fmt.Fprintln(s.Out, version())
	return err
}
