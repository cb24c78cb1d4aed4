// Package recent serves the plain reads of old clients: the newest log lines
// and container metrics of an app, as dropsonde envelopes in a multipart body
// (protocol/03, section 4).
package recent

import (
	"cmp"
	"context"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// Config is what New needs. Every field has to be set.
type Config struct {
	// Allow tells whether the request may read an app; if not, it has answered.
	Allow func(w http.ResponseWriter, r *http.Request, app string) (ok bool)
	// Ask asks every Doppler for a history and returns the bodies of those that
	// answered in time, and how many there are.
	Ask func(ctx context.Context, app string, query url.Values) (answers [][]byte, dopplers int)
	Max int // largest limit=
}

// Reads are the two handlers. They expect the app in the path value id.
type Reads struct {
	cfg Config
	log *slog.Logger
}

// New returns Reads.
func New(cfg Config, log *slog.Logger) *Reads { return &Reads{cfg, log} }

const (
	defaultLimit = 1000
	maxInstances = 10_000          // container metrics that are looked at
	metricAge    = 2 * time.Minute // older ones are of instances that are gone
)

// Logs serves the newest log lines, newest first. A limit that makes no sense
// is ignored.
func (s *Reads) Logs(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	w.Header().Set("Access-Control-Allow-Credentials", "true")
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 0 {
		limit = defaultLimit
	}
	limit = min(limit, s.cfg.Max)
	list, ok := s.newest(w, r, envelope.Log, limit, 0)
	if ok {
		s.answer(w, list[:min(limit, len(list))])
	}
}

// ContainerMetrics serves the newest metric of each instance.
func (s *Reads) ContainerMetrics(w http.ResponseWriter, r *http.Request) {
	list, ok := s.newest(w, r, envelope.ContainerGauge, min(maxInstances, s.cfg.Max), time.Now().Add(-metricAge).UnixNano())
	if !ok {
		return
	}
	seen := map[int32]bool{}
	s.answer(w, slices.DeleteFunc(list, func(o old) bool {
		index, isMetric := dropsonde.ContainerInstance(o.v1)
		gone := !isMetric || seen[index]
		seen[index] = true
		return gone
	}))
}

// old is an envelope in the old protocol.
type old struct {
	time int64
	v1   []byte
}

// newest asks the Dopplers and puts together what they say, newest first.
func (s *Reads) newest(w http.ResponseWriter, r *http.Request, class envelope.Class, limit int, since int64) (list []old, ok bool) {
	app := r.PathValue("id")
	if !s.cfg.Allow(w, r, app) {
		return nil, false
	}
	q := url.Values{"class": {class.String()}, "limit": {strconv.Itoa(max(limit, 1))}}
	if since > 0 {
		q.Set("since", strconv.FormatInt(since, 10))
	}
	answers, dopplers := s.cfg.Ask(r.Context(), app, q)
	if len(answers) == 0 {
		http.Error(w, "none of "+strconv.Itoa(dopplers)+" Dopplers has answered", http.StatusInternalServerError)
		return nil, false
	}
	var codec dropsonde.Encoder
	for _, body := range answers {
		_, records, err := stream.SplitBatch(body)
		if err != nil {
			s.log.Error("history makes no sense", "source_id", app, "error", err)
			continue
		}
		for env := range envelope.Walk(records) {
			if v1, ends := codec.AppendV1(nil, nil, env); len(ends) == 1 {
				list = append(list, old{envelope.Timestamp(env), v1})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b old) int { return cmp.Compare(b.time, a.time) })
	return list, true
}

// answer writes parts without headers. The boundary stands unquoted in the
// Content-Type: clients look for it with no more than a search for "boundary=".
func (s *Reads) answer(w http.ResponseWriter, list []old) {
	m := multipart.NewWriter(w)
	w.Header().Set("Content-Type", "multipart/x-protobuf; boundary="+m.Boundary())
	for _, o := range list {
		part, err := m.CreatePart(nil)
		if err == nil {
			_, err = part.Write(o.v1)
		}
		if err != nil {
			return // the client has left
		}
	}
	_ = m.Close()
}
