package emit

import (
	"context"
	"errors"
	"hash/fnv"
	"sync"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// Fleet sends to several Dopplers. All envelopes of a source go to the same
// one, so their order is kept. Its methods may be called concurrently.
type Fleet struct {
	senders []*Sender
}

// DialAll connects to every address; the rest of cfg is for each of them. It
// fails when one cannot be reached, and says so for each that cannot.
func DialAll(ctx context.Context, addrs []string, cfg Config) (*Fleet, error) {
	f := &Fleet{}
	var faults []error
	for _, addr := range addrs {
		c := cfg
		c.Addr = addr
		s, err := Dial(ctx, c)
		if err != nil {
			faults = append(faults, err)
			continue
		}
		f.senders = append(f.senders, s)
	}
	if len(faults) > 0 {
		return nil, errors.Join(errors.Join(faults...), f.Close())
	}
	return f, nil
}

// Send is that of the Sender the envelope's source belongs to.
func (f *Fleet) Send(e *loggregatorv2.Envelope) error {
	if len(f.senders) == 1 {
		return f.senders[0].Send(e)
	}
	h := fnv.New32a()
	h.Write([]byte(e.GetSourceId()))
	return f.senders[h.Sum32()%uint32(len(f.senders))].Send(e)
}

// Close closes all Senders at once and waits for them; nil means that every
// envelope was accepted.
func (f *Fleet) Close() error {
	faults := make([]error, len(f.senders))
	var wg sync.WaitGroup
	for i, s := range f.senders {
		wg.Go(func() { faults[i] = s.Close() })
	}
	wg.Wait()
	return errors.Join(faults...)
}

// Stats is the sum over all Dopplers.
func (f *Fleet) Stats() Stats {
	var sum Stats
	for _, s := range f.senders {
		one := s.Stats()
		sum.Taken += one.Taken
		sum.Confirmed += one.Confirmed
		sum.Resent += one.Resent
		sum.Bytes += one.Bytes
	}
	return sum
}
