package ring

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// sealed returns an envelope that tells when it was torn: appender, number,
// check sum, filler.
func sealed(appender byte, number uint32, filler int) []byte {
	env := make([]byte, 9+filler)
	env[0] = appender
	binary.LittleEndian.PutUint32(env[1:], number)
	for i := range filler {
		env[9+i] = byte(number) + byte(i)
	}
	binary.LittleEndian.PutUint32(env[5:], seal(env))
	return env
}

func seal(env []byte) uint32 {
	sum := crc32.ChecksumIEEE(env[:5])
	return crc32.Update(sum, crc32.IEEETable, env[9:])
}

func unseal(env []byte) (appender byte, number uint32, err error) {
	if len(env) < 9 || binary.LittleEndian.Uint32(env[5:]) != seal(env) {
		return 0, 0, fmt.Errorf("envelope of %d bytes is torn", len(env))
	}
	return env[0], binary.LittleEndian.Uint32(env[1:]), nil
}

// race is the ring with appenders, and what its readers share.
type race struct {
	ring     *Ring
	evicted  []uint32 // next number per appender, seen by OnEvict
	finished atomic.Bool
}

const (
	racers       = 3
	racerSources = 5
)

func racerSource(appender byte, number uint32) string {
	return fmt.Sprintf("%d-%d", appender, number%racerSources)
}

func (x *race) append(t *testing.T, appender byte, count uint32) {
	rng := rand.New(rand.NewPCG(uint64(appender), 2))
	for number := uint32(0); number < count; {
		b := &batch{}
		for range min(1+rng.Uint32N(20), count-number) {
			filler := rng.IntN(100)
			if rng.IntN(500) == 0 {
				filler = 5000
			}
			class := envelope.Class(number % uint32(envelope.NumClasses))
			b.add(racerSource(appender, number), class, sealed(appender, number, filler))
			number++
		}
		first := b.to(x.ring)
		if head := x.ring.Head(); head < first+uint64(len(b.recs)) {
			t.Errorf("head is %d after %d envelopes from %d", head, len(b.recs), first)
		}
	}
}

// read follows the ring, as fast as it can or with pauses that make it lose,
// and accounts for every envelope by counters alone.
func (x *race) read(t *testing.T, pause bool) {
	next, missed := uint64(0), uint64(0)
	last := [racers]int64{-1, -1, -1}
	var got, gone uint64
	rng := rand.New(rand.NewPCG(1, 3))
	for {
		done := x.finished.Load()
		c, err := x.ring.Acquire(next)
		switch {
		case errors.Is(err, ErrHead) && done:
			if got+missed != x.ring.Head() {
				t.Errorf("read %d and missed %d of %d", got, missed, x.ring.Head())
			}
			return
		case errors.Is(err, ErrHead):
			continue
		case errors.Is(err, ErrEvicted):
			oldest, counts := x.ring.Evicted(Filter{Mask: envelope.AllClasses})
			if n := counts.Total(); oldest <= next || n != oldest || n < gone {
				t.Errorf("evicted %d below %d, asked for %d", n, oldest, next)
				return
			}
			missed += oldest - next
			next, gone = oldest, counts.Total()
			continue
		}
		if err := x.verify(c, &last); err != nil {
			t.Errorf("at %d: %v", next, err)
		}
		got += uint64(c.Len())
		next += uint64(c.Len())
		c.Release()
		if pause && rng.IntN(50) == 0 {
			for off := x.ring.Head(); x.ring.Oldest() < off && !x.finished.Load(); {
				_ = x.ring.Stats()
			}
		}
	}
}

// verify reads every byte of a chunk.
func (x *race) verify(c Chunk, last *[racers]int64) error {
	for i := range c.Len() {
		appender, number, err := unseal(c.Envelope(i))
		if err != nil {
			return err
		}
		if c.Class(i) != envelope.Class(number%uint32(envelope.NumClasses)) {
			return fmt.Errorf("envelope %d of %d has class %v", number, appender, c.Class(i))
		}
		if int64(number) <= last[appender] {
			return fmt.Errorf("envelope %d of %d after %d", number, appender, last[appender])
		}
		last[appender] = int64(number)
	}
	return nil
}

