package reader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// LinkConfig bounds a tail link. The zero value of a field means its default.
type LinkConfig struct {
	BatchEnvelopes int // 512
	BatchBytes     int // 64 KiB
	MaxWatches     int // 100,000
	ShareBytes     int // watched bytes after which it is decided anew who is skipped; 1 MiB, or a 32nd of a small ring
}

func (c LinkConfig) withDefaults(ringBytes int64) LinkConfig {
	if c.BatchEnvelopes <= 0 {
		c.BatchEnvelopes = 512
	}
	if c.BatchBytes <= 0 {
		c.BatchBytes = 64 << 10
	}
	if c.MaxWatches <= 0 {
		c.MaxWatches = 100_000
	}
	if c.ShareBytes <= 0 {
		// From a quarter of the ring behind on, there has to be time to decide.
		c.ShareBytes = int(min(1<<20, ringBytes/32))
	}
	return c
}

// Link is a tail link: one cursor in the ring that serves a changing set of
// watched sources.
type Link struct {
	cfg LinkConfig
	log *ring.Ring

	start    uint64
	next     uint64
	watches  map[uint32]*watch
	byNumber []*watch // by number of the source
	bySource map[string]*watch
	replies  []*streampb.Watching // to go out before the next envelopes
	gaps     []*Gap               // likewise
	held     bool                 // reads nothing: more watches of its start are to come

	behind   bool     // sources over their share are skipped
	demand   uint64   // bytes of watched envelopes in this accounting period
	active   []*watch // watches with demand in this period
	skipping []*watch // watches over their share
	runs     []run
	marks    []uint32
	class    []byte
	settling settling

	sent    uint64
	dropped uint64
}

type watch struct {
	id     uint32
	source *ring.Source
	counts ring.Counts // its envelopes before the link's cursor
	demand uint64
	skip   bool
	missed *Gap // being collected while it is skipped
	gone   bool // removed
}

// settling is scratch of settle.
type settling struct {
	watches []*watch
	sources []*ring.Source
	gone    []ring.Counts
}

// LinkBatch is what a link has to say next. Pieces are valid until Release.
type LinkBatch struct {
	Watching []*streampb.Watching
	Gaps     []*Gap
	First    uint64
	Count    int
	Deltas   []uint32
	Watches  []uint32
	Classes  []byte
	Next     uint64
	Pieces   [][]byte
	Bytes    int

	chunk ring.Chunk
	held  bool
}

// Release lets the ring have its memory back.
func (b *LinkBatch) Release() {
	if b.held {
		b.chunk.Release()
		b.held = false
	}
}

// NewLink makes a link whose cursor starts at start. Close has to follow.
func NewLink(log *ring.Ring, cfg LinkConfig, start Start) *Link {
	l := &Link{
		cfg: cfg.withDefaults(log.Stats().Budget), log: log,
		watches: map[uint32]*watch{}, bySource: map[string]*watch{},
	}
	l.next = start.resolve(log, ring.Filter{}).next
	l.start = l.next
	if start.Lost != streampb.Gap_REASON_UNSPECIFIED {
		l.gaps = append(l.gaps, &Gap{Precision: streampb.Gap_UNKNOWN, Reason: start.Lost})
	}
	return l
}

// Close lets go of the watched sources.
func (l *Link) Close() {
	for id := range l.watches {
		l.Remove(id)
	}
}

// Resume says where a source was left when its link broke. Counts are the
// source's envelopes below the link's start, received or told as gaps.
type Resume struct{ Counts ring.Counts }

// Add watches a source from the link's cursor on. The answer, also a refusal,
// comes in order with the next batch. With resume the source was watched
// before the link's start and what it has missed since is told.
func (l *Link) Add(request uint64, id uint32, source string, resume *Resume) {
	reply := &streampb.Watching{Request: request, SourceId: source, Watch: id, Join: l.next}
	l.replies = append(l.replies, reply)
	switch {
	case l.watches[id] != nil:
		reply.Error = fmt.Sprintf("watch %d is in use", id)
		return
	case l.bySource[source] != nil:
		reply.Error = fmt.Sprintf("source id %q is watched already", source)
		return
	case len(l.watches) >= l.cfg.MaxWatches:
		reply.Error = fmt.Sprintf("%d sources are watched, the limit is %d", len(l.watches), l.cfg.MaxWatches)
		return
	}
	w := &watch{id: id, source: l.log.Ref(source)}
	l.settle()
	at, counts := l.log.CountsAt(w.source, l.next)
	w.counts = counts
	if resume != nil {
		l.missedSince(w, resume, at)
	}
	l.watches[id], l.bySource[source] = w, w
	number := int(w.source.Number())
	if number >= len(l.byNumber) {
		l.byNumber = append(l.byNumber, make([]*watch, number+1-len(l.byNumber))...)
	}
	l.byNumber[number] = w
	reply.Join, reply.ClassCounts = at, classCounts(&w.counts)
	if at > l.next {
		// The ring moved on just now; the others are settled to there.
		l.settle()
	}
}

