package relay

import (
	"slices"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// standing is where a client stands in each Doppler, for the cursor of the
// next dial. It goes by the name of the Doppler, which may come back at another
// address. It is a plain state machine.
type standing struct {
	first   []*streampb.CursorEntry // the cursor the client has come with
	entries []*streampb.CursorEntry // what is known since, one per Doppler
	lost    map[string]bool         // Dopplers whose loss was told
}

func (s *standing) entry(doppler string) *streampb.CursorEntry {
	for _, e := range s.entries {
		if e.Doppler == doppler {
			return e
		}
	}
	return nil
}

// note takes what a Doppler has said about its group.
func (s *standing) note(b *streampb.Batch) {
	if p := b.GetPosition(); p.GetDoppler() != "" {
		e := s.entry(p.GetDoppler())
		if e == nil {
			e = &streampb.CursorEntry{Doppler: p.GetDoppler()}
			s.entries = append(s.entries, e)
		}
		if e.Epoch != p.GetEpoch() {
			e.Epoch, e.Offset, e.Matched, e.Seen, e.Finished = p.GetEpoch(), 0, 0, 0, false
		}
		if s.lost[e.Doppler] {
			e.Finished = false // it is there after all
			delete(s.lost, e.Doppler)
		}
		if p.GetLow() >= e.Offset {
			e.Offset, e.Matched = p.GetLow(), p.GetLowMatched()
		}
		e.Seen = max(e.Seen, p.GetNext())
	}
	for _, f := range b.GetFins() {
		if e := s.entry(f.GetDoppler()); e != nil && e.Epoch == f.GetEpoch() {
			e.Finished = true
		}
	}
}

// lose says that the client is told that a Doppler's epoch, which it returns, is
// lost. Its place is kept, should that Doppler come back.
func (s *standing) lose(doppler string) (epoch uint64) {
	e := s.entry(doppler)
	if e == nil {
		return 0
	}
	if !e.Finished {
		if s.lost == nil {
			s.lost = map[string]bool{}
		}
		e.Finished, s.lost[doppler] = true, true
	}
	return e.Epoch
}

// cursor is the string for a dial; empty when nothing is known.
func (s *standing) cursor() string {
	c := &streampb.Cursor{Version: 1, Entries: slices.Clone(s.entries)}
	for _, e := range s.first {
		if s.entry(e.Doppler) == nil {
			c.Entries = append(c.Entries, e)
		}
	}
	if len(c.Entries) == 0 {
		return ""
	}
	return stream.EncodeCursor(c)
}

// debt is what a member owes its Doppler on one connection: Sent, for what is
// in the client's socket. It is put together, for a message costs more than the
// envelopes it is about. It is a plain state machine.
type debt struct {
	lease uint64 // 0: nothing is owed
	bytes int    // since Sent was said
}

// add notes that a batch is in the client's socket.
func (d *debt) add(lease uint64, bytes int) {
	d.lease = lease
	d.bytes += bytes
}

// due tells whether it is time to pay: well before the Doppler has to wait.
func (d *debt) due(window int) bool { return d.lease != 0 && d.bytes >= window/4 }

// pay appends the Sent to dst, and nothing when nothing is owed.
func (d *debt) pay(dst []byte) []byte {
	if d.lease != 0 {
		dst = stream.AppendSent(dst, d.lease)
	}
	d.lease, d.bytes = 0, 0
	return dst
}
