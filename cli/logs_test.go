package cli_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/firehose-nozzle/nozzletest"
)

func serveFirehose(t *testing.T) *nozzletest.Server {
	t.Helper()
	srv := nozzletest.NewServer()
	t.Cleanup(srv.Close)
	return srv
}

var epoch = time.Date(2026, 11, 21, 10, 0, 0, 0, time.Local)

func logOf(source string, second int, text string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{
		Timestamp: epoch.Add(time.Duration(second) * time.Second).UnixNano(), SourceId: source, InstanceId: "0",
		Tags:    map[string]string{"source_type": "APP"},
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte(text)}},
	}
}

func printed(second int, text string) string {
	return epoch.Add(time.Duration(second)*time.Second).Format("2006-01-02T15:04:05.00-0700") + " [APP/0] OUT " + text + "\n"
}

func TestLogsFollowASource(t *testing.T) {
	srv := serveFirehose(t)
	p := start(t, "logs", "my-app", "--addr", srv.Addr())
	p.err.wait(t, "Retrieving logs for source my-app...\n\n", 1)
	srv.Push(logOf("my-app", 1, "one"), logOf("other", 1, "not mine"), logOf("my-app", 2, "two"))
	p.out.wait(t, "two", 1)
	srv.Push(logOf("my-app", 3, "three"))
	p.out.wait(t, "three", 1)
	p.stop()
	if code := p.end(t); code != 1 {
		t.Errorf("exit %d", code) // without a signal
	}
	if want := "   " + printed(1, "one") + "   " + printed(2, "two") + "   " + printed(3, "three"); p.out.String() != want {
		t.Errorf("got %q, want %q", p.out.String(), want)
	}
	q := srv.Requests()[0].Query
	if q.Get("type") != "log" || q.Has("recent") || q.Has("since") {
		t.Errorf("query %v", q)
	}
}

func TestRecentLogsEndWithHistory(t *testing.T) {
	srv := serveFirehose(t)
	for n := range 5 {
		srv.Push(logOf("my-app", n, fmt.Sprintf("line %d", n)))
	}
	p := start(t, "logs", "my-app", "--recent=3", "--addr", srv.Addr())
	if code := p.end(t); code != 0 {
		t.Errorf("exit %d, stderr %q", code, p.err.String())
	}
	if got := strings.Count(p.out.String(), "\n"); got != 3 || srv.Requests()[0].Query.Get("recent") != "3" {
		t.Errorf("%d lines, request %v", got, srv.Requests()[0].Query)
	}
}

func TestHistoryOfSeveralSourcesIsSorted(t *testing.T) {
	srv := serveFirehose(t)
	for n := range 4 {
		srv.Push(logOf([]string{"a", "bee"}[n%2], n, fmt.Sprintf("line %d", n)))
	}
	p := start(t, "logs", "a", "bee", "-n", "10", "--addr", srv.Addr(), "a")
	p.err.wait(t, "sources a, bee...", 1)
	p.out.wait(t, "line 3", 1)
	srv.Push(logOf("a", 9, "and on"))
	p.out.wait(t, "and on", 1)
	want := "a   | " + printed(0, "line 0") + "bee | " + printed(1, "line 1") + "a   | " + printed(2, "line 2") +
		"bee | " + printed(3, "line 3") + "a   | " + printed(9, "and on")
	if p.out.String() != want {
		t.Errorf("got  %q\nwant %q", p.out.String(), want)
	}
}

func TestLogsSince(t *testing.T) {
	srv := serveFirehose(t)
	p := start(t, "logs", "a", "--since", "2026-11-21T10:00:00Z", "--type", "all", "--addr", srv.Addr())
	if err := srv.WaitConnections(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	q := srv.Requests()[0].Query
	if q.Get("since") != fmt.Sprint(time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC).UnixNano()) || q.Has("type") {
		t.Errorf("query %v", q)
	}
	p.stop()
	p.end(t)
}

