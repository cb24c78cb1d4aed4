package egress

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// kept is what a plain model holds of one source.
type kept struct {
	offset uint64
	class  envelope.Class
	time   int64
	names  []string
	env    []byte
	older  bool // in the recent store
}

// plainRecent keeps what it is given, but for what it loses.
type plainRecent struct{ sources map[string][]kept }

func (p *plainRecent) Read(source string, mask envelope.ClassMask, from, to uint64, limit int, _ [envelope.NumClasses]uint64,
	visit func(uint64, envelope.Class, []byte),
) {
	for _, e := range p.sources[source] {
		if e.older && mask.Has(e.class) && from <= e.offset && e.offset < to {
			visit(e.offset, e.class, bytes.Clone(e.env))
		}
	}
}

// EachSource is not asked for.
func (p *plainRecent) EachSource(func(string) [envelope.NumClasses]uint64, func(string, int, int64, int64)) {
}

// plain is a server over a small ring, with a list of all that is held.
type plain struct {
	t      testing.TB
	rng    *rand.Rand
	recent plainRecent
	log    *ring.Ring
	server *Server
	lose   bool
}

func newPlain(t testing.TB, seed uint64, ringBytes int64) *plain {
	p := &plain{t: t, rng: rand.New(rand.NewPCG(seed, 1)), recent: plainRecent{map[string][]kept{}}}
	var err error
	p.log, err = ring.New(ring.Config{Bytes: ringBytes, SegmentBytes: int(ringBytes / 8), OnEvict: p.evicted})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.log.Close)
	p.server = New(p.log, &p.recent, Config{Doppler: "d", Epoch: 7}, slog.New(slog.DiscardHandler), nil)
	return p
}

// evicted moves an envelope to the recent store, or loses it.
func (p *plain) evicted(e ring.Evicted) {
	list := p.recent.sources[e.Source]
	i := slices.IndexFunc(list, func(h kept) bool { return h.offset == e.Offset })
	if p.lose && p.rng.IntN(2) == 0 {
		p.recent.sources[e.Source] = slices.Delete(list, i, i+1)
		return
	}
	list[i].older = true
}

func (p *plain) append(source string, at int64, e *loggregatorv2.Envelope, names ...string) {
	e.SourceId, e.Timestamp = source, at
	env, err := proto.Marshal(e)
	if err != nil {
		p.t.Fatal(err)
	}
	recs, dropped := envelope.ScanBatch(envelope.AppendRecord(nil, env), envelope.Limits{}, nil)
	if len(recs) != 1 || dropped.Envelopes() != 0 {
		p.t.Fatalf("scan: %d records, %+v", len(recs), dropped)
	}
	p.recent.sources[source] = append(p.recent.sources[source], kept{
		offset: p.log.Head(), class: recs[0].Class, time: at, names: names, env: env,
	})
	p.log.Append(envelope.AppendRecord(nil, env), recs)
}

// random appends an envelope of any kind, its time out of order.
func (p *plain) random(source string) {
	at := p.rng.Int64N(60) - 20
	switch p.rng.IntN(20) {
	case 0:
		at = math.MinInt64
	case 1:
		at = math.MaxInt64
	case 2, 3, 4, 5:
		at = 7
	}
	name := fmt.Sprint("m", p.rng.IntN(4))
	switch p.rng.IntN(5) {
	case 0:
		p.append(source, at, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: name}}}, name)
	case 1:
		p.append(source, at, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Timer{Timer: &loggregatorv2.Timer{Name: name}}}, name)
	case 2:
		p.append(source, at, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Gauge{Gauge: &loggregatorv2.Gauge{
			Metrics: map[string]*loggregatorv2.GaugeValue{name: {}, "other": {}},
		}}}, name, "other")
	case 3:
		p.append(source, at, &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Event{Event: &loggregatorv2.Event{Title: name}}})
	default:
		p.append(source, at, logSized(p.rng.IntN(300)))
	}
}

func logSized(size int) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: bytes.Repeat([]byte("x"), size)}}}
}

// want is what a read has to find.
func (p *plain) want(source string, q timeQuery) []kept {
	var found []kept
	for _, e := range p.recent.sources[source] {
		inside := e.time >= q.start && (e.time < q.end || q.end == math.MaxInt64)
		named := q.names == nil || slices.ContainsFunc(e.names, q.names.MatchString)
		if q.mask.Has(e.class) && inside && named {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b kept) int { return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.offset, b.offset)) })
	if q.descending {
		slices.Reverse(found)
	}
	n := min(q.limit, len(found))
	for n > 0 && n < len(found) && found[n].time == found[n-1].time {
		n++
	}
	return found[:n]
}

