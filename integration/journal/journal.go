// Package journal is a nozzle for tests: it writes the number of every envelope
// into a file before it acks it, so that after any kind of death the file tells
// exactly what it took.
package journal

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/load"
)

// Argument makes the load tool a journal: loadtool Argument URL SUBSCRIPTION FILE.
const Argument = "write-journal"

// Entry is one envelope as it was taken.
type Entry struct {
	ID          load.ID
	Redelivered bool
}

const entrySize = 8 + 1

// Run reads a subscription into a file until ctx ends. It returns nil when
// everything written was acked.
func Run(ctx context.Context, url, subscription, path string) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	// After a kill in the middle of a write.
	if err := file.Truncate(int64(Size(path) * entrySize)); err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	s, err := nozzle.Open(context.WithoutCancel(ctx), nozzle.Config{
		Addr: url, Subscription: subscription, Types: []string{"log"},
		Notify: func(n nozzle.Notice) {
			if n.Kind == nozzle.Connected {
				fmt.Fprintln(os.Stderr, `{"msg":"listening","connected":"`+n.Server+`"}`)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	var entries []byte
	for {
		batch, err := s.Recv(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read subscription: %w", err)
		}
		if len(batch.Gaps) > 0 {
			return fmt.Errorf("a gap in the subscription: %v", batch.Gaps)
		}
		entries = entries[:0]
		for _, env := range batch.All() {
			packed, _, ok := load.Identify(env)
			if !ok {
				return errors.New("an envelope nobody here made")
			}
			entries = binary.LittleEndian.AppendUint64(entries, packed)
			entries = append(entries, mark(batch.Redelivered))
		}
		if _, err := file.Write(entries); err != nil {
			return fmt.Errorf("write journal: %w", err)
		}
		batch.Ack()
		batch.Release()
	}
}

func mark(redelivered bool) byte {
	if redelivered {
		return 1
	}
	return 0
}

// Read reads a journal. An entry that was only begun is left out: its batch
// was not acked.
func Read(path string) ([]Entry, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read journal: %w", err)
	}
	entries := make([]Entry, 0, len(b)/entrySize)
	for ; len(b) >= entrySize; b = b[entrySize:] {
		entries = append(entries, Entry{load.Unpack(binary.LittleEndian.Uint64(b)), b[8] != 0})
	}
	return entries, nil
}

// Size is how many entries a journal has, 0 when it does not exist.
func Size(path string) int {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return int(info.Size() / entrySize)
}
