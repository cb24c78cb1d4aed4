package canary

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// play has a ledger of one lane and a patience of 10.
type play struct {
	*Ledger
	t *testing.T
}

func (p *play) send(n int) {
	for range n {
		p.Send(0, 0)
	}
}

func (p *play) get(numbers ...uint64) {
	for _, number := range numbers {
		p.from(Place{"a", 1}, false, number)
	}
}

func (p *play) from(at Place, redelivered bool, numbers ...uint64) {
	for _, number := range numbers {
		p.Receive(Arrival{Number: number, Place: at, Offset: number, Redelivered: redelivered}, 5)
	}
}

func (p *play) expire(now time.Duration) { p.Expire(now, func(int) bool { return false }) }

// TestLedger has a story a row, and what the ledger makes of it.
func TestLedger(t *testing.T) {
	first := Place{"a", 1}
	for _, tc := range []struct {
		name string
		play func(*play)
		want Counts
	}{
		{"all comes", func(p *play) {
			p.send(3)
			p.get(1, 2, 3)
			p.Confirm(0, 4, 1)
			p.expire(100)
		}, Counts{Received: 3}},
		{"lost without a word", func(p *play) {
			p.send(3)
			p.get(1, 3)
			p.Confirm(0, 4, 1)
			p.expire(11)
		}, Counts{Received: 2, Lost: 1, Unexplained: 1}},
		{"patience lasts", func(p *play) {
			p.send(2)
			p.Confirm(0, 3, 1)
			p.expire(10)
		}, Counts{Outstanding: 2}},
		{"what is not confirmed is not lost", func(p *play) {
			p.send(3)
			p.Confirm(0, 2, 1)
			p.expire(100)
		}, Counts{Outstanding: 2, Lost: 1, Unexplained: 1}},
		{"time stands still while the Doppler is away", func(p *play) {
			p.send(1)
			p.Confirm(0, 2, 1)
			p.Expire(100, func(int) bool { return true })
			p.expire(109)
		}, Counts{Outstanding: 1}},
		{"and goes on when it is back", func(p *play) {
			p.send(1)
			p.Confirm(0, 2, 1)
			p.Expire(100, func(int) bool { return true })
			p.expire(111)
		}, Counts{Lost: 1, Unexplained: 1}},
		{"also if it is away again and again", func(p *play) {
			p.send(1)
			p.Confirm(0, 2, 0)
			for now := time.Duration(1); now <= 20; now++ {
				p.Expire(now, func(int) bool { return now%2 == 0 })
			}
		}, Counts{Lost: 1, Unexplained: 1}},
		{"told before it is lost", func(p *play) {
			p.send(3)
			p.get(1)
			p.Gap(Gap{Place: first, Count: 2})
			p.Confirm(0, 4, 1)
			p.expire(11)
		}, Counts{Received: 1, Lost: 2}},
		{"told after it is lost", func(p *play) {
			p.send(3)
			p.get(1)
			p.Confirm(0, 4, 1)
			p.expire(11)
			p.Gap(Gap{Place: first, Count: 2})
		}, Counts{Received: 1, Lost: 2}},
		{"told too few", func(p *play) {
			p.send(3)
			p.Gap(Gap{Place: first, Count: 2})
			p.Confirm(0, 4, 1)
			p.expire(11)
		}, Counts{Lost: 3, Unexplained: 1}},
		{"a gap stands for nothing sent after it", func(p *play) {
			p.send(1)
			p.Gap(Gap{Place: first, Open: true})
			p.send(1)
			p.Confirm(0, 3, 1)
			p.expire(11)
		}, Counts{Lost: 2, Unexplained: 1}},
		{"nor does what is left of it", func(p *play) {
			p.send(1)
			p.Gap(Gap{Place: first, Count: 5})
			p.get(1)
			p.Confirm(0, 2, 1)
			p.expire(11)
			p.send(1)
			p.Confirm(0, 3, 11)
			p.expire(21)
		}, Counts{Received: 1, Lost: 1, Unexplained: 1}},
		{"a gap of unknown size stands for all that is outstanding", func(p *play) {
			p.send(4)
			p.get(1)
			p.Gap(Gap{Place: first, Open: true})
			p.Confirm(0, 5, 1)
			p.expire(11)
		}, Counts{Received: 1, Lost: 3}},
		{"but not for an old loss that the Doppler has outlived", func(p *play) {
			p.send(2)
			p.Confirm(0, 3, 1)
			p.expire(11)
			p.send(2)
			p.get(4)
			p.Confirm(0, 5, 11)
			p.expire(21)
			p.Gap(Gap{Place: first, Open: true})
		}, Counts{Received: 1, Lost: 3, Unexplained: 3}},
		{"late", func(p *play) {
			p.send(2)
			p.Confirm(0, 3, 1)
			p.expire(11)
			p.get(1)
		}, Counts{Received: 1, Lost: 1, Late: 1, Unexplained: 1}},
		{"what is late gives its gap to another", func(p *play) {
			p.send(2)
			p.Gap(Gap{Place: first, Count: 1})
			p.Confirm(0, 3, 1)
			p.expire(11)
			p.get(1)
		}, Counts{Received: 1, Lost: 1, Late: 1}},
		{"twice", func(p *play) {
			p.send(1)
			p.get(1, 1)
		}, Counts{Received: 1, Duplicates: 1}},
		{"redelivered", func(p *play) {
			p.send(2)
			p.get(1)
			p.from(first, true, 1, 2)
		}, Counts{Received: 2, Redelivered: 1}},
		{"marked, but another one", func(p *play) {
			p.send(1)
			p.get(1)
			p.from(Place{"a", 2}, true, 1)
		}, Counts{Received: 1, Duplicates: 1}},
		{"sent twice", func(p *play) {
			p.send(2)
			p.get(1)
			p.Resend(0, 1, 3)
			p.from(Place{"a", 2}, false, 1, 2)
		}, Counts{Received: 2, Resent: 1}},
		{"out of order", func(p *play) {
			p.send(3)
			p.get(1, 3, 2)
		}, Counts{Received: 3, OutOfOrder: 1}},
		{"lives of a Doppler have their own order", func(p *play) {
			p.send(3)
			p.get(3)
			p.from(Place{"a", 2}, false, 1, 2)
		}, Counts{Received: 3}},
		{"what is redelivered has none", func(p *play) {
			p.send(3)
			p.get(3)
			p.from(first, true, 1, 2)
		}, Counts{Received: 3}},
		{"never confirmed", func(p *play) {
			p.send(3)
			p.Confirm(0, 2, 1)
			p.GiveUp(0, 2)
			p.expire(100)
		}, Counts{Given: 2, Lost: 1, Unexplained: 1}},
		{"never confirmed, and there", func(p *play) {
			p.send(2)
			p.GiveUp(0, 2)
			p.get(2)
		}, Counts{Given: 1, Received: 1}},
		{"the end", func(p *play) {
			p.send(3)
			p.get(1)
			p.Confirm(0, 3, 1)
			p.Finish(2)
		}, Counts{Received: 1, Lost: 1, Unexplained: 1, Given: 1}},
		{"never sent", func(p *play) {
			p.send(1)
			p.get(2, 0)
			p.Receive(Arrival{Lane: 1, Number: 1}, 0)
		}, Counts{Outstanding: 1, Strange: 3}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := &play{NewLedger(1, 100, 10), t}
			tc.play(p)
			if got := p.Counts(); got != tc.want {
				t.Errorf("\n got %+v\nwant %+v", got, tc.want)
			}
		})
	}
}

