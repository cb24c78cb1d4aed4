package cli_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/cli"
)

func TestFirehoseShowsAndAcksAsManyAsWanted(t *testing.T) {
	srv := serveFirehose(t)
	for n := range 10 {
		srv.Push(logOf(fmt.Sprintf("app-%d", n%2), n, fmt.Sprintf("line %d", n)))
	}
	code, out, said := lgr(t.Context(), nil, "firehose", "--subscription", "mine", "--count", "3", "--addr", srv.Addr())
	want := "app-0 | " + printed(0, "line 0") + "app-1 | " + printed(1, "line 1") + "app-0 | " + printed(2, "line 2")
	if code != 0 || out != want {
		t.Errorf("exit %d, stderr %q, got %q, want %q", code, said, out, want)
	}
	if srv.Acked() != 3 || srv.Requests()[0].Path != "/firehose/mine" {
		t.Errorf("%d acked, path %s", srv.Acked(), srv.Requests()[0].Path)
	}
	// The next reader of the subscription gets the rest.
	code, out, said = lgr(t.Context(), nil, "firehose", "--subscription", "mine", "--count", "7", "--json", "--addr", srv.Addr())
	if code != 0 || strings.Count(out, "\n") != 7 || srv.Acked() != 10 {
		t.Errorf("exit %d, stderr %q, %d acked, stdout %q", code, said, srv.Acked(), out)
	}
}

func TestFirehoseOfOnesOwn(t *testing.T) {
	srv := serveFirehose(t)
	p := start(t, "firehose", "--type", "log", "--type", "gauge,timer", "--source-id", "a,b", "--name", "cpu", "--addr", srv.Addr())
	if err := srv.WaitConnections(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	r := srv.Requests()[0]
	if !strings.HasPrefix(r.Path, "/firehose/lgr-") || r.Query.Get("ack") != "client" || len(r.Query["type"]) != 3 ||
		r.Query.Get("source_id") != "a,b" || r.Query.Get("name") != "cpu" {
		t.Errorf("request %v", r)
	}
	p.err.wait(t, "Reading the Firehose of ", 1)
	p.stop()
	p.end(t)
}

func TestFirehoseStats(t *testing.T) {
	srv := serveFirehose(t)
	p := start(t, "firehose", "--stats", "--addr", srv.Addr())
	srv.Push(logOf("a", 1, "one"), &loggregatorv2.Envelope{SourceId: "a", Message: &loggregatorv2.Envelope_Counter{Counter: &loggregatorv2.Counter{Name: "c"}}})
	srv.Gap(7, streampb.Gap_EVICTED)
	p.out.wait(t, "envelopes/s", 2)
	p.stop()
	p.end(t)
	if out := p.out.String(); !strings.Contains(out, "log 1, counter 1   7 missed") || strings.Contains(out, "one") {
		t.Errorf("%q", out)
	}
	if srv.Acked() != 2 || srv.AckedGaps() != 1 {
		t.Errorf("%d acked, %d gaps", srv.Acked(), srv.AckedGaps())
	}
}

func TestAClosedPipeEndsQuietly(t *testing.T) {
	srv := serveFirehose(t)
	srv.Push(logOf("a", 1, "one"))
	var said buffer
	code := cli.Run(t.Context(), []string{"firehose", "--addr", srv.Addr()}, cli.Streams{Out: closedPipe{}, Err: &said})
	if code != 0 || strings.Contains(said.String(), "pipe") || srv.Acked() != 0 {
		t.Errorf("exit %d, stderr %q, %d acked", code, said.String(), srv.Acked())
	}
}

type closedPipe struct{}

func (closedPipe) Write([]byte) (int, error) {
	return 0, fmt.Errorf("write: %w", errors.Join(syscall.EPIPE))
}
