package canary

import (
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// Path is a way on which envelopes come back.
type Path int

// The paths.
const (
	Tail Path = iota
	Firehose
	pathCount
)

// Paths are all of them.
func Paths() []Path { return []Path{Tail, Firehose} }

// String returns the name of a path.
func (p Path) String() string { return [...]string{"tail", "firehose"}[p] }

// GapKind is a kind of gaps, in the words of metrics.
type GapKind struct{ Reason, Precision string }

// GapCount is how many gaps of a kind were told, and how many envelopes they
// say are missing.
type GapCount struct{ Times, Missed uint64 }

// PathReport is what is known of a path.
type PathReport struct {
	Counts
	// Corrupt are envelopes that are not as they were made, Foreign those of
	// other canaries.
	Corrupt, Foreign uint64
	// Oldest is how long ago the oldest that is outstanding was sent.
	Oldest time.Duration
	Gaps   map[GapKind]GapCount
}

// LaneReport is what was sent on a lane.
type LaneReport struct {
	Addr                       string
	Emitted, Confirmed, Resent uint64
	// Up says that the Doppler was reachable when it was last tried.
	Up bool
}

// Book keeps the ledgers of all paths. Its methods may be called concurrently;
// none blocks.
type Book struct {
	// static
	mint    Mint
	start   time.Time
	observe func(Path, time.Duration)

	// guarded by mu
	mu    sync.Mutex
	paths [pathCount]pathBook
	lanes []laneBook
}

type pathBook struct {
	ledger *Ledger
	PathReport
	recent Spread // since it was last asked for
	whole  Spread
}

type laneBook struct {
	LaneReport
	joined [pathCount]bool
}

// BookConfig says what a Book is for.
type BookConfig struct {
	Mint Mint
	// Addrs has one for each lane.
	Addrs []string
	// Remember is how many numbers are remembered, and LostAfter how long one
	// is waited for.
	Remember  int
	LostAfter time.Duration
	// Observe is told how long each envelope was under way, with the Book
	// locked.
	Observe func(Path, time.Duration)
}

// NewBook returns an empty one.
func NewBook(c BookConfig) *Book {
	b := &Book{mint: c.Mint, start: time.Now(), observe: c.Observe}
	for _, addr := range c.Addrs {
		b.lanes = append(b.lanes, laneBook{LaneReport: LaneReport{Addr: addr}})
	}
	for p := range b.paths {
		b.paths[p].ledger = NewLedger(len(b.lanes), c.Remember, c.LostAfter)
		b.paths[p].Gaps = make(map[GapKind]GapCount)
	}
	return b
}

func (b *Book) now() time.Duration { return time.Since(b.start) }

// next returns the stamp of the next envelope of a lane; not ok when too many
// are outstanding to tell more of them apart.
func (b *Book) next(lane int) (s Stamp, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.paths {
		if b.paths[p].ledger.Full(lane) {
			return Stamp{}, false
		}
	}
	for p := range b.paths {
		s = Stamp{Lane: lane, Number: b.paths[p].ledger.Send(lane, b.now())}
	}
	b.lanes[lane].Emitted++
	return s, true
}

// Receive takes note of a batch that came on a path.
func (b *Book) Receive(p Path, batch *nozzle.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	at := b.now()
	for _, g := range batch.Gaps {
		b.paths[p].gap(g, batch.Position)
	}
	for id, encoded := range batch.All() {
		var e loggregatorv2.Envelope
		s, nature := Stamp{}, Corrupt
		if proto.Unmarshal(encoded, &e) == nil {
			if n, told := leftOut(&e); told {
				b.paths[p].gap(&streampb.Gap{Count: n, Reason: streampb.Gap_RATE_LIMITED}, batch.Position)
				continue
			}
			s, nature = b.mint.Check(&e)
		}
		b.take(p, s, nature, id, batch.Redelivered, at)
	}
}

// take takes note of one envelope. mu is held.
func (b *Book) take(p Path, s Stamp, nature Nature, id nozzle.ID, redelivered bool, at time.Duration) {
	path := &b.paths[p]
	switch {
	case nature == Corrupt || s.Lane >= len(b.lanes):
		path.Corrupt++
		return
	case nature == Foreign:
		path.Foreign++
		return
	case s.Number == 0:
		b.lanes[s.Lane].joined[p] = true
		return
	}
	took, first := path.ledger.Receive(Arrival{
		Lane: s.Lane, Number: s.Number, Place: Place{Doppler: id.Doppler, Epoch: id.Epoch},
		Offset: id.Offset, Redelivered: redelivered,
	}, at)
	if first {
		path.recent.Add(took)
		b.observe(p, took)
	}
}

// gap takes note of a gap told in a batch at a position, which may be nil.
func (p *pathBook) gap(g *streampb.Gap, at *streampb.Position) {
	place := Place{Doppler: g.GetDoppler(), Epoch: g.GetEpoch()}
	if place.Doppler == "" {
		place = Place{Doppler: at.GetDoppler(), Epoch: at.GetEpoch()}
	}
	kind := kindOf(g)
	n := p.Gaps[kind]
	n.Times++
	if g.GetPrecision() != streampb.Gap_UNKNOWN {
		n.Missed += g.GetCount()
	}
	p.Gaps[kind] = n
	p.ledger.Gap(Gap{Place: place, Count: g.GetCount(), Open: g.GetPrecision() != streampb.Gap_EXACT})
}

func kindOf(g *streampb.Gap) GapKind {
	k := GapKind{Reason: strings.ToLower(g.GetReason().String()), Precision: strings.ToLower(g.GetPrecision().String())}
	if g.GetReason() == streampb.Gap_REASON_UNSPECIFIED {
		k.Reason = "unspecified"
	}
	return k
}

// Expire looks what is lost. connected says which paths have a connection.
func (b *Book) Expire(connected func(Path) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.paths {
		there := connected(Path(p))
		b.paths[p].ledger.Expire(b.now(), func(lane int) bool { return !there || !b.lanes[lane].Up })
	}
}

// Finish gives up waiting for what is outstanding.
func (b *Book) Finish() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for p := range b.paths {
		b.paths[p].ledger.Finish(b.now())
	}
}

// Path returns what is known of a path.
func (b *Book) Path(p Path) PathReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.paths[p].PathReport
	r.Counts, r.Oldest = b.paths[p].ledger.Counts(), b.paths[p].ledger.Oldest(b.now())
	r.Gaps = make(map[GapKind]GapCount, len(r.Gaps))
	for kind, n := range b.paths[p].Gaps {
		r.Gaps[kind] = n
	}
	return r
}

// Lanes returns what was sent on each lane.
func (b *Book) Lanes() []LaneReport {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make([]LaneReport, len(b.lanes))
	for i := range b.lanes {
		all[i] = b.lanes[i].LaneReport
	}
	return all
}

// Latency returns how long envelopes were under way since the last call, and
// from the beginning.
func (b *Book) Latency(p Path) (recent, whole Spread) {
	b.mu.Lock()
	defer b.mu.Unlock()
	path := &b.paths[p]
	recent = path.recent
	path.whole.Join(&recent)
	path.recent = Spread{}
	return recent, path.whole
}

// Joined tells of each lane whether what is sent on it comes back on all
// paths.
func (b *Book) Joined(lane int) bool { return len(b.Missing(lane)) == 0 }

// Missing are the paths on which nothing of a lane has come yet.
func (b *Book) Missing(lane int) []Path {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Path
	for p, joined := range b.lanes[lane].joined {
		if !joined {
			all = append(all, Path(p))
		}
	}
	return all
}