func (p *plain) read(source string, q timeQuery) (list []historyEntry, cut bool) {
	src := p.log.Ref(source)
	defer p.log.Unref(src)
	a := p.server.readTimes(p.t.Context(), src, q)
	return a.entries, a.gap != nil
}

func (p *plain) query() timeQuery {
	q := timeQuery{
		mask: envelope.AllClasses, start: math.MinInt64, end: math.MaxInt64,
		limit: 1 + p.rng.IntN(40), descending: p.rng.IntN(2) == 0,
	}
	if p.rng.IntN(2) == 0 {
		q.start = p.rng.Int64N(40) - 20
		q.end = q.start + p.rng.Int64N(30)
	}
	if p.rng.IntN(3) == 0 {
		q.mask = envelope.Mask(envelope.Log, envelope.Counter)
	}
	if p.rng.IntN(3) == 0 {
		q.names = regexp.MustCompile([]string{"^m[12]$", "other", "nothing", ""}[p.rng.IntN(4)])
		q.mask &= metrics
	}
	return q
}

// TestTimesFindWhatAModelFinds reads in the order of timestamps while the ring
// turns over and the recent store loses what it will.
func TestTimesFindWhatAModelFinds(t *testing.T) {
	for seed := range uint64(9) {
		p := newPlain(t, seed, 64<<10)
		p.lose = seed%3 > 0
		for range 150 {
			for range p.rng.IntN(20) {
				p.random([]string{"app", "app", "other"}[p.rng.IntN(3)])
			}
			q := p.query()
			list, cut := p.read("app", q)
			checkTimes(t, seed, q, list, p.want("app", q))
			if cut {
				t.Fatalf("seed %d: cut at %d envelopes", seed, len(list))
			}
		}
		if p.log.Oldest() == 0 {
			t.Fatalf("seed %d: nothing was evicted", seed)
		}
	}
}

func checkTimes(t *testing.T, seed uint64, q timeQuery, got []historyEntry, want []kept) {
	t.Helper()
	same := slices.EqualFunc(got, want, func(g historyEntry, w kept) bool {
		return g.offset == w.offset && bytes.Equal(g.record, envelope.AppendRecord(nil, w.env))
	})
	if !same {
		t.Fatalf("seed %d, %+v:\n got %v\nwant %v", seed, q, offsetsOf(got), want)
	}
}

func offsetsOf(list []historyEntry) (offsets []uint64) {
	for _, e := range list {
		offsets = append(offsets, e.offset)
	}
	return offsets
}

// TestAnswersThatLackSomethingSaySo: what the ring lets go of between the
// choice and the copy is left out at last, and others may have been passed over
// for it.
func TestAnswersThatLackSomethingSaySo(t *testing.T) {
	p := newPlain(t, 1, 64<<10)
	for range 20 {
		p.append("app", 1, logSized(10))
	}
	src := p.log.Ref("app")
	defer p.log.Unref(src)
	for _, tc := range []struct {
		limit int
		gap   bool
	}{{20, true}, {21, false}} {
		f := &first{limit: tc.limit}
		for off := range uint64(20) {
			f.offer(place{time: 1, offset: off + p.log.Head() - 1})
		}
		if _, ok := p.server.fetch(f, false); ok {
			t.Error("what is not there was found")
		}
		if a, _ := p.server.fetch(f, true); len(a.entries) != 1 || (a.gap != nil) != tc.gap {
			t.Errorf("limit %d: %d envelopes, gap %v", tc.limit, len(a.entries), a.gap)
		}
	}
}

// TestReadsByTimeEndWithTheirReader: nobody waits for a read of many.
func TestReadsByTimeEndWithTheirReader(t *testing.T) {
	p := newPlain(t, 1, 1<<20)
	for range 2 * seenPerCheck {
		p.append("app", 1, logSized(10))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	src := p.log.Ref("app")
	defer p.log.Unref(src)
	f := p.server.find(ctx, src, timeQuery{mask: envelope.AllClasses, start: math.MinInt64, end: math.MaxInt64, limit: 1000})
	if n := len(f.all()); n >= seenPerCheck {
		t.Errorf("%d envelopes were looked at", n)
	}
}
