package reader

import (
	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// Start is where a reader begins. The zero value is at head.
type Start struct {
	Place   Place
	Offset  uint64 // with PlaceOffset
	Matched uint64 // with PlaceOffset: matching envelopes before Offset
	Seen    uint64 // offsets below it may have been received before
	// Lost, unless unspecified, is told as a gap of unknown size.
	Lost streampb.Gap_Reason
}

// Place is a kind of start.
type Place int

// The places a reader can start from.
const (
	PlaceHead   Place = iota // what is appended from now on
	PlaceOrigin              // offset 0 of this epoch
	PlaceOffset              // where a cursor says
)

// StartFrom finds the place for a reader that comes with a cursor, nil if it
// has none. origin says that the reader existed before this Doppler was found;
// young that the epoch is so new that nobody can tell whether it did.
func StartFrom(cursor *streampb.Cursor, doppler string, epoch uint64, origin, young bool) Start {
	known := false
	other := Start{}
	for _, e := range cursor.GetEntries() {
		known = true
		if e.GetDoppler() != doppler {
			continue
		}
		if e.GetEpoch() == epoch {
			return Start{Place: PlaceOffset, Offset: e.GetOffset(), Matched: e.GetMatched(), Seen: e.GetSeen()}
		}
		if !e.GetFinished() {
			other.Lost = streampb.Gap_DOPPLER_LOST
		}
	}
	if known || origin || young {
		other.Place = PlaceOrigin
	}
	return other
}

// resolved is where a reader begins.
type resolved struct {
	next    uint64 // its first offset
	matched uint64 // matching envelopes before it
	seen    uint64 // offsets below it may have been received before
	sure    bool   // matched can be compared with the ring's counters
	noV1    uint64 // of matched, those that have no form in the old protocol
	blurred bool   // noV1 is not known
}

// resolve finds where to start. An offset that was never given starts at
// head, and s.Lost says so.
func (s *Start) resolve(log *ring.Ring, f ring.Filter) resolved {
	head, counts := log.Appended(f)
	switch {
	case s.Place == PlaceOrigin:
		_, sure := matchedBefore(log, f, 0, 0)
		return resolved{sure: sure}
	case s.Place == PlaceOffset && s.Offset <= head:
		matched, sure := matchedBefore(log, f, s.Offset, s.Matched)
		return resolved{next: s.Offset, matched: min(matched, counts.Total()), seen: min(s.Seen, head), sure: sure, blurred: s.Offset > 0}
	case s.Place == PlaceOffset:
		s.Lost = streampb.Gap_CURSOR_UNKNOWN
	}
	return resolved{next: head, matched: counts.Total(), sure: true, noV1: counts.Sum(envelope.NoV1)}
}

// matchedBefore returns how many of the envelopes that the counters of f count
// lie before off, for a cursor that says matched. The two differ when a source
// was forgotten since the cursor was made and its counters began anew.
func matchedBefore(log *ring.Ring, f ring.Filter, off, matched uint64) (n uint64, sure bool) {
	if !log.ForgottenSince(0) {
		return matched, true
	}
	anew := 0
	for _, s := range f.Of {
		if s.BornAt() >= off {
			anew++
		}
	}
	switch {
	case anew == 0:
		return matched, true
	case f.Mask != 0: // how many of it lay below off nobody can tell
		return matched, false
	case off >= log.Oldest():
		for _, s := range f.Of {
			_, c := log.CountsAt(s.Source, off)
			n += c.Sum(s.Mask)
		}
		return n, off >= log.Oldest()
	case anew == len(f.Of):
		return 0, !log.ForgottenSince(off)
	}
	return matched, false
}
