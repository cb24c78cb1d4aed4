package trafficcontroller

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/dopplertest"
)

func TestTailOverTwoDopplers(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	a.Emit("app/1", "old", 5)
	tail := r.read("/apps/app%2F1/stream")
	tail.joined(2)
	a.Emit("app/1", "a", 100)
	b.Emit("app/1", "b", 100)
	a.Emit("other", "x", 100)
	tail.want(append(ids("app/1", "a", 0, 100), ids("app/1", "b", 0, 100)...)...)
	if tail.hello.GetServer() != "tc" || tail.hello.GetHeartbeatMillis() != 5000 {
		t.Errorf("hello %v", tail.hello)
	}
	if row := r.get("/v2/subscriptions"); !strings.Contains(row.body, `"kind":"tail"`) || !strings.Contains(row.body, `"source_id":"app/1"`) {
		t.Errorf("views: %s", row.body)
	}
	tail.close()
	eventually(t, "access log", func() bool {
		return r.logs.with(`"msg":"stream closed"`, `"kind":"tail"`, `"envelopes":200`, `"code":1000`, `"source_id":"app/1"`)
	})
}

func TestTailHistory(t *testing.T) {
	a, b := doppler(t, "a", 1), doppler(t, "b", 1)
	r := start(t, nil, a, b)
	for i := range 20 {
		[]*dopplertest.Server{a, b}[i%2].Emit("app", string(rune('a'+i)), 1)
	}
	all := func(from int) (list []string) {
		for i := from; i < 20; i++ {
			list = append(list, "app/"+string(rune('a'+i))+"0")
		}
		return list
	}
	t.Run("recent", func(t *testing.T) {
		tail := r.read("/apps/app/stream?recent=6")
		tail.want(all(14)...)
		if got := tail.ids; !slices.Equal(got, all(14)) {
			t.Errorf("not by time: %v", got)
		}
		tail.joined(2)
	})
	t.Run("since", func(t *testing.T) {
		r.read("/apps/app/stream?since=10m").want(all(0)...)
		none := r.read("/apps/app/stream?since=" + url.QueryEscape(time.Now().Add(time.Hour).Format(time.RFC3339)))
		none.joined(2)
		none.want()
	})
	t.Run("cursor", func(t *testing.T) {
		first := r.read("/apps/app/stream?recent=1")
		first.joined(2)
		first.want(all(19)...)
		cursor := first.cursor()
		first.close()
		a.Emit("app", "later", 3000)
		b.With(func(d *dopplertest.Doppler) { d.Append("app", "", "later-too", 1) })
		second := r.read("/apps/app/stream?cursor=" + cursor)
		second.want(append(ids("app", "later", 0, 3000), "app/later-too")...)
		if g := second.gapReasons(); g != "" {
			t.Errorf("gaps: %s", g)
		}
	})
}

// Who asks by time wants everything since then, and is told what the limit
// leaves out; who asks for a number gets it.
func TestTailIsToldWhatTheLimitLeavesOut(t *testing.T) {
	for name, tc := range map[string]struct {
		perDoppler, limit int
		query, want       string
		gets              int
	}{
		"all of it":               {perDoppler: 3, limit: 6, query: "since=10m", gets: 6},
		"read whole, not sent":    {perDoppler: 4, limit: 6, query: "since=10m", gets: 6, want: "EXACT 1 HISTORY_LIMIT, EXACT 1 HISTORY_LIMIT"},
		"not even read":           {perDoppler: 20, limit: 6, query: "since=10m", gets: 6, want: "AT_LEAST 4 HISTORY_LIMIT, AT_LEAST 4 HISTORY_LIMIT"},
		"a number":                {perDoppler: 20, limit: 6, query: "recent=4", gets: 4},
		"a number, and not older": {perDoppler: 20, limit: 6, query: "recent=4&since=10m", gets: 4},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := doppler(t, "a", 1), doppler(t, "b", 1)
			r := start(t, func(c *Config) { c.MaxRecent = tc.limit }, a, b)
			last := r.read("/apps/last/stream")
			last.joined(2)
			for i := range tc.perDoppler {
				a.Emit("app", fmt.Sprint("a", i, "."), 1)
				b.Emit("app", fmt.Sprint("b", i, "."), 1)
			}
			a.Emit("last", "a", 1)
			b.Emit("last", "b", 1)
			last.want("last/a0", "last/b0") // the links are past all of it: it is history
			tail := r.read("/apps/app/stream?" + tc.query)
			tail.joined(2)
			eventually(t, "history", func() bool { return tail.count() >= tc.gets })
			if got := tail.count(); got != tc.gets || tail.gapReasons() != tc.want {
				t.Errorf("%d envelopes, gaps %q, want %d and %q", got, tail.gapReasons(), tc.gets, tc.want)
			}
		})
	}
}

