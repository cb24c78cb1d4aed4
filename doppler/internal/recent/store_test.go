package recent

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/envelope"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newStore(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// content makes bytes of which each part tells the offset.
func content(offset uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(offset*31 + uint64(i)*7)
	}
	return b
}

type model struct {
	totals  map[string]*[envelope.NumClasses]uint64 // appended to the ring
	evicted map[string][]modelEntry
	waiting []modelEntry // in the ring
	offset  uint64
}

type modelEntry struct {
	source  string
	class   envelope.Class
	ordinal uint64
	offset  uint64
	env     []byte
}

func newModel() *model {
	return &model{totals: make(map[string]*[envelope.NumClasses]uint64), evicted: make(map[string][]modelEntry)}
}

func (m *model) append(source string, class envelope.Class, size int) {
	if m.totals[source] == nil {
		m.totals[source] = new([envelope.NumClasses]uint64)
	}
	m.waiting = append(m.waiting, modelEntry{source, class, m.totals[source][class], m.offset, content(m.offset, size)})
	m.totals[source][class]++
	m.offset++
}

// evict moves the oldest n from the ring to the store.
func (m *model) evict(s *Store, n int) {
	s.Begin()
	defer s.End()
	for _, e := range m.waiting[:n] {
		s.Offer(e.source, e.class, e.ordinal, m.newer(e), e.offset, e.env)
		m.evicted[e.source] = append(m.evicted[e.source], e)
	}
	m.waiting = m.waiting[n:]
}

func (m *model) newer(e modelEntry) uint64 { return m.totals[e.source][e.class] - e.ordinal - 1 }

// want is what a store without a budget returns.
func (m *model) want(limits [envelope.NumClasses]uint64, source string, mask envelope.ClassMask, from, to uint64, limit int) []modelEntry {
	var found []modelEntry
	for _, e := range m.evicted[source] {
		if mask.Has(e.class) && e.offset >= from && e.offset < to && m.newer(e) < limits[e.class] {
			found = append(found, e)
		}
	}
	return found[max(0, len(found)-limit):]
}

func (m *model) read(t *testing.T, s *Store, source string, mask envelope.ClassMask, from, to uint64, limit int) []modelEntry {
	t.Helper()
	var totals [envelope.NumClasses]uint64
	if known := m.totals[source]; known != nil {
		totals = *known
	}
	var got []modelEntry
	s.Read(source, mask, from, to, limit, totals, func(offset uint64, class envelope.Class, env []byte) {
		if len(got) > 0 && got[len(got)-1].offset >= offset {
			t.Fatalf("%s: offset %d after %d", source, offset, got[len(got)-1].offset)
		}
		if !bytes.Equal(env, content(offset, len(env))) {
			t.Fatalf("%s: other bytes at offset %d", source, offset)
		}
		got = append(got, modelEntry{source: source, class: class, offset: offset, env: env})
	})
	return got
}

func same(a, b modelEntry) bool {
	return a.offset == b.offset && a.class == b.class && bytes.Equal(a.env, b.env)
}

// check proves that all the store knows about itself is true.
func check(t *testing.T, s *Store) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	used, held, inUse := int64(0), 0, 0
	for id, src := range s.sources {
		used += sourceCost + int64(len(id))
		of := 0
		for class, c := range src.chains {
			if c == nil {
				continue
			}
			used += chainCost
			n, starts, newest := 0, 0, uint32(0)
			for at := c.head; at != 0; at = s.blocks.about[at].next {
				b := s.blocks.about[at]
				if b.owner != c.number || b.prev != newest {
					t.Fatalf("%s/%d: block %d of %d after %d, want %d", id, class, at, b.owner, b.prev, newest)
				}
				newest = at
				n++
				starts += int(b.starts)
			}
			if c.tail != newest || starts != c.count || c.count == 0 || s.blocks.about[c.head].starts == 0 {
				t.Fatalf("%s/%d: tail %d of %d, %d envelopes of %d", id, class, c.tail, newest, c.count, starts)
			}
			of += n
			held += starts
		}
		if of != src.blocks || src.listed != of || of == 0 {
			t.Fatalf("%s: %d blocks, %d known, listed under %d", id, of, src.blocks, src.listed)
		}
		used += int64(of) * blockCost
		inUse += of
	}
	listed := 0
	for n, l := range s.shares.lists {
		for src := l.first; src != nil; src = src.after {
			if src.blocks != n || s.sources[src.id] != src {
				t.Fatalf("%s with %d blocks in the list of %d", src.id, src.blocks, n)
			}
			listed++
		}
	}
	if used != s.used || used > s.budget || held != s.held || listed != len(s.sources) ||
		len(s.blocks.about)-1-s.blocks.room() != inUse {
		t.Fatalf("used %d (known %d, budget %d), held %d (known %d), listed %d of %d", used, s.used, s.budget, held, s.held, listed, len(s.sources))
	}
}

