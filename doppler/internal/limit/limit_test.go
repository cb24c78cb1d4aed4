package limit

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

var logs = envelope.Mask(envelope.Log, envelope.ErrorLog)

// message is a scanned batch with a log of each source, or a counter if its
// name begins with "#".
func message(tb testing.TB, sources ...string) (msg []byte, recs []envelope.Record) {
	tb.Helper()
	batch := &loggregatorv2.EnvelopeBatch{}
	for i, source := range sources {
		e := &loggregatorv2.Envelope{SourceId: strings.TrimPrefix(source, "#"), Timestamp: int64(i)}
		if e.Message = (&loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{}}); source[0] == '#' {
			e.Message = &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{}}
		}
		batch.Batch = append(batch.Batch, e)
	}
	msg, err := proto.Marshal(batch)
	if err != nil {
		tb.Fatal(err)
	}
	recs, _ = envelope.ScanBatch(msg, envelope.Limits{}, nil)
	return msg, recs
}

func times(n int, sources ...string) (all []string) {
	for range n {
		all = append(all, sources...)
	}
	return all
}

// untold is what Untold says, by source.
func untold(l *Limiter) map[string]uint64 {
	m := make(map[string]uint64)
	for _, left := range l.Untold(nil) {
		m[left.Source] += left.Count
	}
	return m
}

func TestAdmit(t *testing.T) {
	const second = int64(time.Second)
	for name, test := range map[string]struct {
		rate, burst int
		classes     envelope.ClassMask
		at          []int64  // when the message comes
		sources     []string // that are in it
		want        []string // what of the last is let in
		untold      map[string]uint64
	}{
		"a burst":                                {10, 3, logs, []int64{0}, times(5, "a"), times(3, "a"), map[string]uint64{"a": 2}},
		"a second's worth unless told otherwise": {4, 0, logs, []int64{0}, times(5, "a"), times(4, "a"), map[string]uint64{"a": 1}},
		"more after a while":                     {10, 3, logs, []int64{0, second / 10}, times(5, "a"), times(1, "a"), map[string]uint64{"a": 6}},
		"not a moment too early":                 {10, 3, logs, []int64{0, second/10 - 1}, times(5, "a"), nil, map[string]uint64{"a": 7}},
		"no more than the burst after a pause":   {10, 3, logs, []int64{0, 3600 * second}, times(5, "a"), times(3, "a"), map[string]uint64{"a": 4}},
		"a third of a second to the nanosecond": {
			3, 1, logs,
			[]int64{0, second / 3, second/3 + 1},
			times(1, "a"), times(1, "a"),
			map[string]uint64{"a": 1},
		},
		"a clock that was read earlier gives nothing": {10, 3, logs, []int64{second, 0, second / 2}, times(3, "a"), nil, map[string]uint64{"a": 6}},
		"each source has its own": {
			1, 1, logs,
			[]int64{0},
			times(3, "a", "b", "b"), append(times(1, "a"), "b"),
			map[string]uint64{"a": 2, "b": 5},
		},
		"what is not limited comes through": {
			1, 1, logs,
			[]int64{0},
			times(2, "a", "#a", "#a"), []string{"a", "#a", "#a", "#a", "#a"},
			map[string]uint64{"a": 1},
		},
		"all of a source count together": {
			1, 2, envelope.AllClasses,
			[]int64{0},
			times(2, "a", "#a"), []string{"a", "#a"},
			map[string]uint64{"a": 2},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(Config{Rate: test.rate, Burst: test.burst, Classes: test.classes})
			var got []string
			for _, at := range test.at {
				msg, recs := message(t, test.sources...)
				got = nil
				for _, r := range l.Admit(at, msg, recs) {
					id := string(msg[r.SourceStart:r.SourceEnd])
					if r.Class == envelope.Counter {
						id = "#" + id
					}
					got = append(got, id)
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(test.want) {
				t.Errorf("let in: %v, want %v", got, test.want)
			}
			if told := untold(l); fmt.Sprint(told) != fmt.Sprint(test.untold) {
				t.Errorf("untold: %v, want %v", told, test.untold)
			}
			if again := untold(l); len(again) > 0 {
				t.Errorf("told twice: %v", again)
			}
		})
	}
}

// Whatever comes when, a source gets its burst and its rate to the envelope,
// and all others are counted.
func TestRateIsExact(t *testing.T) {
	const rate, burst, step = 7, 5, int64(time.Second) / 1000
	random := rand.New(rand.NewPCG(1, 2))
	l := New(Config{Rate: rate, Burst: burst, Classes: logs})
	var sent, in uint64
	var now int64
	for range 20_000 {
		now += random.Int64N(step)
		msg, recs := message(t, times(1+random.IntN(3), "a")...)
		sent += uint64(len(recs))
		in += uint64(len(l.Admit(now, msg, recs)))
	}
	if want := burst + uint64(now)*rate/uint64(time.Second); in != want {
		t.Errorf("%d were let in within %s, want %d", in, time.Duration(now), want)
	}
	if left := untold(l)["a"]; in+left != sent {
		t.Errorf("%d let in + %d left out are not %d", in, left, sent)
	}
}

func TestConcurrentMessagesShareALimit(t *testing.T) {
	const senders, messages, rate = 8, 200, 100
	l := New(Config{Rate: rate, Classes: logs})
	msg, recs := message(t, times(10, "a", "a", "a", "b")...)
	var mu sync.Mutex
	var in, told = map[string]uint64{}, map[string]uint64{}
	count := func(counted map[string]uint64, id string, n uint64) {
		mu.Lock()
		defer mu.Unlock()
		counted[id] += n
	}
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for at := range int64(messages) {
				own := append([]envelope.Record(nil), recs...)
				for _, r := range l.Admit(at*int64(time.Second)/messages, msg, own) {
					count(in, string(msg[r.SourceStart:r.SourceEnd]), 1)
				}
				for _, left := range l.Untold(nil) {
					count(told, left.Source, left.Count)
				}
			}
		})
	}
	all.Wait()
	for id, n := range untold(l) {
		told[id] += n
	}
	for id, sent := range map[string]uint64{"a": 30 * senders * messages, "b": 10 * senders * messages} {
		if want := uint64(rate + rate*(messages-1)/messages); in[id] != want || in[id]+told[id] != sent {
			t.Errorf("%s: %d of %d let in, want %d; %d told", id, in[id], sent, want, told[id])
		}
	}
}

