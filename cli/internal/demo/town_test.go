package demo_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/cli/internal/demo"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// live runs a town for some time of its own, an hour's worth of requests.
func live(seed uint64) []*loggregatorv2.Envelope {
	now := time.Unix(1_700_000_000, 0)
	town := demo.NewTown(6*demo.DefaultRate, seed, now)
	var all []*loggregatorv2.Envelope
	for range 6_000 {
		now = now.Add(100 * time.Millisecond)
		all = append(all, town.Advance(now)...)
	}
	return all
}

func TestATownShowsEverythingThereIs(t *testing.T) {
	all := live(1)
	seen := map[string]int{}
	for _, e := range all {
		if _, err := proto.Marshal(e); err != nil {
			t.Fatalf("%v: %v", e, err)
		}
		switch m := e.GetMessage().(type) {
		case *loggregatorv2.Envelope_Log:
			seen["log "+m.Log.GetType().String()+" "+e.GetTags()["source_type"]]++
		case *loggregatorv2.Envelope_Gauge:
			if len(m.Gauge.GetMetrics()) == 5 {
				seen["container"]++
			}
		case *loggregatorv2.Envelope_Timer:
			if m.Timer.GetStop() > m.Timer.GetStart() && e.GetTags()["peer_type"] != "" {
				seen["http"]++
			}
		case *loggregatorv2.Envelope_Counter:
			seen["counter"]++
		case *loggregatorv2.Envelope_Event:
			seen["event"]++
		}
		seen[e.GetSourceId()]++
	}
	for _, want := range []string{
		"log OUT RTR", "log OUT APP/PROC/WEB", "log ERR APP/PROC/WEB", "log OUT APP/PROC/WORKER",
		"log ERR APP/PROC/WORKER", "log OUT CELL", "container", "http", "counter", "event", "shop", "api", "worker",
	} {
		if seen[want] == 0 {
			t.Errorf("no %s in an hour: %v", want, seen)
		}
	}
	if perSecond := float64(len(all)) / 3600; perSecond < 2 || perSecond > 30 {
		t.Errorf("%.1f envelopes/s is no modest rate", perSecond)
	}
}

func TestATownEmitsInOrder(t *testing.T) {
	all := live(2)
	if !slices.IsSortedFunc(all, func(a, b *loggregatorv2.Envelope) int {
		return int(a.GetTimestamp() - b.GetTimestamp())
	}) {
		t.Error("out of order")
	}
}

func TestStackTracesStayTogether(t *testing.T) {
	for i, all := 0, live(3); i < len(all); i++ {
		if strings.HasPrefix(string(all[i].GetLog().GetPayload()), "\tat com.example.shop.payment") {
			if !strings.HasPrefix(string(all[i-1].GetLog().GetPayload()), "java.net.SocketTimeoutException") {
				t.Fatalf("trace after %v", all[i-1])
			}
			return
		}
	}
	t.Error("no trace in an hour")
}

func TestTheSameSeedIsTheSameLife(t *testing.T) {
	if !slices.EqualFunc(live(4), live(4), func(a, b *loggregatorv2.Envelope) bool { return proto.Equal(a, b) }) {
		t.Error("two lives differ")
	}
}

func TestRunEndsWithItsContextOrAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		town := demo.NewTown(50, 1, time.Now())
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n := 0
		if err := town.Run(ctx, func(*loggregatorv2.Envelope) error { n++; return nil }); err != nil || n < 3000 {
			t.Errorf("%d in a minute, %v", n, err)
		}
		failure := errors.New("failure")
		if err := town.Run(t.Context(), func(*loggregatorv2.Envelope) error { return failure }); !errors.Is(err, failure) {
			t.Errorf("error: %v", err)
		}
	})
}

func TestSources(t *testing.T) {
	if got := demo.NewTown(1, 1, time.Now()).Sources(); !slices.Equal(got, []string{"shop", "api", "worker"}) {
		t.Error(got)
	}
}
