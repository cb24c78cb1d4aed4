// Package daemon is how our services live: one way to configure, start, watch
// and stop them, so that each main only wires.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// Exit codes of Main.
const (
	ExitOK     = 0
	ExitFailed = 1 // the service ended with an error
	ExitUsage  = 2 // the configuration has faults
)

// Settings is a service's configuration. Its fields hold the defaults before
// Flags is called.
type Settings interface {
	// Flags declares every setting.
	Flags(*Flags)
	// Validate returns all faults of the settings, joined as errors.Join
	// does, each naming the flag and the limit (see Faults), or nil.
	Validate() error
}

// Main configures and runs one service and returns the exit code of the
// process.
//
// A setting is taken from the command line, else from the environment
// (NAME_FLAG_NAME), else from that of an old job (see Flags.Inherit), else from
// the YAML file that --config names, else it keeps its default. All faults are written to standard error, one line each, before
// anything runs. --help and --version write to standard output and end.
//
// run must block until ctx ends, then clean up and return nil. ctx ends with
// the first SIGTERM or SIGINT; the second one ends the process at once. The
// logger writes JSON lines to standard error and is slog's default too.
func Main[C Settings](name, summary string, config C, run func(ctx context.Context, config C, log *slog.Logger) error) int {
	p := program{
		name: name, summary: summary, settings: config,
		args: os.Args[1:], lookup: os.LookupEnv, environ: os.Environ, stdout: os.Stdout, stderr: os.Stderr,
	}
	return p.main(context.Background(), func(ctx context.Context, log *slog.Logger) error {
		return run(ctx, config, log)
	})
}

// program is Main with its surroundings as fields.
type program struct {
	name, summary  string
	settings       Settings
	args           []string
	lookup         func(string) (string, bool)
	environ        func() []string
	stdout, stderr io.Writer
}

// common holds the flags every service has.
type common struct {
	config        string
	level         slog.Level
	help, version bool
}

func (c *common) declare(f *Flags) {
	f.Group("General")
	f.String(&c.config, "config", "YAML `file` with flag names as keys; flags and environment win over it")
	f.Var(&value[slog.Level]{&c.level, "level", parseLevel, formatLevel}, "log-level", "least level to log: debug, info, warn or error")
	f.Bool(&c.help, "help", "print this help and exit")
	f.Bool(&c.version, "version", "print the version and exit")
}

func (p program) main(ctx context.Context, run func(context.Context, *slog.Logger) error) int {
	var own common
	flags := newFlags(p.name)
	p.settings.Flags(flags)
	own.declare(flags)
	faults := flags.load(sources{args: p.args, prefix: p.name, lookup: p.lookup})
	switch {
	case own.help:
		p.printHelp(flags)
		return ExitOK
	case own.version:
		fmt.Fprintf(p.stdout, "%s %s\n", p.name, Version())
		return ExitOK
	}
	if faults = append(faults, p.settings.Validate()); errors.Join(faults...) != nil {
		p.printFaults(errors.Join(faults...))
		return ExitUsage
	}
	log := slog.New(slog.NewJSONHandler(p.stderr, &slog.HandlerOptions{Level: own.level})).With("service", p.name)
	slog.SetDefault(log)
	flags.reportInherited(p.environ(), log)
	ctx, stop := signals(ctx)
	defer stop()
	if err := run(ctx, log); err != nil && !errors.Is(err, context.Canceled) {
		log.Error("failed", "error", err)
		return ExitFailed
	}
	if cause := context.Cause(ctx); cause != nil {
		log = log.With("cause", cause.Error())
	}
	log.Info("stopped")
	return ExitOK
}

func (p program) printFaults(err error) {
	all := lines(err)
	word := "faults"
	if len(all) == 1 {
		word = "fault"
	}
	fmt.Fprintf(p.stderr, "%s: %d %s in the configuration:\n", p.name, len(all), word)
	for _, line := range all {
		fmt.Fprintf(p.stderr, "  %s\n", strings.ReplaceAll(line, "\n", " "))
	}
	fmt.Fprintf(p.stderr, "%s --help lists all flags\n", p.name)
}

// signals returns a context that ends with the first SIGTERM or SIGINT. From
// then on signals have their default effect again, so a second one kills.
func signals(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

func parseLevel(s string) (slog.Level, error) {
	for _, level := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError} {
		if formatLevel(level) == s {
			return level, nil
		}
	}
	return 0, fmt.Errorf("%q is not one of debug, info, warn, error", s)
}

func formatLevel(level slog.Level) string { return strings.ToLower(level.String()) }

// Version is what this program was built from: the module's version and the
// commit, as far as the build recorded them.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			version += " " + s.Value
		}
	}
	return version + " " + info.GoVersion
}