// TestOneDopplerIsNotTheOther has two lanes to two Dopplers: what one tells is
// no excuse for the other.
func TestOneDopplerIsNotTheOther(t *testing.T) {
	l := NewLedger(2, 100, 10)
	for lane := range 2 {
		l.Send(lane, 0)
		l.Send(lane, 0)
		l.Confirm(lane, 3, 1)
	}
	l.Receive(Arrival{Lane: 0, Number: 1, Place: Place{"a", 1}}, 1)
	l.Receive(Arrival{Lane: 1, Number: 1, Place: Place{"b", 1}}, 1)
	l.Gap(Gap{Place: Place{"a", 1}, Open: true})
	l.Expire(11, func(int) bool { return false })
	if got, want := l.Counts(), (Counts{Received: 2, Lost: 2, Unexplained: 1}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	l.Gap(Gap{Place: Place{"new", 1}, Open: true}) // nobody knows who that is
	if got := l.Counts(); got.Unexplained != 0 {
		t.Errorf("unexplained %d", got.Unexplained)
	}
}

// TestMemoryIsBounded sends for long to a ledger that remembers little.
func TestMemoryIsBounded(t *testing.T) {
	p := &play{NewLedger(1, 10, 5), t}
	for number := uint64(1); number <= 10_000; number++ {
		if p.Full(0) {
			t.Fatalf("full at %d", number)
		}
		p.Send(0, time.Duration(number))
		p.Confirm(0, number+1, time.Duration(number))
		switch {
		case number%1000 == 500: // never comes, and nobody says so
		case number%2 == 0:
			p.from(Place{"a", number}, false, number)
		default:
			p.from(Place{"a", number}, false, number)
			p.Gap(Gap{Place: Place{"a", number}, Open: true})
		}
		p.expire(time.Duration(number))
	}
	p.get(1)
	got := p.Counts()
	if got.Received != 9990 || got.Lost != 10 || got.Forgotten != 1 {
		t.Errorf("%+v", got)
	}
	n := &p.lanes[0]
	if len(n.entries) != 10 || len(n.waiting) > 11 || len(n.unexplained) > 10 || len(p.gaps) > 11 || len(p.places.known) > maxPlaces || len(n.dopplers) > maxNames {
		t.Errorf("it has %d entries, %d waiting, %d unexplained, %d gaps, %d places, %d names", len(n.entries), len(n.waiting), len(n.unexplained), len(p.gaps), len(p.places.known), len(n.dopplers))
	}
}

// TestFullWhileNothingComes has a path that is away for long.
func TestFullWhileNothingComes(t *testing.T) {
	p := &play{NewLedger(1, 10, 10), t}
	p.send(9)
	if p.Full(0) {
		t.Error("full of 9")
	}
	p.send(1)
	if !p.Full(0) {
		t.Error("not full of 10")
	}
	p.get(1)
	if p.Full(0) {
		t.Error("full, though the oldest was received")
	}
}

func TestSpread(t *testing.T) {
	var s, all Spread
	for n := 1; n <= 100_000; n++ {
		s.Add(time.Duration(n) * time.Microsecond)
	}
	all.Join(&s)
	for _, q := range []float64{0.001, 0.5, 0.99, 0.999} {
		want := q * 0.1
		if got := all.Quantile(q).Seconds(); got < want || got > want*1.07 {
			t.Errorf("quantile %v is %v, want %v", q, got, want)
		}
	}
	if all.Max() != 100*time.Millisecond || all.Total() != 100_000 || all.Quantile(1) != all.Max() {
		t.Errorf("max %s, total %d, quantile 1 %s", all.Max(), all.Total(), all.Quantile(1))
	}
	var none Spread
	none.Add(-time.Second)
	if none.Quantile(0.5) != 0 {
		t.Errorf("of one that came before it went: %s", none.Quantile(0.5))
	}
}
