package reader

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

var (
	groupSeed = flag.Uint64("group.seed", 0, "replay the random group history of this seed alone")
	linkSeed  = flag.Uint64("link.seed", 0, "replay the random link history of this seed alone")
	verbose   = flag.Bool("history", false, "print what happens in a replayed history")
)

// truth is an envelope as it was appended.
type truth struct {
	source string
	class  envelope.Class
	names  []string
	record []byte
}

// world is a ring, a clock, a source of chance, and everything that was ever
// appended. It is what a simulation of readers stands on.
type world struct {
	rng    *rand.Rand
	log    *ring.Ring
	all    []truth
	group  *Group // whose BeforeEvict is called
	now    time.Time
	recs   []envelope.Record
	made   int
	faults []string
	trace  bool
}

// newWorld makes a ring of a few tiny segments.
func newWorld(t testing.TB, seed uint64, change func(*ring.Config)) *world {
	t.Helper()
	w := &world{rng: rand.New(rand.NewPCG(seed, 99)), now: time.Unix(1_800_000_000, 0)}
	w.trace = *verbose && (seed == *groupSeed || seed == *linkSeed)
	size := 512 << w.rng.IntN(3)
	cfg := ring.Config{
		SegmentBytes: size,
		Bytes:        (3 + w.rng.Int64N(5)) * int64(size+16*max(size/128, 16)),
		BeforeEvict: func(c ring.Chunk) {
			if w.group != nil {
				w.group.BeforeEvict(c)
			}
		},
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if w.log, err = ring.New(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) close() { w.log.Close() }

// fault notes what must not be.
func (w *world) fault(format string, args ...any) {
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// does notes what happens, for a replay.
func (w *world) does(format string, args ...any) {
	if w.trace {
		fmt.Printf(format+"\n", args...)
	}
}

// chance is true once in n times.
func (w *world) chance(n int) bool { return w.rng.IntN(n) == 0 }

func (w *world) head() uint64   { return uint64(len(w.all)) }
func (w *world) oldest() uint64 { return w.log.Oldest() }

// append adds envelopes of the given kinds.
func (w *world) append(list ...truth) {
	var msg []byte
	for i := range list {
		msg = append(msg, list[i].record...)
	}
	recs, dropped := envelope.ScanBatch(msg, envelope.Limits{}, w.recs[:0])
	if len(recs) != len(list) {
		w.fault("the scan took %d of %d envelopes: %+v", len(recs), len(list), dropped)
		return
	}
	for i := range list {
		list[i].class = recs[i].Class
	}
	w.recs = recs
	w.all = append(w.all, list...)
	w.log.Append(msg, recs)
}

// appendSome adds a random batch.
func (w *world) appendSome(most int) {
	list := make([]truth, w.rng.IntN(most)+1)
	for i := range list {
		list[i] = w.make(w.source(), w.rng.IntN(kinds), w.size())
	}
	w.append(list...)
	w.does("append %d, head %d, oldest %d", len(list), w.head(), w.oldest())
}

func (w *world) source() string { return string(rune('a' + w.rng.IntN(5))) }

func (w *world) size() int {
	if w.chance(60) {
		return 500 + w.rng.IntN(2500)
	}
	return w.rng.IntN(60)
}

var simNames = []string{"x", "y", "z", "http"}

// kinds of envelopes that make can make.
const kinds = 9

const (
	fieldSource   = 2
	fieldLog      = 4
	fieldCounter  = 5
	fieldGauge    = 6
	fieldTimer    = 7
	fieldInstance = 8
	fieldTags     = 9
	fieldEvent    = 10
)

func bytesField(b []byte, field protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), v)
}

// make encodes an envelope that differs from every other in its instance id.
func (w *world) make(source string, kind, filler int) truth {
	t := truth{source: source}
	w.made++
	id := fmt.Sprintf("%d/", w.made)
	env := bytesField(nil, fieldSource, []byte(source))
	env = bytesField(env, fieldInstance, append([]byte(id), make([]byte, filler)...))
	name := simNames[w.rng.IntN(len(simNames))]
	named := bytesField(nil, 1, []byte(name))
	switch kind {
	case 0:
		env = bytesField(env, fieldLog, nil)
	case 1:
		env = bytesField(env, fieldLog, nil)
		env = bytesField(env, fieldTags, bytesField(bytesField(nil, 1, []byte("__v1_type")), 2, []byte("Error")))
	case 2, 3:
		t.names = []string{name, "w"}
		if kind == 3 {
			t.names = []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"}
		}
		var metrics []byte
		for _, n := range t.names {
			metrics = bytesField(metrics, 1, bytesField(bytesField(nil, 1, []byte(n)), 2, nil))
		}
		env = bytesField(env, fieldGauge, metrics)
	case 4, 5:
		t.names = []string{name}
		env = bytesField(env, fieldTimer, named)
	case 6:
		t.names = []string{name}
		env = bytesField(env, fieldCounter, named)
	case 7:
		env = bytesField(env, fieldEvent, nil)
	}
	t.record = envelope.AppendRecord(nil, env)
	return t
}

// matches applies a filter to an envelope, naively.
func (f Filter) matches(t *truth) bool {
	return slices.ContainsFunc(f, func(s envelope.Selector) bool {
		env, _, _ := envelope.Next(t.record)
		return s.Matches(t.class, t.source, env)
	})
}

// filter picks one, seldom of more than one selector.
func (w *world) filter() Filter {
	f := Filter{w.selector()}
	for w.chance(3) {
		f = append(f, w.selector())
	}
	return f
}

func (w *world) selector() envelope.Selector {
	if w.chance(4) {
		return envelope.Selector{Mask: envelope.AllClasses}
	}
	s := envelope.Selector{Mask: envelope.AllClasses}
	if w.chance(2) {
		s.Mask = envelope.ClassMask(w.rng.IntN(int(envelope.AllClasses)) + 1)
	}
	switch w.rng.IntN(6) {
	case 0:
		s.Sources = []string{w.source()}
	case 1:
		s.Sources = []string{w.source(), w.source(), "never"}
	}
	switch w.rng.IntN(5) {
	case 0:
		s.Names = []string{simNames[w.rng.IntN(4)]}
	case 1:
		s.Names = []string{simNames[w.rng.IntN(4)], "w", "cpu"}
	}
	s.Exact = w.chance(4)
	return s
}

// records joins what was appended at the offsets.
func (w *world) records(offs []uint64) (b []byte) {
	for _, off := range offs {
		b = append(b, w.all[off].record...)
	}
	return b
}

// unpack lists the offsets of a batch.
func (w *world) unpack(first uint64, count int, deltas []uint32) (offs []uint64) {
	if len(deltas) != 0 && len(deltas) != count-1 {
		w.fault("%d deltas for %d envelopes", len(deltas), count)
		return nil
	}
	off := first
	for i := range count {
		if i > 0 {
			d := uint64(1)
			if len(deltas) > 0 {
				d = uint64(deltas[i-1])
			}
			off += d
		}
		if off >= w.head() {
			w.fault("offset %d was never given", off)
			return nil
		}
		offs = append(offs, off)
	}
	return offs
}