func TestLogsTellGapsInPlainWords(t *testing.T) {
	srv := serveFirehose(t)
	p := start(t, "logs", "a", "--json", "--addr", srv.Addr())
	if err := srv.WaitConnections(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	srv.Push(logOf("a", 1, "before"))
	srv.Gap(12, streampb.Gap_EVICTED)
	srv.Push(logOf("a", 2, "after"))
	p.out.wait(t, "after", 1)
	p.err.wait(t, "-- 12 envelopes missed (reader was slower than the ring is deep)\n", 1)
	for range 50 {
		srv.Gap(1, streampb.Gap_QUEUE_FULL)
		srv.Push(logOf("a", 3, "more"))
	}
	p.out.wait(t, "more", 50)
	p.stop()
	p.end(t)
	if sum := missed(t, p.err.String(), "reader was slower than its queue"); sum != 50 {
		t.Errorf("%d are told, want 50: %s", sum, p.err.String())
	}
	if got := strings.Count(p.out.String(), `"kind":"log"`); got != 52 || strings.Count(p.out.String(), "\n") != 52 {
		t.Errorf("%d objects: %s", got, p.out.String())
	}
}

// missed adds up what was told with a reason.
func missed(t *testing.T, said, reason string) (sum int) {
	t.Helper()
	for line := range strings.Lines(said) {
		if strings.Contains(line, reason) {
			var n int
			if _, err := fmt.Sscanf(line, "-- %d", &n); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			sum += n
		}
	}
	return sum
}

func TestLogsComeBackAfterALostConnection(t *testing.T) {
	srv := serveFirehose(t)
	p := start(t, "logs", "a", "b", "--addr", srv.Addr())
	if err := srv.WaitConnections(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	srv.Push(logOf("a", 1, "before"))
	p.out.wait(t, "before", 1)
	srv.Cut()
	p.err.wait(t, "lost (", 1)
	srv.Push(logOf("a", 2, "after"))
	p.out.wait(t, "after", 1)
	p.err.wait(t, "connected to "+strings.Replace(srv.Addr(), "ws", "http", 1), 1)
	p.stop()
	p.end(t)
	if strings.Count(p.out.String(), "\n") != 2 || strings.Count(p.err.String(), "lost (") != 1 {
		t.Errorf("stdout %q, stderr %q", p.out.String(), p.err.String())
	}
}

func TestLogsSayWhatIsWrongAtTheStart(t *testing.T) {
	code, out, said := lgr(t.Context(), nil, "logs", "a", "--addr", "127.0.0.1:1")
	if code != 1 || out != "" || !strings.Contains(said, "cannot reach the Traffic Controller at http://127.0.0.1:1") ||
		!strings.Contains(said, "connection refused") {
		t.Errorf("nobody there: exit %d, stderr %q", code, said)
	}
	srv := serveFirehose(t)
	srv.Refuse(2, http.StatusServiceUnavailable, "the Dopplers are being connected")
	srv.Push(logOf("a", 1, "one"))
	code, out, said = lgr(t.Context(), nil, "logs", "a", "--recent", "--addr", srv.Addr())
	if code != 0 || strings.Count(out, "\n") != 1 || strings.Count(said, "does not take us yet (") != 1 || !strings.Contains(said, "-- connected to") {
		t.Errorf("not yet: exit %d, stderr %q, stdout %q", code, said, out)
	}
	srv.Refuse(1, http.StatusBadRequest, "recent: 99999 is more than 10000")
	code, _, said = lgr(t.Context(), nil, "logs", "a", "--recent=99999", "--addr", srv.Addr())
	if code != 1 || !strings.Contains(said, "recent: 99999 is more than 10000") {
		t.Errorf("refused: exit %d, stderr %q", code, said)
	}
	code, _, said = lgr(t.Context(), nil, "logs", "a", "--tls-ca", "/nowhere", "--addr", srv.Addr())
	if code != 1 || !strings.Contains(said, "/nowhere") {
		t.Errorf("no authorities: exit %d, stderr %q", code, said)
	}
}

func TestManyLinesFlow(t *testing.T) {
	const lines = 20_000
	srv := serveFirehose(t)
	p := start(t, "logs", "a", "--addr", srv.Addr())
	if err := srv.WaitConnections(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	batch := make([]*loggregatorv2.Envelope, 0, lines)
	for n := range lines {
		batch = append(batch, logOf("a", 1, fmt.Sprintf("line %d", n)))
	}
	srv.Push(batch...)
	p.out.wait(t, fmt.Sprintf("line %d\n", lines-1), 1)
	n := 0
	for line := range strings.Lines(p.out.String()) {
		if !strings.HasSuffix(line, fmt.Sprintf("OUT line %d\n", n)) {
			t.Fatalf("line %d is %q", n, line)
		}
		n++
	}
	if n != lines {
		t.Errorf("%d lines", n)
	}
}

func TestLogsShowTheToken(t *testing.T) {
	for token, want := range map[string]string{"abc": "bearer abc", "bearer abc": "bearer abc", "": ""} {
		srv := serveFirehose(t)
		p := start(t, "logs", "my-app", "--addr", srv.Addr(), "--token", token)
		p.err.wait(t, "Retrieving logs", 1)
		srv.Push(logOf("my-app", 1, "one"))
		p.out.wait(t, "one", 1)
		p.stop()
		p.end(t)
		if got := srv.Requests()[0].Header.Get("Authorization"); got != want {
			t.Errorf("token %q: shows %q, want %q", token, got, want)
		}
	}
}
