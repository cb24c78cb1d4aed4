package egress

import (
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/url"
	"slices"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// FuzzTimes: whatever a query says, it is refused or within the limits.
func FuzzTimes(f *testing.F) {
	f.Add("start=1&end=2&limit=10&descending=true&type=log&name_filter=a.*b")
	f.Add("limit=20001")
	f.Add("start=-9223372036854775808&end=9223372036854775807&name_filter=(a%7B1000%7D)%7B1000%7D")
	f.Add("name_filter=(%3F%3C")
	f.Fuzz(func(t *testing.T, query string) {
		v, _ := url.ParseQuery(query)
		q, err := parseTimes(v)
		if err != nil {
			return
		}
		if q.start > q.end || q.limit < 1 || q.limit > maxTimeLimit || len(v.Get("name_filter")) > maxNameFilter {
			t.Errorf("%q: %+v", query, q)
		}
		q.named([]byte("\x12\x01s\x2a\x03\x0a\x01n"))
	})
}

// TestFirst holds the choice of the first ones to sorting all.
func TestFirst(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		f := &first{limit: 1 + rng.IntN(20), descending: seed%2 == 0}
		var all []int64
		for range rng.IntN(100) {
			time := rng.Int64N(1 + rng.Int64N(30))
			all = append(all, time)
			if f.wants(time) {
				f.offer(place{time: time, offset: uint64(len(all))})
			}
		}
		slices.Sort(all)
		if f.descending {
			slices.Reverse(all)
		}
		n := min(f.limit, len(all))
		for n > 0 && n < len(all) && all[n] == all[n-1] {
			n++
		}
		var got []int64
		for _, p := range f.all() {
			got = append(got, p.time)
		}
		if !slices.Equal(got, all[:n]) {
			t.Fatalf("seed %d: %v, want %v", seed, got, all[:n])
		}
	}
}

// BenchmarkReadTimes is a read of 100 from a source of which so many are held.
func BenchmarkReadTimes(b *testing.B) {
	for _, held := range []int{1_000, 100_000} {
		log, err := ring.New(ring.Config{Bytes: 256 << 20})
		if err != nil {
			b.Fatal(err)
		}
		defer log.Close()
		for i := range held {
			msg, recs := line(b, "app", i)
			log.Append(msg, recs)
		}
		s := New(log, noRecent{}, Config{}, slog.New(slog.DiscardHandler), nil)
		src := log.Ref("app")
		for name, start := range map[string]int64{"oldest": 0, "newest": int64(held) - 100} {
			b.Run(fmt.Sprintf("%s of %d", name, held), func(b *testing.B) {
				q := timeQuery{mask: envelope.AllClasses, start: start, end: 1 << 62, limit: 100}
				for b.Loop() {
					if a := s.readTimes(b.Context(), src, q); len(a.entries) != 100 {
						b.Fatalf("%d entries", len(a.entries))
					}
				}
			})
		}
		b.Run(fmt.Sprintf("last of %d", held), func(b *testing.B) {
			q := timeQuery{mask: envelope.AllClasses, start: math.MinInt64, end: math.MaxInt64, limit: 100, descending: true}
			for b.Loop() {
				if a := s.readTimes(b.Context(), src, q); len(a.entries) != 100 {
					b.Fatalf("%d entries", len(a.entries))
				}
			}
		})
	}
}

// BenchmarkHeld is what is held of each of 10,000 sources.
func BenchmarkHeld(b *testing.B) {
	const sources = 10_000
	log, err := ring.New(ring.Config{Bytes: 256 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	for i := range 50 * sources {
		msg, recs := line(b, fmt.Sprintf("app-%d", i%sources), i)
		log.Append(msg, recs)
	}
	s := New(log, noRecent{}, Config{}, slog.New(slog.DiscardHandler), nil)
	for b.Loop() {
		if n := len(s.held()); n != sources {
			b.Fatalf("%d sources", n)
		}
	}
}
