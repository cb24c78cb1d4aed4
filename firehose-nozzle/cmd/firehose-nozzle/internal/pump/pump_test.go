package pump

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

func sequence(n int) []int64 {
	all := make([]int64, n)
	for i := range all {
		all[i] = int64(i)
	}
	return all
}

func TestEverythingOnceAndInOrder(t *testing.T) {
	r := start(t, &memory{}, nil)
	r.server.SetBatchSize(7)
	r.server.Push(lines(0, 5000)...)
	r.server.Gap(3, streampb.Gap_EVICTED)
	r.waitAcked(t, 5000)
	eventually(t, "gap", func() bool { return r.server.AckedGaps() == 1 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.sink.got, sequence(5000)) || r.sink.gaps != 1 {
		t.Fatalf("got %d envelopes and %d gaps", len(r.sink.got), r.sink.gaps)
	}
	for name, want := range map[string]float64{
		"received_envelopes_total": 5000, "acked_envelopes_total": 5000, "redelivered_envelopes_total": 0,
		"gaps_total": 1, "missed_envelopes_total": 3, "sink_errors_total": 0, "connects_total": 1, "connected": 0,
		"unacked_batches": 0, "lag_envelopes": 0,
	} {
		if got := r.metric(t, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestSinkErrorsAreRepeatedAndNothingIsAcked(t *testing.T) {
	r := start(t, &memory{fail: 2}, nil)
	r.server.Push(lines(0, 100)...)
	eventually(t, "bad health", func() bool {
		err := r.pump.Health()
		return err != nil && strings.Contains(err.Error(), "no space left")
	})
	if got := r.server.Acked(); got != 0 {
		t.Fatalf("%d acked", got)
	}
	r.waitAcked(t, 100)
	if err := r.pump.Health(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.sink.got, sequence(100)) || r.metric(t, "sink_errors_total") != 2 {
		t.Fatalf("got %d envelopes after %v errors", len(r.sink.got), r.metric(t, "sink_errors_total"))
	}
}

// While the sink is busy what follows is collected, and then written at once.
func TestSlowSinkGetsMoreAtATime(t *testing.T) {
	sink := &memory{block: make(chan struct{})}
	r := start(t, sink, nil)
	r.server.SetBatchSize(1)
	r.server.Push(lines(0, 1000)...)
	eventually(t, "everything received", func() bool { return r.metric(t, "received_envelopes_total") == 1000 })
	close(sink.block)
	r.waitAcked(t, 1000)
	if !slices.Equal(sink.got, sequence(1000)) || sink.writes > 3 {
		t.Fatalf("%d envelopes in %d writes", len(sink.got), sink.writes)
	}
}

// A sink that stands still stops the reading.
func TestWhatWaitsIsBounded(t *testing.T) {
	sink := &memory{block: make(chan struct{})}
	r := start(t, sink, nil)
	r.server.SetBatchSize(1)
	big := lines(0, 1)[0]
	big.InstanceId = strings.Repeat("x", 100<<10)
	for range 200 {
		r.server.Push(big)
	}
	eventually(t, "standstill", func() bool { return r.metric(t, "received_bytes_total") > queueBytes })
	<-time.After(50 * time.Millisecond)
	if got := r.metric(t, "received_bytes_total"); got > 2*queueBytes+2*(101<<10) { // in the sink and before it
		t.Fatalf("%v bytes received", got)
	}
	close(sink.block)
	r.waitAcked(t, 200)
}

func TestCutsLoseNothing(t *testing.T) {
	r := start(t, &memory{}, nil)
	r.server.SetBatchSize(3)
	for i := range 20 {
		r.server.Push(lines(i*50, (i+1)*50)...)
		if i%4 == 3 {
			r.server.Cut()
		}
	}
	r.waitAcked(t, 1000)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	seen := map[int64]bool{}
	for i, n := range r.sink.got {
		if seen[n] && !r.sink.again[i] {
			t.Fatalf("%d came again and was not marked", n)
		}
		seen[n] = true
	}
	if len(seen) != 1000 {
		t.Fatalf("%d of 1000", len(seen))
	}
}

func TestRedeliveryIsCounted(t *testing.T) {
	sink := &memory{block: make(chan struct{})}
	r := start(t, sink, nil)
	r.server.Push(lines(0, 10)...)
	eventually(t, "received", func() bool { return r.metric(t, "received_envelopes_total") == 10 })
	r.server.Redeliver()
	eventually(t, "redelivered", func() bool { return r.metric(t, "redelivered_envelopes_total") == 10 })
	close(sink.block)
	eventually(t, "both", func() bool { return sink.have() == 20 })
	if !slices.Equal(sink.distinct(), sequence(10)) {
		t.Fatalf("got %v", sink.got)
	}
}

func TestEpochs(t *testing.T) {
	r := start(t, &memory{}, nil)
	d := r.server.Doppler("doppler-0")
	r.server.Push(lines(0, 10)...)
	r.waitAcked(t, 10)
	d.Fin()
	d.Restart()
	r.server.Push(lines(10, 20)...)
	r.waitAcked(t, 20)
	if got := r.metric(t, "gaps_total"); got != 0 {
		t.Fatalf("%v gaps after a fin", got)
	}
	d.Restart()
	r.server.Push(lines(20, 30)...)
	r.waitAcked(t, 30)
	if got := r.metric(t, "gaps_total"); got != 1 {
		t.Fatalf("%v gaps after a loss", got)
	}
	if !slices.Equal(r.sink.distinct(), sequence(30)) {
		t.Fatalf("got %v", r.sink.got)
	}
}

// What was received when the end came is written and acked.
func TestEndDrains(t *testing.T) {
	sink := &memory{block: make(chan struct{})}
	r := start(t, sink, nil)
	r.server.SetBatchSize(10)
	r.server.Push(lines(0, 100)...)
	eventually(t, "received", func() bool { return r.metric(t, "received_envelopes_total") == 100 })
	stopped := make(chan error)
	go func() { stopped <- r.stop() }()
	<-time.After(20 * time.Millisecond)
	close(sink.block)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if sink.have() != 100 || r.server.Acked() != 100 {
		t.Fatalf("%d written, %d acked", sink.have(), r.server.Acked())
	}
}

func TestEndWithASinkThatFails(t *testing.T) {
	r := start(t, &memory{fail: -1}, func(c *Config, _ *nozzle.Config) { c.Grace = 10 * time.Millisecond })
	r.server.Push(lines(0, 10)...)
	eventually(t, "failure", func() bool { return r.pump.Health() != nil && r.metric(t, "sink_errors_total") > 0 })
	if err := r.stop(); !errors.Is(err, errSink) {
		t.Fatal(err)
	}
	if r.server.Acked() != 0 {
		t.Fatal("acked what nobody has")
	}
}

func TestEndWithASinkThatIsStuck(t *testing.T) {
	r := start(t, &memory{block: make(chan struct{})}, func(c *Config, _ *nozzle.Config) { c.Grace = 10 * time.Millisecond })
	r.server.Push(lines(0, 10)...)
	eventually(t, "received", func() bool { return r.metric(t, "received_envelopes_total") == 10 })
	if err := r.stop(); err == nil || !strings.Contains(err.Error(), "delivered again") {
		t.Fatal(err)
	}
}

func TestEndOfTheStreamIsAnError(t *testing.T) {
	r := start(t, &memory{}, nil)
	r.server.Push(lines(0, 10)...)
	r.waitAcked(t, 10)
	r.server.Refuse(1, http.StatusForbidden, "no more")
	r.server.Cut()
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("goes on without a stream")
	}
	if err := r.stop(); nozzle.CodeOf(err) != nozzle.CodeForbidden {
		t.Fatal(err)
	}
}

func TestHealthOfTheConnection(t *testing.T) {
	r := start(t, &memory{}, nil)
	eventually(t, "good health", func() bool { return r.pump.Health() == nil })
	r.server.Refuse(10000, http.StatusServiceUnavailable, "not now")
	r.server.Cut()
	eventually(t, "bad health", func() bool {
		err := r.pump.Health()
		return err != nil && strings.Contains(err.Error(), "nothing heard")
	})
}

func TestCursorIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursor")
	r := start(t, &memory{}, func(c *Config, _ *nozzle.Config) {
		f, cursor, err := OpenCursorFile(path, "a=b")
		if err != nil || cursor != "" {
			t.Fatal(cursor, err)
		}
		c.Cursors = f
	})
	r.server.Push(lines(0, 10)...)
	r.waitAcked(t, 10)
	eventually(t, "stored while running", func() bool { _, err := os.Stat(path); return err == nil })
	r.server.Push(lines(10, 20)...)
	r.waitAcked(t, 20)
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	_, cursor, err := OpenCursorFile(path, "a=b")
	if err != nil || cursor == "" {
		t.Fatal(cursor, err)
	}
	stream, err := nozzle.Open(t.Context(), nozzle.Config{Addr: r.server.Addr(), Subscription: "other", Cursor: cursor})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	r.server.Push(lines(20, 21)...)
	b, err := stream.Recv(t.Context())
	if err != nil || b.Position.GetFirst() != 20 {
		t.Fatalf("continues at %v, %v", b.Position, err)
	}
}

func TestCursorFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cursor")
	f, _, err := OpenCursorFile(path, "a")
	if err != nil {
		t.Fatal(err)
	}
	for _, cursor := range []string{"1", "2", "2"} {
		if err := f.Save(cursor); err != nil {
			t.Fatal(err)
		}
	}
	if _, cursor, err := OpenCursorFile(path, "a"); cursor != "2" || err != nil {
		t.Fatal(cursor, err)
	}
	if _, _, err := OpenCursorFile(path, "b"); err == nil || !strings.Contains(err.Error(), "is of a, not of b") {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(path + "*"); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := OpenCursorFile(path, "a"); err == nil {
		t.Fatal("no error")
	}
	if _, _, err := OpenCursorFile(filepath.Dir(path), "a"); err == nil {
		t.Fatal("a directory is no file")
	}
	lost := &CursorFile{path: filepath.Join(path, "below", "a", "file")}
	if err := lost.Save("x"); err == nil {
		t.Fatal("no error")
	}
}

func TestCursorThatCannotBeStoredStopsNothing(t *testing.T) {
	r := start(t, &memory{}, func(c *Config, _ *nozzle.Config) { c.Cursors = &CursorFile{path: "/no/such/dir/cursor"} })
	r.server.Push(lines(0, 10)...)
	r.waitAcked(t, 10)
	if err := r.stop(); err == nil {
		t.Fatal("the end does not mention it")
	}
}