// TestAgainstModel: with room enough, reads return exactly what a naive store
// would, whatever came in which order.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			s := newStore(t, Config{Bytes: 64 << 20, Logs: 1 + rnd.IntN(60), Metrics: rnd.IntN(20)})
			m := newModel()
			sizes := []int{0, 1, 20, 500, 1000, 1012, 1013, 3000, 40_000}
			for range 1500 {
				source := fmt.Sprint("s", rnd.IntN(1+rnd.IntN(8)))
				class := envelope.Class(rnd.IntN(envelope.NumClasses))
				if rnd.IntN(2) == 0 {
					class = envelope.Log
				}
				m.append(source, class, sizes[rnd.IntN(len(sizes)-rnd.IntN(4))])
				if keep := rnd.IntN(300); len(m.waiting) > keep {
					m.evict(s, len(m.waiting)-keep)
				}
				if rnd.IntN(10) == 0 {
					compare(t, rnd, s, m)
				}
			}
			m.evict(s, len(m.waiting))
			compare(t, rnd, s, m)
			check(t, s)
		})
	}
}

func compare(t *testing.T, rnd *rand.Rand, s *Store, m *model) {
	t.Helper()
	source := fmt.Sprint("s", rnd.IntN(8))
	mask, from, to, limit := envelope.AllClasses, uint64(0), uint64(math.MaxUint64), 10_000
	if rnd.IntN(2) == 0 {
		mask = envelope.ClassMask(rnd.IntN(1 << envelope.NumClasses))
	}
	if rnd.IntN(2) == 0 {
		from = rnd.Uint64N(m.offset + 1)
	}
	if rnd.IntN(2) == 0 {
		to = rnd.Uint64N(m.offset + 10)
	}
	if rnd.IntN(2) == 0 {
		limit = rnd.IntN(40)
	}
	want := m.want(s.limits, source, mask, from, to, limit)
	if got := m.read(t, s, source, mask, from, to, limit); !slices.EqualFunc(got, want, same) {
		t.Fatalf("%s %b [%d,%d) %d: got %d envelopes, want %d", source, mask, from, to, limit, len(got), len(want))
	}
}

// TestBudget: the budget holds after every step, only a source that holds most
// loses, and what it loses is its oldest.
func TestBudget(t *testing.T) {
	for seed := range uint64(10) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 2))
			s := newStore(t, Config{Bytes: MinBytes, Logs: 1000, Metrics: 100})
			m := newModel()
			sources := 1 + rnd.IntN(40)
			for range 4000 {
				// Some sources are louder than others.
				source := fmt.Sprint("s", min(rnd.IntN(sources), rnd.IntN(sources)))
				m.append(source, envelope.Class(rnd.IntN(3)), rnd.IntN(1+rnd.IntN(3000)))
				before := blocksOf(s)
				m.evict(s, len(m.waiting))
				after := blocksOf(s)
				most := 0
				for _, n := range after {
					most = max(most, n)
				}
				for id, n := range before {
					// Its own oldest may also go because newer ones came; and
					// what came, up to 4 blocks, counts only afterwards.
					if id != source && after[id] < n && n+4 < most {
						t.Fatalf("%s lost with %d blocks where another holds %d", id, n, most)
					}
				}
			}
			check(t, s)
			if st := s.Stats(); st.Evicted == 0 || st.Bytes > st.Budget || st.Sources == 0 {
				t.Fatalf("%+v", st)
			}
			for i := range sources {
				id := fmt.Sprint("s", i)
				for class := range envelope.Class(3) {
					want := m.want(s.limits, id, envelope.Mask(class), 0, math.MaxUint64, 1<<20)
					got := m.read(t, s, id, envelope.Mask(class), 0, math.MaxUint64, 1<<20)
					if len(got) > len(want) || !slices.EqualFunc(got, want[len(want)-len(got):], same) {
						t.Fatalf("%s/%d: not the newest %d of %d", id, class, len(got), len(want))
					}
				}
			}
		})
	}
}

func blocksOf(s *Store) map[string]int {
	n := make(map[string]int)
	for id, src := range s.sources {
		n[id] = src.blocks
	}
	return n
}

