package emit_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/cli/internal/emit"
)

func TestLoadMakesEveryKind(t *testing.T) {
	for _, kind := range emit.Kinds {
		t.Run(kind, func(t *testing.T) {
			kinds := map[string]int{}
			l := emit.Load{Source: "load", Sources: 2, Kind: kind, Size: 300, Count: 2000}
			n, err := l.Run(t.Context(), func(e *loggregatorv2.Envelope) error {
				kinds[fmt.Sprintf("%T", e.GetMessage())]++
				if log := e.GetLog(); log != nil && len(log.GetPayload()) != 300 {
					t.Errorf("log of %d bytes", len(log.GetPayload()))
				}
				return nil
			})
			if n != 2000 || err != nil {
				t.Errorf("%d, %v", n, err)
			}
			want := 1
			if kind == "mix" {
				want = 5
			}
			if len(kinds) != want {
				t.Errorf("kinds %v", kinds)
			}
		})
	}
}

func TestLoadNumbersTheLinesOfEachSource(t *testing.T) {
	last := map[string]string{}
	var before int64
	l := emit.Load{Source: "load", Sources: 3, Kind: "log", Count: 300}
	_, err := l.Run(t.Context(), func(e *loggregatorv2.Envelope) error {
		last[e.GetSourceId()] = string(e.GetLog().GetPayload())
		if e.GetTimestamp() <= before {
			t.Errorf("time does not grow: %d after %d", e.GetTimestamp(), before)
		}
		before = e.GetTimestamp()
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"load-1", "load-2", "load-3"} {
		if last[id] != "0000000100" {
			t.Errorf("last line of %s is %q", id, last[id])
		}
	}
}

func TestLoadKeepsItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := emit.Load{Source: "load", Kind: "log", Rate: 1000, Duration: 10 * time.Second}
		n, err := l.Run(t.Context(), func(*loggregatorv2.Envelope) error { return nil })
		if err != nil || n < 9_990 || n > 10_001 {
			t.Errorf("%d in 10 s at 1000/s, %v", n, err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		l := emit.Load{Source: "load", Kind: "log", Rate: 2, Count: 5}
		n, err := l.Run(t.Context(), func(*loggregatorv2.Envelope) error { return nil })
		if took := time.Since(start); n != 5 || err != nil || took < 1900*time.Millisecond || took > 2100*time.Millisecond {
			t.Errorf("%d in %s at 2/s, %v", n, took, err)
		}
	})
}

func TestLoadDoesNotCatchUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		paused := false
		l := emit.Load{Source: "load", Kind: "log", Rate: 100, Duration: 20 * time.Second}
		n, err := l.Run(t.Context(), func(*loggregatorv2.Envelope) error {
			if !paused {
				paused = true
				time.Sleep(10 * time.Second)
			}
			return nil
		})
		if err != nil || n < 1050 || n > 1150 {
			t.Errorf("%d after a pause of half the time, %v", n, err)
		}
	})
}

func TestLoadEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	l := emit.Load{Source: "load", Kind: "log"}
	n, err := l.Run(ctx, func(*loggregatorv2.Envelope) error { cancel(); return nil })
	if err != nil || n == 0 || n > 64 {
		t.Errorf("cancelled: %d, %v", n, err)
	}
	failure := errors.New("failure")
	for _, rate := range []float64{0, 10} {
		l := emit.Load{Source: "load", Kind: "log", Rate: rate}
		if _, err := l.Run(t.Context(), func(*loggregatorv2.Envelope) error { return failure }); !errors.Is(err, failure) {
			t.Errorf("failing at rate %v: %v", rate, err)
		}
	}
}

func TestLoadEnvelopesAreOrdinaryProtobuf(t *testing.T) {
	l := emit.Load{Source: "load", Kind: "mix", Count: 500, Instance: "1", Tags: map[string]string{"a": "b"}}
	_, err := l.Run(t.Context(), func(e *loggregatorv2.Envelope) error {
		_, err := proto.Marshal(e)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
