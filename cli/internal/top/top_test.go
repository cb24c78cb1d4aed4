package top_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/cli/internal/top"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers as a server does; sent grows by 100 with every question.
func serve(t *testing.T, sources string) string {
	t.Helper()
	var mu sync.Mutex
	sent := 0
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/sources", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, sources) })
	mux.HandleFunc("GET /v2/subscriptions", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		sent += 100
		fmt.Fprintf(w, `{"subscriptions":[
			{"id":"1","kind":"tail","source_id":"shop","filter":"type=log","remote":"10.0.0.7:5000","sent":12,"state":"streaming"},
			{"id":"4","kind":"tail","source_id":"api","remote":"10.0.0.9:1","sent":5,"dropped":3,"state":"closed","closed_at":"1969-12-31T23:59:50Z","close_code":1001,"close_reason":"bye"},
			{"id":"3","kind":"tail","source_id":"api","user":"ada","remote":"10.0.0.7:1","forwarded":"192.0.2.1, 10.1.1.1","lag":7,"lag_age_seconds":40,"state":"open"},
			{"id":"2","kind":"firehose","shard_id":"splunk","member":"1","user_agent":"nozzle/2","remote":"10.0.0.8:5000","lag":12345,"lag_bytes":9542042,"lag_age_seconds":38.2,"sent":%d,"in_flight":64,"dropped":12,"state":"slow"}]}`, sent)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

const doppler = `{"doppler":"d1","epoch":7,"head":1500,"oldest":500,"ring_bytes":268435456,"held_bytes":1572864,"held_seconds":43,"rate":1246.9,"known_sources":2,
	"sources":[{"source_id":"shop","envelopes":1200,"bytes":614400,"rate":12.34,"held":900,"limited":700,"limited_rate":5000},{"source_id":"api","envelopes":300,"bytes":1000,"rate":1234.5,"held":100}]}`

func client(t *testing.T, addrs ...string) *top.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &top.Client{HTTP: &http.Client{Transport: transport}, Addrs: addrs}
}

func TestATableOfEverything(t *testing.T) {
	c := client(t, serve(t, doppler))
	before := c.Read(t.Context())
	now := c.Read(t.Context())
	before.At, now.At = time.Unix(0, 0).UTC(), time.Unix(2, 0).UTC()
	got := strings.Join(top.View{Title: "lgr top"}.Lines(now, before, 160, 0), "\n")
	want := strings.TrimPrefix(`
lgr top   00:00:02
1,247 envelopes/s from 2 sources; 3 subscriptions, lag 12,352, dropped 12; 1 closed of late

DOPPLER  PER SECOND  TAKEN IN   HELD  BYTES HELD         OF  AT THIS RATE
d1            1,247     1,500  1,000     1.5 MiB  256.0 MiB          43 s

SOURCE  PER SECOND  SHARE  ENVELOPES      BYTES  HELD  LIMITED  LIMITED/S
shop            12     1%      1,200  600.0 KiB   900      700      5,000
api          1,235    99%        300     1000 B   100        0          0

SUBSCRIPTION     KIND         LAG   FOR    BYTES  DROPPED  /S  SENT/S  SENT  IN FLIGHT  READER    FROM                      STATE
splunk           firehose  12,345  38 s  9.1 MiB       12   0      50   200         64  nozzle/2  10.0.0.8:5000             slow
api              tail           7  40 s      0 B        0   0       0     0          0  ada       192.0.2.1 via 10.0.0.7:1  open
shop (type=log)  tail           0     -      0 B        0   0       0    12          0  -         10.0.0.7:5000             streaming
api              tail           0     -      0 B        3   -       -     5          0  -         10.0.0.9:1                closed 12s ago: 1001 bye`, "\n")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTwoDopplersAreSummed(t *testing.T) {
	c := client(t, serve(t, doppler), serve(t, strings.ReplaceAll(doppler, `"d1"`, `"d2"`)))
	r := c.Read(t.Context())
	if len(r.Rings) != 2 || len(r.Sources) != 2 || r.Sources[0].Limited != 1400 || r.Sources[0].LimitedRate != 10_000 || r.Sources[0].Envelopes != 2400 || len(r.Subscriptions) != 8 || len(r.Faults) != 0 {
		t.Errorf("%+v", r)
	}
}

func TestATrafficControllerNamesItsDopplers(t *testing.T) {
	r := client(t, serve(t, `{"dopplers":[`+doppler+`,{"addr":"d2:8083","error":"refused"}],"sources":[]}`)).Read(t.Context())
	if len(r.Rings) != 1 || len(r.Faults) != 1 || r.Faults[0] != "Doppler at d2:8083: refused" || r.Rings[0].Doppler != "d1" || r.Rings[0].Head != 1500 {
		t.Errorf("%+v", r)
	}
}

func TestServersThatDoNotAnswerAreNamed(t *testing.T) {
	gone := httptest.NewServer(nil)
	gone.Close()
	bad := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusForbidden) }))
	defer bad.Close()
	garbage := serve(t, "<html>")
	c := client(t, gone.URL, bad.URL, garbage)
	r := c.Read(t.Context())
	all := strings.Join(r.Faults, "\n")
	if len(r.Faults) != 3 || !strings.Contains(all, "connection refused") || !strings.Contains(all, "403 Forbidden: no") ||
		!strings.Contains(all, "read the answer of") || len(r.Subscriptions) != 4 {
		t.Errorf("%d faults: %s", len(r.Faults), all)
	}
	if err := top.Once(t.Context(), client(t, gone.URL), top.View{}, io.Discard); err == nil {
		t.Error("once: no error")
	}
	var out strings.Builder
	if err := top.Once(t.Context(), c, top.View{}, &out); err != nil || !strings.Contains(out.String(), "splunk") {
		t.Errorf("once: %v\n%s", err, out.String())
	}
}

