package egress

import (
	"net/http"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// held is what is held of one source, in ring and recent store.
type held struct {
	// Count is how many envelopes, Expired how many there were before.
	Count   uint64 `json:"count"`
	Expired uint64 `json:"expired"`
	// Oldest and Newest are the timestamps of the first and of the last one
	// that came, in Unix nanoseconds.
	Oldest int64 `json:"oldest"`
	Newest int64 `json:"newest"`
}

// limits is what may be held of a source.
type limits struct {
	Count int    `json:"count"` // newest logs, beyond the ring
	Bytes int64  `json:"bytes"` // of ring and recent store, for all sources
	Age   string `json:"age"`   // 0s for any
}

// serveHeld says what is held of every source, or of those asked for.
func (s *Server) serveHeld(w http.ResponseWriter, r *http.Request) {
	select {
	case s.reads <- struct{}{}:
		defer func() { <-s.reads }()
	case <-r.Context().Done():
		return
	}
	sources := s.held()
	if only := r.URL.Query()["source_id"]; only != nil {
		all := sources
		sources = make(map[string]*held, len(only))
		for _, id := range only {
			if h := all[id]; h != nil {
				sources[id] = h
			}
		}
	}
	answerJSON(w, map[string]any{
		"doppler": s.cfg.Doppler, "epoch": s.cfg.Epoch, "sources": sources,
		"limits": limits{Count: s.cfg.RecentLogs, Bytes: s.cfg.HeldBytes, Age: s.cfg.RecentAge.String()},
	})
}

func (s *Server) held() map[string]*held {
	sources, appended := make(map[string]*held), make(map[string]uint64)
	ends := s.log.Ends()
	s.log.EachSource(func(st ring.SourceStats) {
		appended[st.ID] = st.Envelopes
		if e, ok := ends[st.ID]; ok && st.Held > 0 {
			sources[st.ID] = &held{Count: st.Held, Oldest: e.Oldest, Newest: e.Newest}
		}
	})
	s.recent.EachSource(s.totals, func(id string, envelopes int, oldest, newest int64) {
		h := sources[id]
		if h == nil {
			h = &held{Newest: newest}
			sources[id] = h
		}
		h.Oldest = oldest
		h.Count += uint64(envelopes)
	})
	oldest := s.oldestServed(time.Now())
	for id, h := range sources {
		h.Expired = appended[id] - min(h.Count, appended[id])
		h.Oldest = max(h.Oldest, oldest)
		if h.Newest < oldest {
			delete(sources, id)
		}
	}
	return sources
}

// totals is how many envelopes of a source came, by class.
func (s *Server) totals(id string) (counts [envelope.NumClasses]uint64) {
	if src, ok := s.log.Find(id); ok {
		counts = s.log.Totals(src)
	}
	return counts
}
