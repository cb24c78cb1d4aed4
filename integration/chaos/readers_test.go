//go:build linux

package chaos

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/load"
)

// run runs a reader until the test ends.
func run(t *testing.T, read func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := read(ctx); err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		ended.Wait()
	})
}

// runSDK reads with the SDK, which comes back by itself.
func runSDK(t *testing.T, r *reader, open func(context.Context, nozzle.Config) (*nozzle.Stream, error), conf nozzle.Config) {
	t.Helper()
	conf.Notify = func(n nozzle.Notice) {
		if n.Kind == nozzle.Disconnected {
			r.cuts.Add(1)
		}
	}
	run(t, func(ctx context.Context) error {
		s, err := open(context.WithoutCancel(ctx), conf)
		if err != nil {
			return err
		}
		for {
			batch, err := s.Recv(ctx)
			if err != nil {
				return errors.Join(err, s.Close())
			}
			ids := make([]load.ID, 0, batch.Len())
			for _, env := range batch.All() {
				packed, _, ok := load.Identify(env)
				if !ok {
					return errors.Join(errors.New("an envelope nobody here made"), s.Close())
				}
				ids = append(ids, load.Unpack(packed))
			}
			r.took(ids, batch.Redelivered)
			r.tell(batch.Gaps)
			batch.Ack()
			batch.Release()
		}
	})
}

// oldSilence is after how long without a message an old client dials again.
const oldSilence = 8 * time.Second

// runOld reads in the old framing, and comes back as clients of it do: without
// a word of where they were.
func runOld(t *testing.T, r *reader, url string) {
	t.Helper()
	run(t, func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := readOld(ctx, r, url); err != nil && !errors.Is(err, context.Canceled) {
				r.cuts.Add(1)
			}
			select {
			case <-time.After(200 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return nil
	})
}

func readOld(ctx context.Context, r *reader, url string) error {
	dialing, cancel := context.WithTimeout(ctx, oldSilence)
	defer cancel()
	conn, err := stream.Dial(dialing, url, stream.DialOptions{})
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	for {
		waiting, cancel := context.WithTimeout(ctx, oldSilence)
		message, err := conn.Read(waiting)
		cancel()
		if err != nil {
			return err
		}
		err = r.tookOld(message.Bytes())
		message.Release()
		if err != nil {
			return err
		}
	}
}

var number = regexp.MustCompile(`seq=(\d{20})`)

// tookOld takes one envelope of the old protocol into account: a line that was
// sent, or the counter that tells a gap.
func (r *reader) tookOld(message []byte) error {
	var e events.Envelope
	if err := proto.Unmarshal(message, &e); err != nil {
		return err
	}
	if id, ok := identify(e.GetLogMessage().GetMessage()); ok {
		r.took([]load.ID{id}, false)
		return nil
	}
	gap := &streampb.Gap{Count: e.GetCounterEvent().GetDelta(), Precision: streampb.Gap_UNKNOWN}
	if e.GetCounterEvent().GetName() == "TruncatingBuffer.DroppedMessages" {
		gap.Precision = streampb.Gap_EXACT
	}
	r.tell([]*streampb.Gap{gap}) // a line of the pipeline's own is a vague gap
	return nil
}

// identify finds the number of a line that was sent.
func identify(line []byte) (load.ID, bool) {
	found := number.FindSubmatch(line)
	if found == nil {
		return load.ID{}, false
	}
	packed, err := strconv.ParseUint(string(found[1]), 10, 64)
	return load.Unpack(packed), err == nil
}

// runFile follows the file that a nozzle writes.
func runFile(t *testing.T, r *reader, path string) {
	t.Helper()
	run(t, func(ctx context.Context) error {
		file, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
		if err != nil {
			return err
		}
		defer file.Close()
		lines := bufio.NewReader(file)
		var line []byte
		for ctx.Err() == nil {
			part, err := lines.ReadBytes('\n')
			line = append(line, part...)
			if err == nil {
				r.tookLine(line)
				line = line[:0]
				continue
			}
			if !errors.Is(err, io.EOF) {
				return err
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		return nil
	})
}

var exactGap = regexp.MustCompile(`"gap":\{"precision":"exact","count":(\d+)`)

func (r *reader) tookLine(line []byte) {
	if id, ok := identify(line); ok {
		r.took([]load.ID{id}, bytes.Contains(line, []byte(`"redelivered":true`)))
		return
	}
	gap := &streampb.Gap{Precision: streampb.Gap_UNKNOWN}
	if found := exactGap.FindSubmatch(line); found != nil {
		gap.Precision = streampb.Gap_EXACT
		gap.Count, _ = strconv.ParseUint(string(found[1]), 10, 64)
	}
	r.tell([]*streampb.Gap{gap})
}
