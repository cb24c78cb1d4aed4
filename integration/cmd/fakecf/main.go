// Fakecf is a small UAA and Cloud Controller for tests: see package
// integration/fakecf. When it listens it prints one line of JSON with all
// addresses and file names, and runs until it is told to end.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/a1ea6966/loggregator/integration/fakecf"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "fakecf:", err)
		}
		os.Exit(1)
	}
}

// run serves until ctx ends.
func run(ctx context.Context, args []string, out io.Writer) (err error) {
	var o fakecf.Options
	f := flag.NewFlagSet("fakecf", flag.ContinueOnError)
	f.StringVar(&o.Dir, "dir", "", "directory for certificates (default: a temporary one)")
	f.StringVar(&o.UAA, "uaa", "", "address of UAA (default: any port of 127.0.0.1, as for the others)")
	f.StringVar(&o.CC, "cc", "", "address of Cloud Controller's internal API, with mutual TLS")
	f.StringVar(&o.External, "external", "", "address of its public API, in plain")
	f.StringVar(&o.ExternalTLS, "external-tls", "", "address of the same with TLS")
	f.StringVar(&o.Control, "control", "", "address of the control endpoint")
	state := f.String("state", "", "JSON file with users, tokens, apps, service instances and answers")
	var tokens []string
	f.Func("token", "TOKEN=SCOPE,SCOPE: a user of that name and token with these scopes; may be given again", func(s string) error {
		if name, _, ok := strings.Cut(s, "="); !ok || name == "" {
			return errors.New("must be TOKEN=SCOPE,SCOPE")
		}
		tokens = append(tokens, s)
		return nil
	})
	if err := f.Parse(args); err != nil {
		return err
	}
	if *state != "" {
		data, err := os.ReadFile(*state)
		if err != nil {
			return fmt.Errorf("read state: %w", err)
		}
		if o.State, err = fakecf.ParseState(data); err != nil {
			return err
		}
	}
	for _, t := range tokens {
		name, scopes, _ := strings.Cut(t, "=")
		o.State.Users = append(o.State.Users, fakecf.User{Name: name, Scopes: strings.Split(scopes, ",")})
		o.State.Tokens = append(o.State.Tokens, fakecf.Token{Token: name, User: name})
	}
	if o.Dir == "" {
		if o.Dir, err = os.MkdirTemp("", "fakecf"); err != nil {
			return fmt.Errorf("make a directory: %w", err)
		}
		defer func() { err = errors.Join(err, os.RemoveAll(o.Dir)) }()
	}
	return serve(ctx, o, out)
}

func serve(ctx context.Context, o fakecf.Options, out io.Writer) error {
	fake, err := fakecf.Start(ctx, o)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(out).Encode(fake.Ready); err != nil {
		return errors.Join(fmt.Errorf("tell the addresses: %w", err), fake.Close())
	}
	<-ctx.Done()
	return fake.Close()
}
