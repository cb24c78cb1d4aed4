//go:build linux

package chaos

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/integration/load"
)

// account is what the readers of one subscription, or one tail, have.
type account struct {
	distinct uint64
	// again counts envelopes that came again: marked as redelivered, or not.
	again, unmarked uint64
	// told counts envelopes in exact gaps; vague the gaps that were not exact.
	told, vague uint64
}

func (a account) sub(b account) account {
	return account{a.distinct - b.distinct, a.again - b.again, a.unmarked - b.unmarked, a.told - b.told, a.vague - b.vague}
}

// ledger keeps the account of a subscription, or of one tail, for all of its
// readers.
type ledger struct {
	name string
	// tail says that only the tailed source is expected.
	tail bool
	// old says that what is in sockets when a connection breaks is lost.
	old bool

	mu      sync.Mutex
	seen    load.Set // by anybody
	first   load.Set // in a batch that was not marked
	account account
}

func (l *ledger) take(ids []load.ID, redelivered bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		isNew := l.seen.Add(id)
		switch {
		case redelivered && !isNew:
			l.account.again++
		case !redelivered && !l.first.Add(id):
			l.account.unmarked++
		}
	}
	l.account.distinct = l.seen.Count()
}

func (l *ledger) tell(gaps []*streampb.Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, gap := range gaps {
		if gap.GetPrecision() == streampb.Gap_EXACT {
			l.account.told += gap.GetCount()
		} else {
			l.account.vague++
		}
	}
}

func (l *ledger) has(id load.ID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seen.Has(id)
}

func (l *ledger) now() account {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.account
}

// reader is one client of a Traffic Controller.
type reader struct {
	*ledger
	kind       readerKind
	controller int
	cuts       atomic.Uint64 // connections that were lost

	amu     sync.Mutex
	since   time.Time
	arrived map[int]time.Time // by sender: the first that came since then
}

// took is called with what the reader has got, before it acks that.
func (r *reader) took(ids []load.ID, redelivered bool) {
	r.take(ids, redelivered)
	now := time.Now()
	r.amu.Lock()
	defer r.amu.Unlock()
	for _, id := range ids {
		if _, ok := r.arrived[id.Sender]; !ok && r.arrived != nil {
			r.arrived[id.Sender] = now
		}
	}
}

// watch forgets what has arrived.
func (r *reader) watch() {
	r.amu.Lock()
	defer r.amu.Unlock()
	r.since, r.arrived = time.Now(), make(map[int]time.Time)
}

// arrival is how long after watch the first envelope of a sender came.
func (r *reader) arrival(sender int) (time.Duration, bool) {
	r.amu.Lock()
	defer r.amu.Unlock()
	at, ok := r.arrived[sender]
	return at.Sub(r.since), ok
}
