package reader

import (
	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// account counts the bytes a watched source asks of a link that is behind.
func (l *Link) account(w *watch, size int) {
	if !l.behind {
		return
	}
	if w.demand == 0 {
		l.active = append(l.active, w)
	}
	w.demand += uint64(size)
	l.demand += uint64(size)
}

// share decides, between two batches, whether the link is behind and which
// sources it skips: those that ask for more than the fair share of the bytes,
// from more than a quarter of the ring behind until less than an eighth.
func (l *Link) share() {
	lag, capacity := l.log.Head()-l.next, l.log.CapacityOffsets()
	switch {
	case !l.behind && lag > capacity/4:
		l.behind = true
	case l.behind && lag < capacity/8:
		l.behind = false
		l.endPeriod(false)
		return
	}
	if l.behind && l.demand >= uint64(l.cfg.ShareBytes) {
		l.endPeriod(true)
	}
	l.flushAllSkipped()
}

// flushAllSkipped tells what was left out so far.
func (l *Link) flushAllSkipped() {
	for _, w := range l.skipping {
		l.flushSkipped(w)
	}
}

// endPeriod sets who is skipped and starts counting anew.
func (l *Link) endPeriod(skip bool) {
	for _, w := range l.skipping {
		l.flushSkipped(w)
		w.skip = false
	}
	l.skipping = l.skipping[:0]
	fair := uint64(0)
	if len(l.active) > 0 {
		fair = l.demand / uint64(len(l.active))
	}
	for _, w := range l.active {
		if skip && w.demand > fair+fair/4 {
			w.skip = true
			l.skipping = append(l.skipping, w)
		}
		w.demand = 0
	}
	l.active = l.active[:0]
	l.demand = 0
}

// skipped counts an envelope that the link leaves out.
func (l *Link) skipped(w *watch, off uint64, class envelope.Class) {
	if w.missed == nil {
		w.missed = &Gap{Source: w.source.ID(), From: off, Classes: &ring.Counts{}, Reason: streampb.Gap_OVER_SHARE, watch: w}
	}
	w.missed.To = off + 1
	w.missed.Count++
	w.missed.Classes[class]++
}

// flushSkipped tells what was left out of a source so far.
func (l *Link) flushSkipped(w *watch) {
	if w.missed != nil {
		l.tell(w.missed)
		w.missed = nil
	}
}
