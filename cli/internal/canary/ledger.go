// Package canary knows what a probe of the platform has sent, what came back
// and what it was told it misses, and what of all that nobody has explained.
package canary

import (
	"slices"
	"time"
)

// Ledger is the bookkeeping of one path: a tail or the Firehose. It is a
// synchronous state machine: no goroutine, clock or socket. Times are those
// since any fixed moment, and never go back.
//
// A number is an envelope of a lane, which is a connection to a Doppler or to
// an agent; a lane counts from 1. It is outstanding until it is received, or
// lost: confirmed by the Doppler, for longer than patience while both ends
// could be reached, and not received. A lost number is explained when a gap was
// told that may stand for it.
type Ledger struct {
	patience time.Duration
	lanes    []lane
	places   places
	gaps     []*told // in the order in which they were told
	counts   Counts
}

// lane is what was sent over one connection.
type lane struct {
	entries     []entry  // of the numbers in [low, next), at number % len
	low, next   uint64   // what is remembered
	settled     uint64   // no number below it is outstanding
	confirmed   uint64   // all below it are confirmed, or given up
	waiting     []wait   // confirmed, and not settled
	clock       moment   // how long both ends could be reached
	looked      moment   // when clock was last moved
	unexplained []uint64 // lost numbers, sorted
	dopplers    map[string]bool
}

type moment = time.Duration

// wait is a run of numbers, up to below end, confirmed at the same time of the
// lane's clock.
type wait struct {
	end uint64
	at  moment
}

type entry struct {
	state  state
	resent bool   // it may be there twice
	sent   moment // when it was made
	place  uint32 // where it was received from first
	offset uint64
	gap    *told // that explains its loss
}

type state uint8

const (
	outstanding state = iota
	given             // up: nobody knows whether it was accepted
	received
	lost
)

// Counts are what a Ledger has seen, in envelopes.
type Counts struct {
	// Received counts each number once, Outstanding those still waited for.
	Received, Outstanding uint64
	// Lost counts numbers that are lost now, Late those received after all,
	// which were Lost before. Unexplained are those of Lost that no gap stands
	// for.
	Lost, Late, Unexplained uint64
	// Given are numbers that nobody knows to be accepted, and that were not
	// received.
	Given uint64
	// Duplicates are received again without a mark, Redelivered with one, and
	// Resent because they were sent twice.
	Duplicates, Redelivered, Resent uint64
	// OutOfOrder came behind a later one of the same life of the same Doppler.
	OutOfOrder uint64
	// Forgotten came so late that nobody knows any more what they were.
	Forgotten uint64
	// Strange are numbers that were never sent.
	Strange uint64
}

// NewLedger remembers size numbers of all lanes together, at least one of each.
func NewLedger(lanes, size int, patience time.Duration) *Ledger {
	l := &Ledger{patience: patience, lanes: make([]lane, lanes)}
	for i := range l.lanes {
		l.lanes[i] = lane{
			entries: make([]entry, max(size/lanes, 1)), low: 1, next: 1, settled: 1, confirmed: 1,
			dopplers: make(map[string]bool),
		}
	}
	return l
}

// Counts returns what was seen until now.
func (l *Ledger) Counts() Counts { return l.counts }

// Full says that no number can be sent on a lane: the oldest one remembered is
// outstanding.
func (l *Ledger) Full(i int) bool {
	n := &l.lanes[i]
	return n.next-n.low == uint64(len(n.entries)) && n.at(n.low).state == outstanding
}

// Send returns the next number of a lane that is not Full.
func (l *Ledger) Send(i int, now time.Duration) uint64 {
	n := &l.lanes[i]
	if n.next-n.low == uint64(len(n.entries)) {
		n.forget()
	}
	number := n.next
	n.next++
	*n.at(number) = entry{sent: now}
	l.counts.Outstanding++
	return number
}

