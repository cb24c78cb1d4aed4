package egress

import (
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// ages tells how old envelopes of the ring are.
type ages struct {
	mu   sync.Mutex // a leaf
	line slow.Timeline
}

func (a *ages) note(now time.Time, log *ring.Ring) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.line.Note(now, log.Oldest(), log.Head())
}

func (a *ages) of(now time.Time, off uint64) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.line.Age(now, off)
}

// meanBytes is what an envelope of the ring has on average, with tag and length.
func (s *Server) meanBytes() uint64 {
	st := s.log.Stats()
	if n := st.Head - st.Oldest; n > 0 {
		return st.HeldBytes / n
	}
	return 0
}

// lag is how far the group is behind. mean is that of meanBytes.
func (g *group) lag(now time.Time, s *Server, mean uint64) slow.Lag {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.lagLocked(now, s, mean, g.state.Account())
}

// lagLocked is lag of an account just taken. mu is held.
func (g *group) lagLocked(now time.Time, s *Server, mean uint64, a reader.Account) slow.Lag {
	l := slow.Lag{Envelopes: a.Lag + a.Again, Dropped: a.Dropped}
	l.Bytes = l.Envelopes * mean
	if off, waits := g.state.Waits(); waits {
		l.Age = s.ages.of(now, off)
	}
	return l
}

// lag is how far the link is behind. Where its cursor stands there may be
// nothing that is watched: it is an upper bound.
func (l *linkSession) lag(now time.Time, head, mean uint64) slow.Lag {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == nil {
		return slow.Lag{}
	}
	at := l.state.Cursor()
	lag := slow.Lag{Envelopes: head - min(head, at)}
	_, lag.Dropped = l.state.Counters()
	if lag.Bytes = lag.Envelopes * mean; lag.Envelopes > 0 {
		lag.Age = l.server.ages.of(now, at)
	}
	return lag
}