// TestFairShare: a source under its share keeps everything, however loud the
// others are.
func TestFairShare(t *testing.T) {
	s := newStore(t, Config{Bytes: 4 << 20, Logs: 1_000_000, Metrics: 100})
	m := newModel()
	for i := range 50 {
		m.append("quiet", envelope.Log, 400)
		for range 1000 {
			m.append(fmt.Sprint("loud", i%3), envelope.Log, 500)
		}
		m.evict(s, len(m.waiting))
	}
	if got := m.read(t, s, "quiet", envelope.AllClasses, 0, math.MaxUint64, 1000); len(got) != 50 {
		t.Errorf("the quiet source keeps %d of 50", len(got))
	}
	n := blocksOf(s)
	if low, high := min(n["loud0"], n["loud1"], n["loud2"]), max(n["loud0"], n["loud1"], n["loud2"]); high-low > 4 {
		t.Errorf("the loud ones hold %v blocks", n)
	}
	check(t, s)
}

// TestQuietOnesKeepTheirNewest: what 20 quiet sources have said last is all there,
// among one that says 50 times as much as each, and takes all it can get.
func TestQuietOnesKeepTheirNewest(t *testing.T) {
	const quiet, newest, lines = 20, 100, 130
	s := newStore(t, Config{Bytes: 4 << 20, Logs: newest, Metrics: newest})
	m := newModel()
	for range lines {
		for i := range quiet {
			m.append(fmt.Sprint("quiet", i), envelope.Log, 500)
			for class := range envelope.Class(envelope.NumClasses) {
				m.append("loud", class, 50*500/envelope.NumClasses/quiet)
			}
		}
		m.evict(s, len(m.waiting))
	}
	for i := range quiet {
		if got := m.read(t, s, fmt.Sprint("quiet", i), envelope.AllClasses, 0, math.MaxUint64, 2*newest); len(got) != newest {
			t.Errorf("quiet source %d keeps %d of %d", i, len(got), newest)
		}
	}
	check(t, s)
}

// TestManySources: each of them costs, also with a single envelope.
func TestManySources(t *testing.T) {
	s := newStore(t, Config{Bytes: 2 << 20, Logs: 1000, Metrics: 100})
	m := newModel()
	for i := range 5000 {
		m.append(fmt.Sprintf("source-%d", i), envelope.Counter, 50)
		m.evict(s, 1)
	}
	check(t, s)
	st := s.Stats()
	if st.Sources < 1000 || st.Sources != st.Envelopes {
		t.Errorf("%+v", st)
	}
	// Of equals the one goes that has been there longest.
	for i, want := range map[int]int{0: 0, 5000 - st.Sources - 1: 0, 5000 - st.Sources: 1, 4999: 1} {
		if got := m.read(t, s, fmt.Sprintf("source-%d", i), envelope.AllClasses, 0, math.MaxUint64, 10); len(got) != want {
			t.Errorf("source %d of 5000 keeps %d, want %d", i, len(got), want)
		}
	}
}

// TestStaleEnvelopes: what has too many newer ones is not returned, and goes
// when the next one comes.
func TestStaleEnvelopes(t *testing.T) {
	s := newStore(t, Config{Bytes: MinBytes, Logs: 10, Metrics: 0})
	m := newModel()
	for range 20 {
		m.append("s", envelope.Log, 100)
	}
	m.evict(s, 20)
	m.append("metrics", envelope.Gauge, 100)
	m.evict(s, 1)
	if st := s.Stats(); st.Sources != 1 || st.Envelopes < 10 || st.Envelopes > 20 {
		t.Fatalf("%+v", st)
	}
	// A burst stays in the ring, so nothing of the past is worth keeping.
	for range 100 {
		m.append("s", envelope.Log, 100)
	}
	if got := m.read(t, s, "s", envelope.AllClasses, 0, math.MaxUint64, 100); len(got) != 0 {
		t.Errorf("%d stale envelopes returned", len(got))
	}
	m.evict(s, 91) // the last of them is among the newest 10
	if st := s.Stats(); st.Envelopes != 1 {
		t.Errorf("%+v", st)
	}
	check(t, s)
}

// TestForgottenSource: when the ring has forgotten a source it counts anew.
func TestForgottenSource(t *testing.T) {
	s := newStore(t, Config{Bytes: MinBytes, Logs: 10, Metrics: 10})
	s.Begin()
	for i := range uint64(8) {
		s.Offer("s", envelope.Log, 1000+i, 0, i, content(i, 10))
	}
	s.End()
	read := func(total uint64) int {
		n := 0
		s.Read("s", envelope.AllClasses, 0, math.MaxUint64, 100, [envelope.NumClasses]uint64{total}, func(uint64, envelope.Class, []byte) { n++ })
		return n
	}
	for total, want := range map[uint64]int{0: 8, 3: 7, 9: 1, 10: 0, 1008: 8, 1010: 8, 1011: 7} {
		if got := read(total); got != want {
			t.Errorf("total %d: got %d, want %d", total, got, want)
		}
	}
	s.Begin()
	for i := range uint64(4) {
		s.Offer("s", envelope.Log, i, 3-i, 100+i, content(100+i, 10))
	}
	s.End()
	if got := read(4); got != 10 {
		t.Errorf("after counting anew: got %d, want 10", got)
	}
	check(t, s)
}