// ask makes the queries that walk chains and counters.
func (x *race) ask(t *testing.T) {
	rng := rand.New(rand.NewPCG(4, 4))
	s := x.ring.Ref(racerSource(1, 2))
	defer x.ring.Unref(s)
	for !x.finished.Load() {
		off := x.ring.Oldest() + rng.Uint64N(x.ring.Head()-x.ring.Oldest()+1)
		at, c := x.ring.CountsAt(s, off)
		below := uint64(0) // numbers grow by one, so the last one below off counts
		x.ring.Newest(s, envelope.AllClasses, off, func(_ uint64, _ envelope.Class, env []byte) bool {
			_, number, _ := unseal(env)
			below = uint64(number/racerSources) + 1
			return false
		})
		if n := c.Sum(envelope.AllClasses); at == off && below != 0 && n != below {
			t.Errorf("%d envelopes below %d, want %d", n, off, below)
		}
		above := ^uint32(0)
		x.ring.Newest(s, envelope.AllClasses, x.ring.Head(), func(_ uint64, _ envelope.Class, env []byte) bool {
			appender, number, err := unseal(env)
			if err != nil || appender != 1 || number >= above || number%racerSources != 2 {
				t.Errorf("newest: %d of %d below %d: %v", number, appender, above, err)
				return false
			}
			above = number
			return true
		})
		var gone Counts
		x.ring.EvictedOf([]*Source{s}, func(_ int, c *Counts) { gone = *c })
		if total := x.ring.Totals(s); gone.Sum(envelope.AllClasses) > total.Sum(envelope.AllClasses) {
			t.Errorf("evicted %v of %q, more than there were", gone, s.ID())
		}
		x.ring.EachSource(func(SourceStats) {})
		_ = x.ring.CapacityOffsets()
		x.ring.Unref(x.ring.Ref(fmt.Sprint("idle", rng.IntN(20))))
	}
}

func (x *race) onEvict(t *testing.T) func(Evicted) {
	return func(e Evicted) {
		appender, number, err := unseal(e.Env)
		if err != nil || number != x.evicted[appender] || e.Source != racerSource(appender, number) {
			t.Errorf("evicted %d of %d as %q, want number %d: %v", number, appender, e.Source, x.evicted[appender], err)
		}
		x.evicted[appender] = number + 1
	}
}

// Several appenders, fast and slow readers, queries and somebody who evicts
// ahead: nothing is torn, reordered or unaccounted for.
func TestConcurrentUse(t *testing.T) {
	x := &race{evicted: make([]uint32, racers)}
	r, err := New(Config{
		Bytes: 64 << 10, SegmentBytes: 4 << 10, MaxIdleSources: 4, OnEvict: x.onEvict(t), BeforeEvict: func(c Chunk) {
			if err := x.verify(c, &[racers]int64{-1, -1, -1}); err != nil {
				t.Errorf("about to go: %v", err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x.ring = r
	var readers, writers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() { x.read(t, i >= 2) })
	}
	readers.Go(func() { x.ask(t) })
	readers.Go(func() {
		for !x.finished.Load() {
			select {
			case <-r.Notify():
				r.EvictAhead()
			default:
			}
		}
	})
	const count = 40 * histories
	for i := range racers {
		writers.Go(func() { x.append(t, byte(i), count) })
	}
	writers.Wait()
	x.finished.Store(true)
	readers.Wait()
	if r.Head() != racers*count {
		t.Errorf("head is %d, want %d", r.Head(), racers*count)
	}
	if st := r.Stats(); r.zombies != 0 || st.UsedBytes > st.Budget {
		t.Errorf("in the end %+v with %d pinned", st, r.zombies)
	}
}
