package logcache

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is a LogCache with its Dopplers, all in memory.
type stage struct {
	*LogCache
	dopplers   []*dopplertest.Doppler
	late, away int // of more Dopplers
	access     access
	seen       []string // endpoint and status of each answer
	asked      []url.Values
}

// access is by the value of Authorization; without users everything is open.
type access struct {
	users map[string]func(source string) bool
	named map[string][]string // apps of a name
}

func everything(string) bool { return true }

func (a access) user(w http.ResponseWriter, r *http.Request) (may func(string) bool, ok bool) {
	if a.users == nil {
		return everything, true
	}
	may, ok = a.users[r.Header.Get("Authorization")]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
	}
	return may, ok
}

func (a access) Source(w http.ResponseWriter, r *http.Request, id string) bool {
	may, ok := a.user(w, r)
	if ok && !may(id) {
		w.WriteHeader(http.StatusNotFound)
		return false
	}
	return ok
}

func (a access) Meta(w http.ResponseWriter, r *http.Request) (func(string) bool, bool) {
	return a.user(w, r)
}

func (a access) Query(w http.ResponseWriter, r *http.Request, sources []string) (map[string][]string, bool) {
	may, ok := a.user(w, r)
	read := map[string][]string{}
	for _, id := range sources {
		read[id] = append([]string{id}, a.named[id]...)
		if ok && !may(id) {
			w.WriteHeader(http.StatusNotFound)
			return nil, false
		}
	}
	return read, ok
}

func newStage(t testing.TB, dopplers int) *stage {
	t.Helper()
	s := &stage{}
	for i := range dopplers {
		s.dopplers = append(s.dopplers, &dopplertest.Doppler{Name: fmt.Sprint("doppler-", i), Epoch: 1})
	}
	ask := func(get func(d *dopplertest.Doppler) ([]byte, error)) Answers {
		a := Answers{Late: s.late, Away: s.away}
		for _, d := range s.dopplers {
			body, err := get(d)
			if err != nil {
				t.Errorf("a Doppler does not understand: %v", err)
				a.Late++
				continue
			}
			a.Bodies = append(a.Bodies, body)
		}
		return a
	}
	s.LogCache = New(Config{
		Access: &s.access, Encode: gateway.AppendJSON, Settle: time.Second, MaxReads: 4, MaxQueries: 2,
		History: func(_ context.Context, source string, q url.Values) Answers {
			s.asked = append(s.asked, q)
			return ask(func(d *dopplertest.Doppler) ([]byte, error) { return d.History(source, q) })
		},
		Held: func(context.Context) Answers { return ask((*dopplertest.Doppler).Held) },
		Observe: func(endpoint string, status int, _ time.Duration) {
			s.seen = append(s.seen, fmt.Sprint(endpoint, " ", status))
		},
	}, slog.New(slog.DiscardHandler))
	return s
}

// take gives a Doppler envelopes.
func (s *stage) take(t testing.TB, doppler int, list ...*loggregatorv2.Envelope) {
	t.Helper()
	for _, e := range list {
		if _, err := s.dopplers[doppler].AppendEnvelope(e); err != nil {
			t.Fatal(err)
		}
	}
}

// get asks without a socket.
func (s *stage) get(path string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w
}

func logAt(source string, at int64, text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: at, SourceId: source, Message: &loggregatorv2.Envelope_Log{
		Log: &loggregatorv2.Log{Payload: []byte(text)},
	}}
}

func counterAt(source string, at int64, name string, total uint64) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{Timestamp: at, SourceId: source, Message: &loggregatorv2.Envelope_Counter{
		Counter: &loggregatorv2.Counter{Name: name, Total: total},
	}}
}

// over makes a request over a socket, for all of the headers.
func (s *stage) over(t *testing.T, path, authorization string) (status int, header http.Header, body string) {
	t.Helper()
	server := httptest.NewServer(s)
	defer server.Close()
	req, err := http.NewRequest(http.MethodGet, server.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := server.Client().Transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}
