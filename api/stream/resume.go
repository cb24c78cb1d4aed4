package stream

import (
	"cmp"
	"maps"
	"slices"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Resume follows the metadata of a stream and knows the cursor from which it
// can be continued. It is a synchronous state machine: no goroutine, clock or
// socket. It must not be used concurrently.
type Resume struct {
	tail    bool
	entries map[string]*streampb.CursorEntry // by Doppler
}

// NewFirehoseResume follows a subscription. Its cursor is the group's
// low-water mark: nothing that is not acked is skipped, and what may come
// again is marked redelivered.
func NewFirehoseResume(from *streampb.Cursor) *Resume { return newResume(from, false) }

// NewTailResume follows the tail of a source. Its cursor is behind the last
// envelope received.
func NewTailResume(from *streampb.Cursor) *Resume { return newResume(from, true) }

func newResume(from *streampb.Cursor, tail bool) *Resume {
	r := &Resume{tail: tail, entries: map[string]*streampb.CursorEntry{}}
	for _, e := range from.GetEntries() {
		r.entries[e.GetDoppler()] = &streampb.CursorEntry{
			Doppler: e.GetDoppler(), Epoch: e.GetEpoch(), Offset: e.GetOffset(),
			Matched: e.GetMatched(), Seen: e.GetSeen(), Finished: e.GetFinished(),
		}
	}
	return r
}

// Batch takes note of a batch that was received.
func (r *Resume) Batch(b *streampb.Batch) {
	if p := b.GetPosition(); p != nil && p.GetDoppler() != "" {
		r.position(p)
	}
	for _, f := range b.GetFins() {
		if e := r.entries[f.GetDoppler()]; e != nil && e.GetEpoch() == f.GetEpoch() {
			e.Finished = true
			e.Offset = f.GetEnd()
			e.Seen = max(e.GetSeen(), f.GetEnd())
		}
	}
}

func (r *Resume) position(p *streampb.Position) {
	e := r.entries[p.GetDoppler()]
	if e == nil || e.GetEpoch() != p.GetEpoch() {
		e = &streampb.CursorEntry{Doppler: p.GetDoppler(), Epoch: p.GetEpoch()}
		r.entries[p.GetDoppler()] = e
	}
	if r.tail {
		if next := p.GetNext(); next >= e.GetOffset() {
			e.Offset = next
			e.Matched = p.GetMatched() + uint64(p.GetCount())
		}
		return
	}
	// The mark moves on only; after a redelivery it can seem to go back.
	if low := p.GetLow(); low >= e.GetOffset() {
		e.Offset, e.Matched = low, p.GetLowMatched()
	}
	e.Seen = max(e.GetSeen(), lastOffset(p)+1, e.GetOffset())
}

// lastOffset returns the offset of the last envelope, or the one before first
// when there is none.
func lastOffset(p *streampb.Position) uint64 {
	last := p.GetFirst()
	if p.GetCount() == 0 {
		return last - 1
	}
	if d := p.GetDeltas(); len(d) > 0 {
		for _, n := range d {
			last += uint64(n)
		}
		return last
	}
	return last + uint64(p.GetCount()) - 1
}

// Forget drops what is known of a Doppler, so that it is read from its origin.
func (r *Resume) Forget(doppler string) { delete(r.entries, doppler) }

// Cursor returns the present place in every Doppler, ordered by name. It is
// the caller's.
func (r *Resume) Cursor() *streampb.Cursor {
	c := &streampb.Cursor{Version: 1}
	for _, name := range slices.SortedFunc(maps.Keys(r.entries), cmp.Compare[string]) {
		e := r.entries[name]
		c.Entries = append(c.Entries, &streampb.CursorEntry{
			Doppler: e.GetDoppler(), Epoch: e.GetEpoch(), Offset: e.GetOffset(),
			Matched: e.GetMatched(), Seen: e.GetSeen(), Finished: e.GetFinished(),
		})
	}
	return c
}