// missedSince tells what a resumed watch has missed below at.
func (l *Link) missedSince(w *watch, resume *Resume, at uint64) {
	gap := &Gap{Source: w.source.ID(), From: l.start, To: at, Reason: streampb.Gap_EVICTED, watch: w}
	before := resume.Counts
	if w.source.BornAt() >= l.start {
		// The counters began after the link broke.
		before = ring.Counts{}
		if l.log.ForgottenSince(l.start) {
			gap.Precision = streampb.Gap_AT_LEAST
		}
	}
	missed := ring.Counts{}
	for c := range missed {
		if w.counts[c] < before[c] {
			l.tell(&Gap{Source: gap.Source, Precision: streampb.Gap_UNKNOWN, Reason: gap.Reason, watch: w})
			return
		}
		missed[c] = w.counts[c] - before[c]
		gap.Count += missed[c]
	}
	if gap.Count > 0 || gap.Precision != streampb.Gap_EXACT {
		gap.Classes = &missed
		l.tell(gap)
	}
}

// Remove ends a watch; what it has missed and was not told of is forgotten.
// Unknown ids are ignored: the answer to a refused watch may still be on its
// way.
func (l *Link) Remove(id uint32) {
	w := l.watches[id]
	if w == nil {
		return
	}
	w.missed, w.gone = nil, true
	delete(l.watches, id)
	delete(l.bySource, w.source.ID())
	l.byNumber[w.source.Number()] = nil
	l.log.Unref(w.source)
}

// Hold keeps the cursor where it is, but for what the ring lets go of, until
// it is called with false: watches added meanwhile join at the link's start.
func (l *Link) Hold(held bool) { l.held = held }

// Appended says that the ring has grown. It reports whether Next has something
// to say.
func (l *Link) Appended() bool {
	if len(l.replies) > 0 || len(l.gaps) > 0 {
		return true
	}
	l.settle()
	if l.held {
		return len(l.gaps) > 0
	}
	for {
		c, err := l.log.Acquire(l.next)
		if err != nil {
			return len(l.gaps) > 0
		}
		i, n := 0, c.Len()
		if len(l.watches) == 0 {
			i = n
		}
		for i < n && l.watchOf(c.Source(i)) == nil {
			i++
		}
		c.Release()
		l.next += uint64(i)
		if i < n {
			return true
		}
	}
}

// watchOf returns the watch of a source by its number, or nil.
func (l *Link) watchOf(number uint32) *watch {
	if int(number) >= len(l.byNumber) {
		return nil
	}
	return l.byNumber[number]
}

// Watches is the number of watched sources.
func (l *Link) Watches() int { return len(l.watches) }

// Cursor is the next offset the link will look at.
func (l *Link) Cursor() uint64 { return l.next }

// Counters returns how many envelopes the link has sent and how many it has
// told as gaps.
func (l *Link) Counters() (sent, dropped uint64) { return l.sent, l.dropped }

// Drained tells whether everything appended was looked at and told.
func (l *Link) Drained() bool {
	for _, w := range l.skipping {
		if w.missed != nil {
			return false
		}
	}
	return !l.held && len(l.replies) == 0 && len(l.gaps) == 0 && l.next >= l.log.Head()
}

// maxMeta bounds the answers and gaps told in one batch.
const maxMeta = 1000

