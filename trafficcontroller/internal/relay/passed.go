package relay

import (
	"iter"
	"math"
	"slices"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// passed is what a client of an older framing was given of one Doppler and that
// Doppler may hand out again, because the Sent for it got lost with a
// connection. Such a client could not tell that it has it already, so it is left
// out. It is a plain state machine.
type passed struct {
	epoch     uint64
	end       uint64               // no offset from here on was passed
	envelopes []stream.OffsetRange // first ones first
	gaps      []stream.OffsetRange // those with a place, as they were told
	kept      []byte               // scratch
}

// maxPassed bounds each list. Of what a Doppler has handed out and not heard of
// a window is full much sooner.
const maxPassed = 4096

// take takes note of a batch, and returns what of it the client has not been
// given. The result is valid until the next call.
func (p *passed) take(b *streampb.Batch, records []byte) (fresh []byte, count uint32, gaps []*streampb.Gap) {
	at := b.GetPosition()
	if at.GetDoppler() == "" {
		return records, at.GetCount(), b.GetGaps()
	}
	if p.epoch != at.GetEpoch() {
		*p = passed{epoch: at.GetEpoch(), kept: p.kept}
	}
	p.settled(at.GetLow())
	fresh, count = p.takeRecords(at, records)
	return fresh, count, p.takeGaps(b.GetGaps())
}

// settled forgets what the Doppler knows to be done with: all below low.
func (p *passed) settled(low uint64) {
	done := func(r stream.OffsetRange) bool { return r.Last < low }
	p.envelopes = slices.DeleteFunc(p.envelopes, done)
	p.gaps = slices.DeleteFunc(p.gaps, done)
}

func (p *passed) takeRecords(at *streampb.Position, records []byte) ([]byte, uint32) {
	count := at.GetCount()
	offsets, err := stream.ParseOffsets(at, int(count))
	if err != nil || count == 0 {
		return records, count // nobody can say what it is
	}
	if at.GetFirst() < p.end {
		records, count = p.leaveOut(offsets, records)
	}
	// What lies between two envelopes of a lease is never delivered.
	p.add(stream.OffsetRange{First: at.GetFirst(), Last: lastOffset(at)})
	return records, count
}

// lastOffset is the offset of the last envelope of a position that has some.
func lastOffset(p *streampb.Position) uint64 {
	if len(p.GetDeltas()) == 0 {
		return p.GetFirst() + uint64(p.GetCount()) - 1
	}
	last := p.GetFirst()
	for _, d := range p.GetDeltas() {
		last += uint64(d)
	}
	return last
}

// leaveOut returns the records that were not passed, and their number.
func (p *passed) leaveOut(offsets iter.Seq[uint64], records []byte) (kept []byte, count uint32) {
	p.kept = p.kept[:0]
	for offset := range offsets {
		_, rest, ok := envelope.Next(records)
		if !ok {
			break
		}
		if !p.has(offset) {
			p.kept = append(p.kept, records[:len(records)-len(rest)]...)
			count++
		}
		records = rest
	}
	return p.kept, count
}

func (p *passed) has(offset uint64) bool {
	return slices.ContainsFunc(p.envelopes, func(r stream.OffsetRange) bool { return r.First <= offset && offset <= r.Last })
}

func (p *passed) add(r stream.OffsetRange) {
	p.end = max(p.end, r.Last+1)
	if n := len(p.envelopes); n > 0 && p.envelopes[n-1].Last+1 == r.First {
		p.envelopes[n-1].Last = r.Last
		return
	}
	p.envelopes = bounded(append(p.envelopes, r))
}

// takeGaps leaves out the gaps that were told: a Doppler tells one again as it
// was.
func (p *passed) takeGaps(gaps []*streampb.Gap) []*streampb.Gap {
	fresh := gaps[:0:0]
	for _, gap := range gaps {
		if gap.GetTo() <= gap.GetFrom() || gap.GetTo() == math.MaxUint64 {
			fresh = append(fresh, gap)
			continue
		}
		place := stream.OffsetRange{First: gap.GetFrom(), Last: gap.GetTo() - 1}
		if slices.Contains(p.gaps, place) {
			continue
		}
		p.gaps = bounded(append(p.gaps, place))
		fresh = append(fresh, gap)
	}
	return fresh
}

// bounded drops the oldest of too many.
func bounded(list []stream.OffsetRange) []stream.OffsetRange {
	if len(list) > maxPassed {
		return slices.Delete(list, 0, len(list)-maxPassed)
	}
	return list
}
