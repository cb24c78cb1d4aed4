package reader

import (
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

// resolve returns the offset to start from, the matching envelopes before it,
// and the offset below which envelopes may have been received before. An
// offset that was never given starts at head, and s.Lost says so.
func (s *Start) resolve(log *ring.Ring, f ring.Filter) (next, matched, seen uint64) {
	head, appended := log.Appended(f)
	switch {
	case s.Place == PlaceOrigin:
		return 0, 0, 0
	case s.Place == PlaceOffset && s.Offset <= head:
		return s.Offset, min(s.Matched, appended), min(s.Seen, head)
	case s.Place == PlaceOffset:
		s.Lost = streampb.Gap_CURSOR_UNKNOWN
	}
	return head, appended, 0
}
