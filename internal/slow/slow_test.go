package slow

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/internal/daemon"
)

const mib = 1 << 20

func TestAReaderIsSlowWhenItStaysBehind(t *testing.T) {
	limits := Policy{Age: 30 * time.Second, Bytes: 64 * mib}
	age := func(seconds int) Lag { return Lag{Envelopes: 9, Age: time.Duration(seconds) * time.Second} }
	size := func(bytes uint64) Lag { return Lag{Envelopes: 9, Bytes: bytes} }
	lost := func(n uint64) Lag { return Lag{Dropped: n} }
	both := func(seconds int, bytes uint64) Lag {
		return Lag{Age: time.Duration(seconds) * time.Second, Bytes: bytes}
	}
	for _, c := range []struct {
		name   string
		policy Policy
		looks  []Lag
		want   []Verdict
	}{
		{"keeps up", limits, []Lag{{}, age(1), size(mib), {}}, []Verdict{Fine, Fine, Fine, Fine}},
		{"at its limits", limits, []Lag{both(30, 64*mib), both(30, 64*mib), both(30, 64*mib)}, []Verdict{Fine, Fine, Fine}},
		{"old", limits, []Lag{age(31), age(36), age(41)}, []Verdict{Behind, Behind, Slow}},
		{"big", limits, []Lag{size(65 * mib), size(66 * mib), size(66 * mib)}, []Verdict{Behind, Behind, Slow}},
		{"a burst", limits, []Lag{size(400 * mib), size(70 * mib), {}}, []Verdict{Behind, Behind, Fine}},
		{"two bursts", limits, []Lag{age(40), age(45), age(2), age(40), age(45), age(50)}, []Verdict{Behind, Behind, Fine, Behind, Behind, Slow}},
		{"catches up after it was away", limits, []Lag{age(300), age(290), age(280), age(275), age(270)}, []Verdict{Behind, Behind, Behind, Behind, Behind}},
		{"no longer catches up", limits, []Lag{age(300), age(290), age(280), age(285), age(290)}, []Verdict{Behind, Behind, Behind, Behind, Slow}},
		{"catches up by age, not by bytes", limits, []Lag{both(300, 65*mib), both(290, 66*mib), both(280, 67*mib)}, []Verdict{Behind, Behind, Slow}},
		{"loses all the time", limits, []Lag{lost(0), lost(5), lost(9), lost(10)}, []Verdict{Fine, Behind, Behind, Slow}},
		{"lost once", limits, []Lag{lost(5), lost(5), lost(5)}, []Verdict{Behind, Fine, Fine}},
		{"loses while its lag falls", limits, []Lag{{Age: time.Minute, Dropped: 1}, {Age: 50 * time.Second, Dropped: 1}, {Age: 40 * time.Second, Dropped: 2}}, []Verdict{Behind, Behind, Slow}},
		{"no limits", Policy{}, []Lag{both(3600, 1<<40), both(3601, 1<<41), both(3602, 1<<42)}, []Verdict{Fine, Fine, Fine}},
		{"stays slow", limits, []Lag{age(31), age(36), age(41), age(46)}, []Verdict{Behind, Behind, Slow, Slow}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var j Judge
			var got []Verdict
			for _, l := range c.looks {
				got = append(got, j.Look(c.policy, l))
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("verdicts %v, want %v", got, c.want)
			}
		})
	}
}

func TestTheReasonFitsIntoACloseFrame(t *testing.T) {
	l := Lag{Envelopes: 12345, Age: 38 * time.Second, Bytes: 9_542_042, Dropped: 678}
	if got, want := Reason(l), "slow consumer: 12,345 envelopes (38 s, 9.1 MiB) behind, 678 dropped"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	l = Lag{Envelopes: 99_999_999_999, Age: 99*time.Hour + 59*time.Second, Bytes: 1<<40 - 1<<30, Dropped: 99_999_999_999}
	if s := StuckReason(time.Hour, l); len(s) > 123 || !strings.HasPrefix(s, "slow consumer: took nothing for 1h0m0s, 99,999,999,999 envelopes (") {
		t.Errorf("%d bytes: %q", len(s), s)
	}
}

