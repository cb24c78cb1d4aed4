package reader

import (
	"fmt"
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// eachChunk visits what the ring holds.
func eachChunk(t *testing.T, w *world, visit func(c ring.Chunk)) {
	t.Helper()
	for off := w.oldest(); off < w.head(); {
		c, err := w.log.Acquire(off)
		if err != nil {
			t.Fatal(err)
		}
		visit(c)
		off += uint64(c.Len())
		c.Release()
	}
}

// What the index and the bytes say is what the filter means, also when there
// are many sources.
func TestMatcherIsTheFilter(t *testing.T) {
	w := roomy(t)
	var sources []string
	for i := range 300 {
		sources = append(sources, fmt.Sprint("source-", i))
	}
	for range 3000 {
		w.append(w.make(sources[w.rng.IntN(len(sources))], w.rng.IntN(kinds), 0))
	}
	for range 200 {
		plain := w.filter()
		for j := range plain {
			if plain[j].Sources == nil {
				continue
			}
			plain[j].Sources = nil
			for range 1 + w.rng.IntN(100) {
				plain[j].Sources = append(plain[j].Sources, sources[w.rng.IntN(len(sources))])
			}
		}
		f := plain.Canonical()
		g := NewGroup(w.log, f, Config{}, Start{})
		eachChunk(t, w, func(c ring.Chunk) {
			for i := range c.Len() {
				truth := &w.all[c.First+uint64(i)]
				if got := g.match.match(c, i); got != plain.matches(truth) || got != f.matches(truth) {
					t.Fatalf("%+v, canonical %s: %d matches %v", plain, f.Key(), c.First+uint64(i), got)
				}
			}
		})
		g.Close()
	}
}

// A lease without filter is found by a search, any other by a loop; both find
// the same.
func TestPickFindsTheSame(t *testing.T) {
	w := roomy(t)
	for range 2000 {
		w.append(w.make("s", 0, w.rng.IntN(200)))
	}
	all := newMatcher(everything(), nil)
	loop := all
	loop.all = false
	eachChunk(t, w, func(c ring.Chunk) {
		for range 200 {
			i := w.rng.IntN(c.Len())
			maxCount, maxBytes := 1+w.rng.IntN(300), 1+w.rng.IntN(40_000)
			if j := i + w.rng.IntN(c.Len()-i); j > i && w.chance(2) {
				maxBytes = c.Size(i, j) // to the byte
			}
			part, err := w.log.Acquire(c.First + uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			runs, count, looked := all.pick(part, nil, maxCount, maxBytes)
			wantRuns, wantCount, wantLooked := loop.pick(part, nil, maxCount, maxBytes)
			part.Release()
			if !slices.Equal(runs, wantRuns) || count != wantCount || looked != wantLooked {
				t.Fatalf("at most %d and %d bytes: %v, %d, %d, want %v, %d, %d",
					maxCount, maxBytes, runs, count, looked, wantRuns, wantCount, wantLooked)
			}
		}
	})
}

func TestMatcherOfNothing(t *testing.T) {
	w := roomy(t)
	w.logs("s", 3)
	m := newMatcher(Filter{}, nil)
	eachChunk(t, w, func(c ring.Chunk) {
		if runs, count, looked := m.pick(c, nil, 10, 1000); runs != nil || count != 0 || looked != 3 {
			t.Errorf("picked %v, %d, looked at %d", runs, count, looked)
		}
	})
}
