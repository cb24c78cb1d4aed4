package logcache

import (
	"encoding/json"
	"fmt"
	"net/http"
)

// held is what a Doppler holds of its sources.
type held struct {
	Doppler string `json:"doppler"`
	Limits  struct {
		Count uint64 `json:"count"`
		Bytes uint64 `json:"bytes"`
		Age   string `json:"age"`
	} `json:"limits"`
	Sources map[string]source `json:"sources"`
}

type source struct {
	Count   int64 `json:"count"`
	Expired int64 `json:"expired"`
	Oldest  int64 `json:"oldest"`
	Newest  int64 `json:"newest"`
}

// metaInfo is a source as clients get it: zeros are left out.
type metaInfo struct {
	Count   int64 `json:"count,omitempty,string"`
	Expired int64 `json:"expired,omitempty,string"`
	Oldest  int64 `json:"oldestTimestamp,omitempty,string"`
	Newest  int64 `json:"newestTimestamp,omitempty,string"`
}

func (m *metaInfo) add(s source) {
	if m.Count == 0 {
		m.Oldest, m.Newest = s.Oldest, s.Newest
	}
	m.Count += s.Count
	m.Expired += s.Expired
	m.Oldest, m.Newest = min(m.Oldest, s.Oldest), max(m.Newest, s.Newest)
}

// LimitsHeader says what each Doppler keeps of a source. It is a header, for
// clients refuse a body with keys they do not know.
const LimitsHeader = "Loggregator-Source-Limits"

// meta serves what is held of each source that the caller may see.
func (c *LogCache) meta(w http.ResponseWriter, r *http.Request) {
	visible, ok := c.cfg.Access.Meta(w, r)
	if !ok {
		return
	}
	if !c.reads.enter(r.Context()) {
		tooMany(c.reads.size(), "reads are under way").answer(w)
		return
	}
	answers := c.cfg.Held(r.Context())
	c.reads.leave()
	if len(answers.Bodies) == 0 {
		failure{http.StatusBadGateway, unavailable, fmt.Sprintf("none of %d Dopplers has answered", answers.dopplers())}.answer(w)
		return
	}
	answers.say(w.Header())
	meta := map[string]*metaInfo{}
	for _, body := range answers.Bodies {
		var h held
		if err := json.Unmarshal(body, &h); err != nil {
			c.log.Error("what a Doppler holds makes no sense", "error", err)
			continue
		}
		if w.Header().Get(LimitsHeader) == "" {
			w.Header().Set(LimitsHeader, fmt.Sprintf("count=%d; bytes=%d; age=%s", h.Limits.Count, h.Limits.Bytes, h.Limits.Age))
		}
		h.addTo(meta, visible)
	}
	body, err := appendText(nil, map[string]any{"meta": meta})
	if err != nil {
		badRequest("%v", err).answer(w)
		return
	}
	if !c.send(w, plain, append(body, '\n')) {
		tooMany(maxUnsent, "bytes of answers wait for their clients").answer(w)
	}
}

func (h *held) addTo(meta map[string]*metaInfo, visible func(string) bool) {
	for id, s := range h.Sources {
		if s.Count == 0 || !visible(id) {
			continue
		}
		if meta[id] == nil {
			meta[id] = &metaInfo{}
		}
		meta[id].add(s)
	}
}
