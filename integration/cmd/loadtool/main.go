// Loadtool measures the whole pipeline. It builds and starts the real programs,
// loads them, and reports what came through and what it cost, as a table and as
// JSON.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/a1ea6966/loggregator/integration/bench"
	"github.com/a1ea6966/loggregator/integration/journal"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/process"
	"github.com/a1ea6966/loggregator/integration/worker"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if len(os.Args) == 2 && os.Args[1] == worker.Argument {
		os.Exit(code(worker.Serve(ctx, os.Stdin, os.Stdout)))
	}
	if len(os.Args) == 5 && os.Args[1] == journal.Argument {
		os.Exit(code(journal.Run(ctx, os.Args[2], os.Args[3], os.Args[4])))
	}
	os.Exit(code(run(ctx, os.Args[1:])))
}

var errUsage = errors.New("")

func code(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	fmt.Fprintln(os.Stderr, "loadtool:", err)
	return 1
}

type settings struct {
	bench.Options
	programs, json string
	verbose        bool
}

func (s *settings) flags() *flag.FlagSet {
	f := flag.NewFlagSet("loadtool", flag.ContinueOnError)
	shape := func(v string) error {
		s.Plan.Shape = load.Shape(v)
		if s.Plan.Shape != load.Reference && s.Plan.Shape != load.Random {
			return errors.New("must be reference or random")
		}
		return nil
	}
	s.Plan.Shape = load.Reference
	f.Func("shape", "envelopes: reference (500 bytes, 8 tags) or random (30 bytes to 60 KB)", shape)
	f.IntVar(&s.Plan.Sources, "sources", 1000, "number of sources")
	f.IntVar(&s.Plan.Batch, "batch", 100, "envelopes per message; 0 sends single ones")
	f.IntVar(&s.Senders, "senders", 4, "connections to each Doppler")
	f.IntVar(&s.Dopplers, "dopplers", 1, "Dopplers to start")
	f.IntVar(&s.Controllers, "controllers", 1, "Traffic Controllers to start; 0 reads the Doppler directly")
	f.IntVar(&s.Firehoses, "firehoses", 1, "Firehose readers, each of everything")
	f.BoolVar(&s.Old, "old", false, "Firehose readers of the old framing: they count messages, so that loss is seen as a whole only")
	f.IntVar(&s.Tails, "tails", 0, "tails, of the sources in turn")
	f.Float64Var(&s.Rate, "rate", 50_000, "envelopes per second, where the mode does not choose")
	f.DurationVar(&s.For, "for", 10*time.Second, "how long to measure")
	f.StringVar(&s.RingBytes, "ring-bytes", "1GiB", "each Doppler's ring")
	f.BoolVar(&s.TLS, "tls", false, "TLS everywhere")
	f.StringVar(&s.Profiles, "profiles", "", "directory for CPU profiles (steady, max)")
	f.StringVar(&s.programs, "programs", "", "directory of built programs (default: build them)")
	f.StringVar(&s.json, "json", "", "file to write the report to as JSON")
	f.BoolVar(&s.verbose, "v", false, "show the services' logs")
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "Usage: loadtool [flags] MODE\n\nModes:\n")
		names := make([]string, 0, len(bench.Modes))
		for name := range bench.Modes {
			names = append(names, name)
		}
		slices.Sort(names)
		for _, name := range names {
			fmt.Fprintf(f.Output(), "  %-10s %s\n", name, bench.Modes[name].About)
		}
		fmt.Fprintf(f.Output(), "\nFlags:\n")
		f.PrintDefaults()
	}
	return f
}

func run(ctx context.Context, args []string) (err error) {
	var s settings
	f := s.flags()
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return errUsage
	}
	mode, ok := bench.Modes[strings.Join(f.Args(), " ")]
	if !ok {
		f.Usage()
		return errUsage
	}
	dir, err := os.MkdirTemp("", "loadtool")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := s.prepare(ctx, dir); err != nil {
		return err
	}
	machine, err := bench.ThisMachine(ctx, s.TLS)
	if err != nil {
		return err
	}
	results, err := mode.Run(ctx, s.Options)
	report := bench.Report{Time: time.Now().UTC(), Machine: machine, Results: results}
	return errors.Join(err, report.WriteTable(os.Stdout), s.write(report))
}

// prepare builds programs and makes certificates, in dir.
func (s *settings) prepare(ctx context.Context, dir string) error {
	s.Progress = os.Stderr
	if s.verbose {
		s.Log = os.Stderr
	}
	s.Binaries = process.Prebuilt(s.programs)
	if s.programs == "" {
		fmt.Fprintln(os.Stderr, "building the programs")
		var err error
		s.Binaries, err = process.Build(ctx, dir, false,
			process.Doppler, process.TrafficController, process.Lgr, process.LoadTool)
		if err != nil {
			return err
		}
	}
	s.Certs = dir + "/certs"
	certs, err := process.Start(process.Command{Path: s.Binaries.Path(process.Lgr), Args: []string{"certs", s.Certs}})
	if err != nil {
		return err
	}
	if status, err := certs.Wait(ctx); err != nil || status != 0 {
		return fmt.Errorf("make certificates: %w: code %d: %s", err, status, certs.Log())
	}
	return nil
}

func (s *settings) write(report bench.Report) error {
	if s.json == "" {
		return nil
	}
	text, err := json.MarshalIndent(report, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(s.json, append(text, '\n'), 0o644)
}
