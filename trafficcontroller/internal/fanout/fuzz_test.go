package fanout

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

// fuzzHub is a Hub with a joined tail, and one that waits for its history.
func fuzzHub(t testing.TB) (*Hub, []*Tail, *Read) {
	var read Read
	hub, err := NewHub(Config{
		Name: "tc", TailBytes: 1 << 20, AllBytes: 1 << 20, GatherWithin: time.Second, LostAfter: time.Second, Heartbeat: time.Second,
		Read: func(r Read) { read = r }, Ready: func(*Tail) {}, End: func(*Tail, stream.CloseCode, string) {},
	}, time.Unix(1, 0), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if err := hub.Connected("d:1", &streampb.Hello{Server: "d", Epoch: 1, Head: 10}, func() {}); err != nil {
		t.Fatal(err)
	}
	tails := []*Tail{
		hub.Open(nil, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, nil)}),
		hub.Open(nil, Options{Source: "app", Filter: NewFilter(envelope.AllClasses, []string{"cpu"}), Cursor: cursor("d", 1, 2, 1)}),
	}
	hub.Watch("d:1")
	err = hub.Batch("d:1", &streampb.Batch{
		Position: &streampb.Position{Doppler: "d", Epoch: 1, Next: 10},
		Watching: []*streampb.Watching{{SourceId: "app", Watch: 1, Join: 10, ClassCounts: make([]uint64, 9)}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return hub, tails, &read
}

// seedMessages are what a Doppler really says.
func seedMessages(f *testing.F) [][]byte {
	d := &dopplertest.Doppler{Name: "d", Epoch: 1}
	for range 12 {
		d.Append("app", "cpu", "x", 1)
	}
	l := d.NewLink()
	l.Watch(&streampb.Watch{Start: &streampb.LinkStart{Epoch: 1, Offset: 10}, Add: []*streampb.Watch_Add{{SourceId: "app", Watch: 1}}})
	var seeds [][]byte
	for _, message := range []func() ([]byte, error){
		func() ([]byte, error) { return l.Next(10) },
		d.FinMessage,
		func() ([]byte, error) { return d.History("app", nil) },
		func() ([]byte, error) {
			d.Evict(8)
			return d.History("app", map[string][]string{"from": {"2"}, "to": {"10"}})
		},
		func() ([]byte, error) {
			return stream.AppendBatchMeta(nil, &streampb.Batch{Gaps: []*streampb.Gap{{SourceId: "app", From: 10, To: 12, Count: 2, ClassCounts: []uint64{2}}, {}}})
		},
	} {
		msg, err := message()
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, msg)
	}
	return append(seeds, nil, []byte{0x0a})
}

// drainAll takes everything the tails have, as a flush would.
func drainAll(t *testing.T, hub *Hub, tails []*Tail) {
	m := maker{budget: hub.budget}
	for _, tail := range tails {
		for entries := tail.q.take(nil, 1<<20); len(entries) > 0; entries = tail.q.take(nil, 1<<20) {
			for _, e := range entries {
				if e.lost != nil {
					f, err := m.make(e.lost.spec(), nobody{})
					if err != nil {
						t.Fatal(err)
					}
					e.f = f
				}
				if _, _, err := stream.SplitBatch(e.f.buf.Bytes()); err != nil {
					t.Fatalf("a tail would get nonsense: %v", err)
				}
				e.f.release()
			}
		}
		tail.Close()
	}
	hub.hello.release()
	if used := hub.budget.used.Load(); used != 0 {
		t.Fatalf("%d bytes are held for nobody", used)
	}
}

// FuzzLinkMessage lets a Doppler say anything: the Hub takes it or refuses it,
// and what its tails get can be read.
func FuzzLinkMessage(f *testing.F) {
	for _, seed := range seedMessages(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		hub, tails, _ := fuzzHub(t)
		meta, records, err := stream.SplitBatch(msg)
		var b streampb.Batch
		if err != nil || stream.UnmarshalMeta(meta, &b) != nil {
			return
		}
		if err := hub.Batch("d:1", &b, records); err != nil && !errors.Is(err, errMalformed) {
			t.Fatal(err)
		}
		drainAll(t, hub, tails)
	})
}

// FuzzHistoryAnswer does the same with the answer to a read.
func FuzzHistoryAnswer(f *testing.F) {
	for _, seed := range seedMessages(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		hub, tails, read := fuzzHub(t)
		hub.Answer(*read, body, nil)
		drainAll(t, hub, tails)
	})
}
