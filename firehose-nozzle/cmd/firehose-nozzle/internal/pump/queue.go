package pump

import (
	"context"
	"sync"

	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

// queue holds batches between stream and sink, bounded in bytes. put and take
// may run concurrently with each other, not with themselves.
type queue struct {
	limit int
	some  chan struct{} // says that there may be something to take
	room  chan struct{} // says that there may be room

	mu      sync.Mutex
	batches []*nozzle.Batch
	bytes   int
	closed  bool
}

func newQueue(limit int) *queue {
	return &queue{limit: limit, some: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

// put blocks until there is room; it returns false when ctx ends before. A
// batch larger than the queue fits an empty one.
func (q *queue) put(ctx context.Context, b *nozzle.Batch) bool {
	for {
		q.mu.Lock()
		if q.bytes == 0 || q.bytes+size(b) <= q.limit {
			q.batches = append(q.batches, b)
			q.bytes += size(b)
			q.mu.Unlock()
			signal(q.some)
			return true
		}
		q.mu.Unlock()
		select {
		case <-q.room:
		case <-ctx.Done():
			return false
		}
	}
}

// close says that nothing more is put.
func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	signal(q.some)
}

// take returns all batches there are, in order. It blocks until there is one,
// and returns nil when the queue is closed and empty, or ctx ends.
func (q *queue) take(ctx context.Context, into []*nozzle.Batch) []*nozzle.Batch {
	for {
		q.mu.Lock()
		batches, closed := q.batches, q.closed
		if len(batches) > 0 {
			q.batches, q.bytes = into[:0], 0
			q.mu.Unlock()
			signal(q.room)
			return batches
		}
		q.mu.Unlock()
		if closed {
			return nil
		}
		select {
		case <-q.some:
		case <-ctx.Done():
			return nil
		}
	}
}

func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// size is what a batch counts in a queue.
func size(b *nozzle.Batch) int { return len(b.Envelopes) + 64*(1+len(b.Gaps)) }