func TestTooLargeToKeep(t *testing.T) {
	s := newStore(t, Config{Bytes: MinBytes, Logs: 10, Metrics: 10})
	s.Begin()
	s.Offer("small", envelope.Log, 0, 0, 0, content(0, 100))
	s.Offer("large", envelope.Log, 0, 0, 1, content(1, MinBytes/2))
	s.Offer("fits", envelope.Log, 0, 0, 2, content(2, MinBytes/8))
	s.End()
	if st := s.Stats(); st.Sources != 2 || st.Envelopes != 2 {
		t.Errorf("%+v", st)
	}
	check(t, s)
}

func TestClosed(t *testing.T) {
	s := newStore(t, Config{Bytes: MinBytes, Logs: 10, Metrics: 10})
	m := newModel()
	m.append("s", envelope.Log, 10)
	m.evict(s, 1)
	if n := len(m.read(t, s, "s", envelope.AllClasses, 0, 10, 10)); n != 1 {
		t.Fatal(n)
	}
	s.Close()
	m.append("s", envelope.Log, 10)
	m.evict(s, 1)
	if n := len(m.read(t, s, "s", envelope.AllClasses, 0, 10, 10)); n != 0 {
		t.Errorf("%d envelopes after Close", n)
	}
	if st := s.Stats(); st.Bytes != 0 || st.Sources != 0 {
		t.Errorf("%+v", st)
	}
}

func TestConfigFaults(t *testing.T) {
	for _, cfg := range []Config{{Bytes: MinBytes - 1}, {Bytes: MinBytes, Logs: -1}, {Bytes: MinBytes, Metrics: -1}} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%+v accepted", cfg)
		}
	}
}

// TestConcurrent: readers see whole envelopes in order while the writer
// replaces all of them again and again.
func TestConcurrent(t *testing.T) {
	s := newStore(t, Config{Bytes: MinBytes, Logs: 400, Metrics: 50})
	const sources, rounds = 5, 20_000
	done := make(chan struct{})
	var readers sync.WaitGroup
	for r := range 4 {
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(uint64(r), 3))
			for {
				select {
				case <-done:
					return
				default:
				}
				last := uint64(0)
				s.Read(fmt.Sprint("s", rnd.IntN(sources)), envelope.AllClasses, 0, math.MaxUint64, 1+rnd.IntN(500),
					[envelope.NumClasses]uint64{}, func(offset uint64, _ envelope.Class, env []byte) {
						if offset <= last || binary.LittleEndian.Uint64(env) != offset || !bytes.Equal(env[8:], content(offset, len(env)-8)) {
							t.Errorf("offset %d after %d, or other bytes", offset, last)
						}
						last = offset
					})
			}
		})
	}
	rnd := rand.New(rand.NewPCG(9, 3))
	var ordinals [sources][envelope.NumClasses]uint64
	for offset := uint64(1); offset <= rounds; offset++ {
		i, class := rnd.IntN(sources), envelope.Class(rnd.IntN(envelope.NumClasses))
		env := binary.LittleEndian.AppendUint64(nil, offset)
		env = append(env, content(offset, rnd.IntN(4000))...)
		if offset%100 == 1 {
			s.Begin()
		}
		s.Offer(fmt.Sprint("s", i), class, ordinals[i][class], 0, offset, env)
		ordinals[i][class]++
		if offset%100 == 0 {
			s.End()
		}
	}
	close(done)
	readers.Wait()
	check(t, s)
}

func TestOfferAllocatesNothing(t *testing.T) {
	s := newStore(t, Config{Bytes: 4 << 20, Logs: 1000, Metrics: 100})
	env := content(1, 500)
	offset := uint64(0)
	offer := func() {
		s.Begin()
		defer s.End()
		for i := range uint64(20) {
			s.Offer([]string{"a", "b", "c"}[i%3], envelope.Class(i%2), offset, 0, offset, env)
			offset++
		}
	}
	for range 1000 {
		offer()
	}
	if n := testing.AllocsPerRun(100, offer); n != 0 {
		t.Errorf("%v allocations for 20 envelopes", n)
	}
}
