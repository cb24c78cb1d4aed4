// Realclient is the client libraries that exist for Loggregator, at the
// versions that people run, behind one command line: noaa, go-loggregator and
// go-log-cache. They register the same protobuf names as the services do, so
// they need a module and a process of their own; the tests in integration drive
// it.
//
// Senders send numbered envelopes of all kinds (see package mix). Readers know what has
// to become of each of them, by go-loggregator's own conversion, and compare
// every field.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// commands are the subcommands, by name.
var commands = map[string]func(ctx context.Context, args []string) error{
	"emit": emit, "send": send, "noaa": readNoaa, "reads": plainReads,
	"connector": readConnector, "gateway": readGateway, "logcache": readLogCache,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "realclient:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 || commands[args[0]] == nil {
		return errors.New("usage: realclient emit|send|noaa|reads|connector|gateway|logcache [flags]")
	}
	if err := commands[args[0]](ctx, args[1:]); err != nil {
		return fmt.Errorf("%s: %w", args[0], err)
	}
	return nil
}

// newFlags are the flags of a subcommand.
func newFlags(name string) *flag.FlagSet { return flag.NewFlagSet(name, flag.ContinueOnError) }

// say writes one line of JSON to standard output.
func say(v any) error {
	if err := json.NewEncoder(os.Stdout).Encode(v); err != nil {
		return fmt.Errorf("write to stdout: %w", err)
	}
	return nil
}

// list is a flag of comma-separated values.
type list []string

// String is the flag's value.
func (l *list) String() string { return strings.Join(*l, ",") }

// Set reads the flag's value.
func (l *list) Set(s string) error {
	*l = strings.Split(s, ",")
	return nil
}
