package ring

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestNewRefusesWhatCannotWork(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  Config
		want string // in the error; none expected when empty
	}{
		"default":            {Config{}, ""},
		"smallest":           {Config{Bytes: MinBytes}, ""},
		"too small":          {Config{Bytes: MinBytes - 1}, "at least 1048576"},
		"three segments":     {Config{Bytes: 3 * (1024 + 16*recordBytes), SegmentBytes: 1024}, ""},
		"not three segments": {Config{Bytes: 3*(1024+16*recordBytes) - 1, SegmentBytes: 1024}, "3 segments"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := New(tc.cfg)
			if err == nil {
				r.Close()
			}
			switch {
			case tc.want == "" && err != nil:
				t.Errorf("New: %v", err)
			case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)):
				t.Errorf("New: %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestEmptyRing(t *testing.T) {
	r := small(t, nil)
	if r.Head() != 0 || r.Oldest() != 0 {
		t.Errorf("head %d, oldest %d of an empty ring", r.Head(), r.Oldest())
	}
	if off := r.Append(nil, nil); off != 0 || r.Head() != 0 {
		t.Errorf("appending nothing gave %d, head %d", off, r.Head())
	}
	select {
	case <-r.Notify():
		t.Error("appending nothing notified")
	default:
	}
	if _, err := r.Acquire(0); !errors.Is(err, ErrHead) {
		t.Errorf("acquire 0 of an empty ring: %v", err)
	}
	r.EvictAhead()
	if st := r.Stats(); st.Segments != 0 || st.HeldBytes != 0 || st.UsedBytes != 0 {
		t.Errorf("stats of an empty ring: %+v", st)
	}
}

func TestAppendGivesOffsetsAndNotifies(t *testing.T) {
	r := small(t, nil)
	for i, want := range []uint64{0, 3, 6} {
		if off := logs(r, 10, "a", "b", "c"); off != want {
			t.Errorf("append %d got offset %d, want %d", i, off, want)
		}
		select {
		case <-r.Notify():
		default:
			t.Errorf("append %d did not notify", i)
		}
	}
	if r.Head() != 9 {
		t.Errorf("head %d, want 9", r.Head())
	}
}

func TestRecordsAreCanonical(t *testing.T) {
	r, err := New(Config{Bytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for i, n := range []int{0, 1, 127, 128, 16383, 16384, 1<<21 - 1, 1 << 21} {
		env := sized(n, byte(i))
		off := (&batch{strange: i % 2}).add("s", envelope.Event, env).to(r)
		c, err := r.Acquire(off)
		if err != nil {
			t.Fatal(err)
		}
		if want := envelope.AppendRecord(nil, env); !bytes.Equal(c.Bytes(0, 1), want) || c.Size(0, 1) != len(want) {
			t.Errorf("record of %d bytes is not canonical: %d bytes, want %d", n, c.Size(0, 1), len(want))
		}
		if !bytes.Equal(c.Envelope(0), env) {
			t.Errorf("envelope of %d bytes came back different", n)
		}
		c.Release()
	}
}

func TestChunksEndWithTheirSegment(t *testing.T) {
	for name, tc := range map[string]struct {
		size int
		want uint64 // envelopes in the first segment
	}{
		"index full":      {1, 16},
		"data full":       {100, 2}, // 106 bytes each are reserved
		"data full, even": {122, 2}, // exactly 2 * (122 + 6)
		"one more byte":   {123, 2}, // the second record is smaller than reserved
		"alone":           {130, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := small(t, nil)
			for range 20 {
				logs(r, tc.size, "a")
			}
			oldest := r.Oldest()
			c, err := r.Acquire(oldest)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Release()
			if uint64(c.Len()) != tc.want {
				t.Errorf("first segment has %d envelopes, want %d", c.Len(), tc.want)
			}
			next, err := r.Acquire(oldest + uint64(c.Len()))
			if err != nil {
				t.Fatalf("acquire behind the first segment: %v", err)
			}
			next.Release()
		})
	}
}

func TestAcquireInTheMiddle(t *testing.T) {
	r := small(t, nil)
	b := &batch{}
	for i := range 10 {
		b.add("a", envelope.Class(i%envelope.NumClasses), sized(3, byte(i)))
	}
	b.to(r)
	c, err := r.Acquire(4)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if c.First != 4 || c.Len() != 6 {
		t.Fatalf("chunk from %d with %d envelopes, want 4 with 6", c.First, c.Len())
	}
	for i := range c.Len() {
		if c.Class(i) != b.entries[4+i].class || !bytes.Equal(c.Envelope(i), b.entries[4+i].env) {
			t.Errorf("envelope %d of the chunk is not number %d", i, 4+i)
		}
	}
	if got := c.Size(1, 4); got != 15 || len(c.Bytes(1, 4)) != 15 {
		t.Errorf("size of three records is %d, bytes %d, want 15", got, len(c.Bytes(1, 4)))
	}
}

func TestEvictionGoesOldestFirst(t *testing.T) {
	var gone []Evicted
	r := small(t, func(c *Config) {
		c.OnEvict = func(e Evicted) {
			e.Env = append([]byte{}, e.Env...)
			gone = append(gone, e)
		}
	})
	var all []entry
	for i := range 300 {
		b := (&batch{}).add([]string{"a", "b"}[i%2], envelope.Class(i%3), sized(i%40, byte(i)))
		all = append(all, b.entries...)
		b.to(r)
		if used := r.Stats().UsedBytes; used > r.cfg.Bytes {
			t.Fatalf("after %d envelopes the ring uses %d of %d bytes", i, used, r.cfg.Bytes)
		}
	}
	if r.Oldest() == 0 || uint64(len(gone)) != r.Oldest() {
		t.Fatalf("oldest is %d and %d envelopes were offered", r.Oldest(), len(gone))
	}
	for i, e := range gone {
		if e.Offset != uint64(i) || e.Source != all[i].source || e.Class != all[i].class || !bytes.Equal(e.Env, all[i].env) {
			t.Fatalf("envelope %d was offered as %+v", i, e)
		}
	}
	if _, err := r.Acquire(r.Oldest() - 1); !errors.Is(err, ErrEvicted) {
		t.Errorf("acquire below oldest: %v", err)
	}
	if got := held(t, r, r.Oldest()); !slices.EqualFunc(got, all[r.Oldest():], sameEntry) {
		t.Errorf("what is held is not the rest")
	}
}

func sameEntry(a, b entry) bool {
	return a.source == b.source && a.class == b.class && bytes.Equal(a.env, b.env)
}

func TestOversizeEnvelopes(t *testing.T) {
	r := small(t, nil)
	for i, n := range []int{251, 250, 600, 1, 1400, 1, 300, 300, 300, 300, 300, 1} {
		env := sized(n, byte(i))
		off := (&batch{}).add("big", envelope.Log, env).to(r)
		if used := r.Stats().UsedBytes; used > r.cfg.Bytes {
			t.Errorf("with %d bytes the ring uses %d of %d", n, used, r.cfg.Bytes)
		}
		c, err := r.Acquire(off)
		if err != nil {
			t.Fatalf("acquire an envelope of %d bytes: %v", n, err)
		}
		if !bytes.Equal(c.Envelope(c.Len()-1), env) {
			t.Errorf("envelope of %d bytes came back different", n)
		}
		if n > 250 && c.Len() != 1 {
			t.Errorf("an envelope of %d bytes shares its segment", n)
		}
		c.Release()
	}
}

// An envelope larger than the whole budget is taken all the same, and the
// budget holds again with the next one.
func TestEnvelopeLargerThanTheRing(t *testing.T) {
	r := small(t, nil)
	logs(r, 10, "a", "a", "a")
	huge := sized(int(r.cfg.Bytes)*2, 1)
	off := (&batch{}).add("a", envelope.Log, huge).to(r)
	if r.Oldest() != off {
		t.Errorf("oldest %d, want everything before %d evicted", r.Oldest(), off)
	}
	c, err := r.Acquire(off)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(c.Envelope(0), huge) {
		t.Error("the envelope came back different")
	}
	c.Release()
	logs(r, 10, "a")
	if st := r.Stats(); st.UsedBytes > st.Budget || st.Oldest != off+1 {
		t.Errorf("afterwards %+v, want the budget held and oldest %d", st, off+1)
	}
}

// A pinned segment keeps its bytes while the ring runs over it; the budget is
// held with what is left, and all of it is there again after the release.
func TestPinnedSegmentsOutliveEviction(t *testing.T) {
	r := small(t, nil)
	logs(r, 20, "a", "b", "c")
	c, err := r.Acquire(0)
	if err != nil {
		t.Fatal(err)
	}
	want := append([]byte{}, c.Bytes(0, 3)...)
	for i := range 400 {
		logs(r, 20+i%30, "a", "b")
		if st := r.Stats(); st.UsedBytes > st.Budget {
			t.Fatalf("with one segment pinned: %+v", st)
		}
	}
	if r.zombies != 1 || r.Oldest() == 0 {
		t.Fatalf("%d retired segments pinned, oldest %d", r.zombies, r.Oldest())
	}
	if !bytes.Equal(c.Bytes(0, 3), want) {
		t.Error("bytes changed under a pin")
	}
	free := len(r.free)
	c.Release()
	if r.zombies != 0 || len(r.free) != free+1 {
		t.Errorf("after the release: %d zombies, %d free, want 0 and %d", r.zombies, len(r.free), free+1)
	}
}

// Readers that pin everything do not hold up appends: the budget gives way,
// and is kept again when they are done.
func TestEverythingPinned(t *testing.T) {
	r := small(t, nil)
	for range 60 {
		logs(r, 50, "a")
	}
	var pinned []Chunk
	for off := r.Oldest(); off < r.Head(); {
		c, err := r.Acquire(off)
		if err != nil {
			t.Fatal(err)
		}
		pinned = append(pinned, c)
		off += uint64(c.Len())
	}
	for range 60 {
		logs(r, 50, "a")
	}
	if r.Stats().UsedBytes <= r.cfg.Bytes {
		t.Error("want the budget exceeded while all of it is pinned")
	}
	for _, c := range pinned {
		c.Release()
	}
	for range 60 {
		logs(r, 50, "a")
	}
	if st := r.Stats(); st.UsedBytes > st.Budget {
		t.Errorf("after the release: %+v", st)
	}
}

func TestEvictAheadLeavesRoom(t *testing.T) {
	r := small(t, nil)
	for range 500 {
		logs(r, 40, "a")
		r.EvictAhead()
		st := r.Stats()
		room := len(r.free) > 0 || st.UsedBytes+segmentBytes(r.dataBytes, r.indexLen) <= st.Budget
		if !room {
			t.Fatalf("no room for another segment after EvictAhead: %+v", st)
		}
	}
	if st := r.Stats(); st.Segments < 6 {
		t.Errorf("EvictAhead went too far: %d segments of 8 hold envelopes", st.Segments)
	}
}

func TestCapacityOffsets(t *testing.T) {
	r := small(t, nil)
	if got := r.CapacityOffsets(); got != 8*16 {
		t.Errorf("capacity of an empty ring %d, want %d", got, 8*16)
	}
	for range 200 {
		logs(r, 44, "a") // 5 to a segment
	}
	if got := r.CapacityOffsets(); got < 32 || got > 40 {
		t.Errorf("capacity %d, want about 40", got)
	}
}

func TestStats(t *testing.T) {
	r := small(t, nil)
	(&batch{}).add("a", envelope.Log, sized(10, 0)).add("b", envelope.Counter, sized(20, 0)).to(r)
	st := r.Stats()
	want := Stats{
		Head: 2, Bytes: 34, HeldBytes: 34, UsedBytes: segmentBytes(256, 16), Budget: r.cfg.Bytes, Segments: 1, Sources: 2,
		Classes: Counts{envelope.Log: 1, envelope.Counter: 1},
	}
	if st != want {
		t.Errorf("stats %+v, want %+v", st, want)
	}
	for range 300 {
		logs(r, 10, "a")
	}
	st = r.Stats()
	if st.Bytes != 34+300*12 || st.HeldBytes != 12*(st.Head-st.Oldest) {
		t.Errorf("stats %+v: want %d bytes in all, %d held", st, 34+300*12, 12*(st.Head-st.Oldest))
	}
}

func TestChunkKnowsWhatItDoesNotHold(t *testing.T) {
	r := small(t, nil)
	(&batch{}).add("a", envelope.Log, sized(3, 1)).to(r)
	c, err := r.Acquire(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	if c.Holds(envelope.NoV1) || !c.Holds(envelope.Mask(envelope.Log, envelope.Event)) {
		t.Error("one log line")
	}
	(&batch{}).add("a", envelope.Event, sized(3, 1)).to(r)
	if !c.Holds(envelope.NoV1) {
		t.Error("an event came")
	}
}
