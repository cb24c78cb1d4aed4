package auth

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/a1ea6966/loggregator/internal/tokens"
	"github.com/a1ea6966/loggregator/internal/watch"
)

// maxTokensFile bounds the file with static tokens.
const maxTokensFile = 4 << 20

// static is whose tokens are, by their hashes.
type static map[string]Identity

// watchStatic reads the file, and reads it again when it has changed.
func watchStatic(file string, log *slog.Logger) (*watch.Value[static], error) {
	return watch.New(log, func() (static, error) { return readStatic(file) }, file)
}

func readStatic(file string) (static, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTokensFile+1))
	if err != nil {
		return nil, fmt.Errorf("read tokens: %w", err)
	}
	if len(text) > maxTokensFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", file, maxTokensFile)
	}
	entries, err := tokens.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	all := static{}
	for _, e := range entries {
		if all[e.SHA256], err = staticIdentity(e); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return all, nil
}

func staticIdentity(e tokens.Entry) (Identity, error) {
	id := Identity{UserID: "static:" + e.Name, Grants: &Grants{}}
	if !e.Expires.IsZero() {
		id.Expires = e.Expires.Unix()
	}
	for _, source := range e.Sources {
		if err := id.Grants.grant(source); err != nil {
			return Identity{}, err
		}
	}
	return id, nil
}