// Confirm says that all numbers of a lane below end are accepted.
func (l *Ledger) Confirm(i int, end uint64, now time.Duration) {
	n := &l.lanes[i]
	if end = min(end, n.next); end <= n.confirmed {
		return
	}
	n.confirmed = end
	n.waiting = append(n.waiting, wait{end, n.clock + now - n.looked})
}

// Resend says that the numbers from first on to below end are sent again.
func (l *Ledger) Resend(i int, first, end uint64) {
	n := &l.lanes[i]
	for number := max(first, n.low); number < min(end, n.next); number++ {
		n.at(number).resent = true
	}
}

// GiveUp says that nobody will ever know of the numbers of a lane that are not
// confirmed whether they were accepted.
func (l *Ledger) GiveUp(i int, now time.Duration) {
	n := &l.lanes[i]
	for number := max(n.confirmed, n.low); number < n.next; number++ {
		e := n.at(number)
		e.resent = true
		if e.state == outstanding {
			e.state = given
			l.counts.Outstanding--
			l.counts.Given++
		}
	}
	l.Confirm(i, n.next, now)
}

// Expire looks what is lost by now. Time stands still on a lane that is held:
// its Doppler cannot be reached, or this path.
func (l *Ledger) Expire(now time.Duration, held func(lane int) bool) {
	for i := range l.lanes {
		n := &l.lanes[i]
		n.pass()
		n.tick(now, held(i))
		done := 0
		for done < len(n.waiting) && n.clock-n.waiting[done].at >= l.patience {
			l.settle(i, n.waiting[done].end)
			done++
		}
		n.waiting = slices.Delete(n.waiting, 0, done)
	}
	l.dropSettled()
}

// tick moves the clock. What was confirmed while it stood still was confirmed
// when it did.
func (n *lane) tick(now moment, held bool) {
	if !held {
		n.clock += now - n.looked
	}
	n.looked = now
	for i := len(n.waiting) - 1; i >= 0 && n.waiting[i].at > n.clock; i-- {
		n.waiting[i].at = n.clock
	}
}

// pass moves settled over what is not outstanding.
func (n *lane) pass() {
	for n.settled < n.next && n.at(n.settled).state != outstanding {
		n.settled++
	}
}

// Oldest is for how long the oldest one that is outstanding was sent by now; 0
// when none is. It is exact after Expire.
func (l *Ledger) Oldest(now time.Duration) time.Duration {
	oldest := time.Duration(0)
	for i := range l.lanes {
		n := &l.lanes[i]
		if n.settled < n.next && n.at(n.settled).state == outstanding {
			oldest = max(oldest, now-n.at(n.settled).sent)
		}
	}
	return oldest
}

// Finish gives up waiting: what is outstanding and confirmed is lost.
func (l *Ledger) Finish(now time.Duration) {
	for i := range l.lanes {
		l.GiveUp(i, now)
		l.settle(i, l.lanes[i].next)
		l.lanes[i].waiting = nil
	}
}

// settle says that what is outstanding below end is lost.
func (l *Ledger) settle(i int, end uint64) {
	n := &l.lanes[i]
	for ; n.settled < end; n.settled++ {
		if n.settled >= n.low && n.at(n.settled).state == outstanding {
			l.lose(i, n.settled)
		}
	}
}

func (l *Ledger) lose(i int, number uint64) {
	n := &l.lanes[i]
	e := n.at(number)
	e.state = lost
	l.counts.Outstanding--
	l.counts.Lost++
	l.counts.Unexplained++
	at, _ := slices.BinarySearch(n.unexplained, number)
	n.unexplained = slices.Insert(n.unexplained, at, number)
	for _, g := range l.gaps {
		if l.explain(i, number, g) {
			return
		}
	}
}

func (n *lane) at(number uint64) *entry { return &n.entries[number%uint64(len(n.entries))] }

// forget lets go of the oldest number. What is unexplained of it remains so.
func (n *lane) forget() {
	if len(n.unexplained) > 0 && n.unexplained[0] == n.low {
		n.unexplained = n.unexplained[1:]
	}
	n.low++
	n.settled = max(n.settled, n.low)
}