func TestAnyScreenIsLargeEnough(t *testing.T) {
	r := &top.Reading{Faults: []string{strings.Repeat("x", 300)}}
	for i := range 50 {
		r.Sources = append(r.Sources, top.Source{ID: fmt.Sprintf("source-\x1b[2J\n%d-%s", i, strings.Repeat("ü", i))})
		r.Subscriptions = append(r.Subscriptions, top.Subscription{ID: fmt.Sprint(i), ShardID: strings.Repeat("s", i)})
	}
	for _, columns := range []int{1, 5, 20, 80, 300} {
		for _, rows := range []int{1, 3, 10, 24, 80, 400} {
			lines := top.View{Title: "lgr top"}.Lines(r, r, columns, rows)
			if len(lines) > rows {
				t.Errorf("%d x %d: %d lines", columns, rows, len(lines))
			}
			for _, line := range lines {
				if utf8.RuneCountInString(line) > columns || strings.ContainsAny(line, "\x1b\n") {
					t.Errorf("%d x %d: %q", columns, rows, line)
				}
			}
		}
	}
	lines := strings.Join(top.View{}.Lines(r, nil, 80, 30), "\n")
	if strings.Count(lines, "more") != 2 {
		t.Errorf("what is left out is not told:\n%s", lines)
	}
}

func TestWatchRedrawsUntilQ(t *testing.T) {
	keys, resized := make(chan byte), make(chan os.Signal)
	drawn := make(chan string)
	screen := top.Screen{Out: writer(func(p []byte) (int, error) { drawn <- string(p); return len(p), nil }), Full: &top.FullScreen{
		Size: func() (int, int) { return 100, 40 }, Keys: keys, Resized: resized,
		Enter: "<enter>", Redraw: "<redraw>", LineEnd: "<end>", Below: "<below>", Leave: "<leave>",
	}}
	done := make(chan error)
	c := client(t, serve(t, doppler))
	go func() {
		done <- top.Watch(t.Context(), c, top.View{Title: "T", Colour: true}, screen, 20*time.Millisecond)
	}()
	if s := <-drawn; s != "<enter>" {
		t.Errorf("first %q", s)
	}
	for range 2 {
		if s := <-drawn; !strings.HasPrefix(s, "<redraw>\x1b[1mT") || !strings.HasSuffix(s, "<end><below>") {
			t.Errorf("drawing %q", s)
		}
	}
	offer[os.Signal](resized, os.Interrupt, drawn)
	offer(keys, 'x', drawn)
	offer(keys, 'q', drawn)
	for s := range drawn {
		if s == "<leave>" {
			break
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// offer sends v and takes off what is drawn meanwhile.
func offer[T any](to chan<- T, v T, drawn <-chan string) {
	for {
		select {
		case to <- v:
			return
		case <-drawn:
		}
	}
}

func TestWatchPrintsWhereThereIsNoTerminal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var out strings.Builder
	screen := top.Screen{Out: writer(func(p []byte) (int, error) {
		out.Write(p)
		if strings.Count(out.String(), "SUBSCRIPTION") == 2 {
			cancel()
		}
		return len(p), nil
	})}
	if err := top.Watch(ctx, client(t, serve(t, doppler)), top.View{}, screen, 5*time.Millisecond); err != nil {
		t.Error(err)
	}
	if strings.Contains(out.String(), "\x1b") {
		t.Errorf("%q", out.String())
	}
	failure := errors.New("failure")
	failing := top.Screen{Out: writer(func([]byte) (int, error) { return 0, failure })}
	if err := top.Watch(t.Context(), client(t, serve(t, doppler)), top.View{}, failing, time.Second); !errors.Is(err, failure) {
		t.Errorf("writing fails: %v", err)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }
