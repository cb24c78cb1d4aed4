package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/a1ea6966/loggregator/internal/tokens"
)

// tokenCommand makes a static token.
type tokenCommand struct {
	Name   string        `arg:"" help:"Whose it is, in views and in the security log."`
	Source []string      `short:"s" placeholder:"SOURCE" sep:"none" help:"Source that it may read, or several by how they begin: payments-*. May be given again."`
	All    bool          `help:"It may read every source, and the Firehose."`
	For    time.Duration `placeholder:"DURATION" help:"How long it is good for, as 720h; without, for ever."`
}

// Help says where both halves go.
func (*tokenCommand) Help() string {
	return `Writes a new token, which nobody can show again, to stderr, and its entry for the file of
the Traffic Controller's --static-tokens, which holds only a hash of it, to stdout:

    lgr token nozzle --all >>tokens.yml

The file begins with the line "tokens:". It is read again when it has changed.`
}

func (c *tokenCommand) check() error {
	var faults []error
	if c.All == (len(c.Source) > 0) {
		faults = append(faults, errors.New("either --source or --all is needed"))
	}
	if c.For < 0 || c.For > 0 && c.For < time.Second {
		faults = append(faults, fmt.Errorf("--for: has to be at least 1s, not %s", c.For))
	}
	if err := c.entry("").Check(); err != nil && len(faults) == 0 {
		faults = append(faults, err)
	}
	return errors.Join(faults...)
}

// entry is what the file has of a token.
func (c *tokenCommand) entry(token string) tokens.Entry {
	e := tokens.Entry{Name: c.Name, SHA256: tokens.Hash(token), Sources: c.Source}
	if c.All {
		e.Sources = []string{tokens.All}
	}
	if c.For > 0 {
		e.Expires = time.Now().Add(c.For).UTC().Truncate(time.Second)
	}
	return e
}

func (c *tokenCommand) run(_ context.Context, s Streams) error {
	token := tokens.New()
	text, err := yaml.Marshal([]tokens.Entry{c.entry(token)})
	if err != nil {
		return fmt.Errorf("write entry: %w", err)
	}
	if _, err := s.Out.Write(text); err != nil {
		return fmt.Errorf("write entry: %w", err)
	}
	_, err = fmt.Fprintln(s.Err, token)
	return err
}