// Next returns the next batch. More says to call again at once; without it and
// with an empty batch there is nothing to say until the ring grows.
func (l *Link) Next() (b LinkBatch, more bool) {
	l.settle()
	l.share()
	b.First, b.Next = l.next, l.next
	if n := min(len(l.replies), maxMeta); n > 0 {
		b.Watching, l.replies = l.replies[:n:n], l.replies[n:]
	}
	if len(l.replies) > 0 {
		return b, true
	}
	if b.Gaps = l.takeGaps(); l.held || len(l.gaps) > 0 {
		return b, len(l.gaps) > 0
	}
	more = l.read(&b)
	if b.Count == 0 {
		l.flushAllSkipped()
		if len(b.Gaps) == 0 {
			b.Gaps = l.takeGaps()
		}
		more = more || len(l.gaps) > 0
	}
	return b, more
}

// takeGaps returns the next gaps to be told, as many as may go into a batch.
func (l *Link) takeGaps() []*Gap {
	l.gaps = slices.DeleteFunc(l.gaps, func(g *Gap) bool { return g.watch != nil && g.watch.gone })
	n := min(len(l.gaps), maxMeta)
	gaps := l.gaps[:n:n]
	l.gaps = l.gaps[n:]
	if len(l.gaps) == 0 {
		l.gaps = nil
	}
	return gaps
}

// read collects the envelopes of a batch.
func (l *Link) read(b *LinkBatch) (more bool) {
	for looked := 0; looked < maxLook; {
		c, err := l.log.Acquire(l.next)
		if errors.Is(err, ring.ErrEvicted) {
			return true
		}
		if err != nil {
			return false
		}
		n := l.scan(c, b)
		l.next += uint64(n)
		b.Next = l.next
		looked += n
		if b.Count > 0 {
			b.chunk, b.held = c, true
			l.sent += uint64(b.Count)
			return true
		}
		c.Release()
	}
	return true
}

// scan walks c, counts what is watched and collects what is not skipped. It
// returns how far it went.
func (l *Link) scan(c ring.Chunk, b *LinkBatch) int {
	l.runs, l.marks, l.class = l.runs[:0], l.marks[:0], l.class[:0]
	n, i := min(c.Len(), maxLook), 0
	if len(l.watches) == 0 {
		return n
	}
	for ; i < n; i++ {
		w := l.watchOf(c.Source(i))
		if w == nil {
			continue
		}
		size := c.Size(i, i+1)
		if !w.skip && b.Count > 0 && (b.Count == l.cfg.BatchEnvelopes || b.Bytes+size > l.cfg.BatchBytes) {
			break
		}
		l.account(w, size)
		class := c.Class(i)
		if w.skip {
			l.skipped(w, c.First+uint64(i), class)
			w.counts[class]++
			continue
		}
		w.counts[class]++
		b.Count++
		b.Bytes += size
		l.marks = append(l.marks, w.id)
		l.class = append(l.class, byte(class))
		if k := len(l.runs) - 1; k >= 0 && l.runs[k].j == i {
			l.runs[k].j++
		} else {
			l.runs = append(l.runs, run{i, i + 1})
		}
	}
	if b.Count > 0 {
		b.First = c.First + uint64(l.runs[0].i)
		b.Deltas = deltas(l.runs, b.Count)
		b.Watches, b.Classes = l.marks, l.class
		b.Pieces, _ = pieces(c, l.runs)
	}
	return i
}

// settle turns what the ring has evicted into gaps of the watched sources.
func (l *Link) settle() {
	if l.next >= l.log.Oldest() {
		return
	}
	x := &l.settling
	x.watches, x.sources = x.watches[:0], x.sources[:0]
	for _, w := range l.watches {
		x.watches, x.sources = append(x.watches, w), append(x.sources, w.source)
	}
	x.gone = slices.Grow(x.gone[:0], len(x.watches))[:len(x.watches)]
	oldest := l.log.EvictedOf(x.sources, func(i int, c *ring.Counts) { x.gone[i] = *c })
	if l.next >= oldest {
		return
	}
	for i, w := range x.watches {
		if w.counts == x.gone[i] {
			continue
		}
		l.flushSkipped(w)
		missed := ring.Counts{}
		for c := range missed {
			missed[c] = x.gone[i][c] - w.counts[c]
		}
		w.counts = x.gone[i]
		l.tell(&Gap{
			Source: w.source.ID(), From: l.next, To: oldest, Reason: streampb.Gap_EVICTED,
			Count: missed.Sum(envelope.AllClasses), Classes: &missed, watch: w,
		})
	}
	l.next = oldest
}

func (l *Link) tell(gap *Gap) {
	l.dropped += gap.Count
	l.gaps = append(l.gaps, gap)
}