func TestTailAwayForLongerThanTheRingHolds(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, nil, a)
	first := r.read("/apps/app/stream")
	first.joined(1)
	a.Emit("app", "x", 10)
	first.want(ids("app", "x", 0, 10)...)
	cursor := first.cursor()
	first.close()
	a.Emit("app", "y", 100)
	a.With(func(d *dopplertest.Doppler) { d.Evict(70) })
	second := r.read("/apps/app/stream?cursor=" + cursor)
	second.want(ids("app", "y", 60, 100)...)
	if g := second.gapReasons(); g != "EXACT 60 EVICTED" {
		t.Errorf("gaps: %s", g)
	}
}

func TestTailSurvivesItsDopplers(t *testing.T) {
	for name, test := range map[string]struct {
		fin  bool
		gaps string
		fins int
	}{
		"in order": {true, "", 1},
		"crash":    {false, "UNKNOWN 0 DOPPLER_LOST", 0},
	} {
		t.Run(name, func(t *testing.T) {
			a := doppler(t, "a", 1)
			r := start(t, nil, a)
			tail := r.read("/apps/app/stream")
			tail.joined(1)
			a.Emit("app", "x", 10)
			tail.want(ids("app", "x", 0, 10)...)
			a.Stop(test.fin)
			again, err := dopplertest.Serve(&dopplertest.Doppler{Name: "a", Epoch: 2}, a.Addr())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { again.Stop(false) })
			again.Emit("app", "z", 5)
			tail.want(append(ids("app", "x", 0, 10), ids("app", "z", 0, 5)...)...)
			if g := tail.gapReasons(); g != test.gaps || tail.fins != test.fins {
				t.Errorf("gaps %q, fins %d", g, tail.fins)
			}
		})
	}
}

func TestTailOfADopplerThatIsFoundLater(t *testing.T) {
	a := doppler(t, "a", 1)
	r := start(t, nil, a)
	tail := r.read("/apps/app/stream")
	tail.joined(1)
	b := doppler(t, "b", 1)
	b.Emit("app", "early", 50)
	r.dopplers(a, b)
	tail.want(ids("app", "early", 0, 50)...)
	b.Break()
	b.Emit("app", "cut", 50)
	tail.want(append(ids("app", "early", 0, 50), ids("app", "cut", 0, 50)...)...)
	if g := tail.gapReasons(); g != "" {
		t.Errorf("gaps: %s", g)
	}
}

func TestWatchOverTheLimit(t *testing.T) {
	a := doppler(t, "a", 1)
	a.With(func(d *dopplertest.Doppler) { d.MaxWatches = 1 })
	r := start(t, nil, a)
	first := r.read("/apps/one/stream")
	first.joined(1)
	second := r.read("/apps/two/stream")
	<-second.done
	var closed *stream.CloseError
	if !errors.As(second.err, &closed) || closed.Code != stream.CloseOverLimit || !strings.Contains(closed.Reason, "the limit is 1") {
		t.Errorf("ended with %v", second.err)
	}
	a.Emit("one", "x", 3)
	first.want(ids("one", "x", 0, 3)...)
}