func TestBucketsAreBounded(t *testing.T) {
	const second = int64(time.Second)
	l := New(Config{Rate: 10, Classes: logs, Buckets: 4 * shards})
	loud, loudRecs := message(t, times(20, "loud")...)
	now, in := second, 0
	for i := range 10_000 {
		now += second / 1000
		msg, recs := message(t, fmt.Sprintf("quiet-%d", i))
		if len(l.Admit(now, msg, recs)) != 1 {
			t.Fatalf("source %d is new and left out", i)
		}
		in += len(l.Admit(now, loud, append([]envelope.Record(nil), loudRecs...)))
	}
	n := 0
	for i := range l.shards {
		n += len(l.shards[i].table.byID)
	}
	if n > 4*shards {
		t.Errorf("%d sources are remembered", n)
	}
	if in != 10+100-1 { // the last is due when 10 s are over
		t.Errorf("the loud source got %d in 10 s: its bucket was forgotten", in)
	}
}

func BenchmarkAdmit(b *testing.B) {
	one := times(100, "f47ac10b-58cc-4372-a567-0e02b2c3d479")
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("f47ac10b-58cc-4372-a567-0e02b2c3d%03d", i))
	}
	for _, bench := range []struct {
		name        string
		sources     []string
		rate, burst int
	}{
		{"one", one, MaxRate, MaxBurst}, {"one-over", one, 1, 1},
		{"many", many, MaxRate, MaxBurst}, {"many-over", many, 1, 1},
		{"single", one[:1], MaxRate, MaxBurst},
	} {
		b.Run(bench.name, func(b *testing.B) {
			l := New(Config{Rate: bench.rate, Burst: bench.burst, Classes: logs})
			msg, recs := message(b, bench.sources...)
			own := make([]envelope.Record, len(recs))
			began := time.Now()
			b.ReportAllocs()
			for b.Loop() {
				copy(own, recs)
				l.Admit(int64(time.Since(began)), msg, own)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(recs)), "ns/env")
		})
	}
}