func TestAPolicyIsSetByItsParts(t *testing.T) {
	preset := Policy{Cut: true, Age: 30 * time.Second, Bytes: 64 * mib}
	for value, want := range map[string]string{
		"drop": "drop,age=30s,bytes=64MiB", "cut,age=10s": "cut,age=10s,bytes=64MiB",
		"bytes=1MiB, drop, age=1m": "drop,age=1m0s,bytes=1MiB", "age=0s": "cut,age=0s,bytes=64MiB",
	} {
		p := preset
		f := NewFlag(&p)
		if err := f.Set("drop,age=1s,bytes=1"); err != nil { // a file's, which the flag replaces
			t.Fatal(err)
		}
		if err := f.Set(value); err != nil || p.String() != want || f.String() != want {
			t.Errorf("%q: %v, %v, want %v", value, p, err, want)
		}
	}
	for value, fault := range map[string]string{
		"": "none of drop, cut", "slow": "none of drop, cut", "cut,age": "not a duration", "age=x": "not a duration", "bytes=-1": "not a size", "cut=1": "none of",
	} {
		p := preset
		if err := NewFlag(&p).Set(value); err == nil || !strings.Contains(err.Error(), fault) || p != preset {
			t.Errorf("%q: %v, now %v", value, err, p)
		}
	}
}

func TestAPolicyHasLimits(t *testing.T) {
	for _, c := range []struct {
		policy Policy
		fault  string
	}{
		{Policy{}, ""},
		{Policy{Age: time.Second, Bytes: 64 << 10}, ""},
		{Policy{Age: time.Millisecond}, "--slow-tail drop,age=1ms,bytes=0: age must be"},
		{Policy{Age: 2 * time.Hour}, "age must be"},
		{Policy{Bytes: 1}, "bytes must be"},
	} {
		f := &daemon.Faults{}
		c.policy.Validate(f, "slow-tail")
		if err := f.Err(); (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%v: %v, want %q", c.policy, err, c.fault)
		}
	}
}

func TestATimelineTellsHowOldEntriesAre(t *testing.T) {
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	var line Timeline
	if age := line.Age(at(100), 0); age != 0 {
		t.Errorf("nothing noted: %v", age)
	}
	line.Note(at(1), 0, 10)
	line.Note(at(2), 0, 10) // nothing came
	line.Note(at(3), 0, 30)
	for entry, want := range map[uint64]int{0: 9, 9: 9, 10: 7, 29: 7, 30: 0, 99: 0} {
		if age := line.Age(at(10), entry); age != time.Duration(want)*time.Second {
			t.Errorf("entry %d: %v, want %d s", entry, age, want)
		}
	}
	line.Note(at(4), 20, 40)
	if age := line.Age(at(10), 5); age != 7*time.Second {
		t.Errorf("entry that is gone: %v", age) // as the oldest that is held
	}
	if age := line.Age(at(0), 25); age != 0 {
		t.Errorf("the clock was set back: %v", age)
	}
}

func TestATimelineIsBounded(t *testing.T) {
	var line Timeline
	for i := range 5 * maxNotes {
		line.Note(time.Unix(int64(i), 0), 0, uint64(i+1))
	}
	if len(line.notes) > maxNotes {
		t.Errorf("%d notes", len(line.notes))
	}
	now := time.Unix(5*maxNotes, 0)
	for _, entry := range []uint64{0, maxNotes, 4*maxNotes + 17, 5*maxNotes - 1} {
		exact := now.Sub(time.Unix(int64(entry), 0))
		if age := line.Age(now, entry); age > exact || age < exact-exact/50-time.Second {
			t.Errorf("entry %d: %v, in truth %v", entry, age, exact)
		}
	}
}

func TestTheNewestThatWentAreRemembered(t *testing.T) {
	var c Closed[int]
	now := time.Unix(0, 0)
	for i := range closedMost + 5 {
		c.Add(now.Add(time.Duration(i)*time.Millisecond), i)
	}
	rows := c.List(now.Add(closedFor))
	if len(rows) != closedMost || rows[0] != closedMost+4 || rows[closedMost-1] != 5 {
		t.Errorf("%d rows, from %d to %d", len(rows), rows[0], rows[len(rows)-1])
	}
	if rows := c.List(now.Add(closedFor + time.Second)); len(rows) != 5 || rows[4] != closedMost {
		t.Errorf("later: %v", rows)
	}
	if rows := c.List(now.Add(time.Hour)); len(rows) != 0 {
		t.Errorf("long after: %v", rows)
	}
}
