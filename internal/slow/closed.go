package slow

import (
	"sync"
	"time"
)

// Bounds of what is remembered of readers that are gone.
const (
	closedFor  = 15 * time.Minute
	closedMost = 1000
)

// Closed remembers the readers that have gone of late, for views: the newest
// 1,000 of the last 15 minutes. The zero value is ready; it may be used
// concurrently.
type Closed[T any] struct {
	mu   sync.Mutex
	list []closed[T] // oldest first
}

type closed[T any] struct {
	at  time.Time
	row T
}

// Add remembers one that has gone just now.
func (c *Closed[T]) Add(now time.Time, row T) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	if len(c.list) == closedMost {
		clear(c.list[:1])
		c.list = c.list[1:]
	}
	c.list = append(c.list, closed[T]{now, row})
}

// List returns them, the last one to go first.
func (c *Closed[T]) List(now time.Time) []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forget(now)
	rows := make([]T, len(c.list))
	for i, one := range c.list {
		rows[len(rows)-1-i] = one.row
	}
	return rows
}

func (c *Closed[T]) forget(now time.Time) {
	n := 0
	for n < len(c.list) && now.Sub(c.list[n].at) > closedFor {
		n++
	}
	clear(c.list[:n])
	c.list = c.list[n:]
}

// Who is a reader, for views.
type Who struct {
	Class     string // kind of reader, which has a policy
	Remote    string // address
	Forwarded string // what proxies say of it
	UserAgent string
	User      string // empty if it is not known
}
