package auth

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// key names a question. It holds a hash of the token, never the token.
type key [sha256.Size]byte

// keyOf hashes parts, each with its length, so that no two lists are alike.
func keyOf(parts ...string) key {
	h := sha256.New()
	for _, part := range parts {
		var size [8]byte
		binary.BigEndian.PutUint64(size[:], uint64(len(part)))
		h.Write(size[:])
		h.Write([]byte(part))
	}
	return key(h.Sum(nil))
}

// cache keeps answers that said yes for a while. When it is full the oldest
// goes: they live about equally long, so it is also the next to end.
type cache struct {
	limit int

	mu      sync.Mutex
	entries map[key]*list.Element
	order   *list.List // of *entry, oldest first
	hits    uint64
}

type entry struct {
	key          key
	value        any
	asked, until time.Time
}

func newCache(limit int) *cache {
	return &cache{limit: limit, entries: map[key]*list.Element{}, order: list.New()}
}

// get returns an answer whose time has not come yet, and that is not from before
// oldest.
func (c *cache) get(k key, oldest time.Time) (any, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.entries[k]
	if !ok {
		return nil, false
	}
	e := el.Value.(*entry)
	if !time.Now().Before(e.until) {
		c.remove(el)
		return nil, false
	}
	if e.asked.Before(oldest) {
		return nil, false
	}
	c.hits++
	return e.value, true
}

// put keeps an answer to what was asked at a time until another, which may be
// past.
func (c *cache) put(k key, value any, asked, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[k]; ok {
		c.remove(el)
	}
	now := time.Now()
	if !now.Before(until) {
		return
	}
	for el := c.order.Front(); el != nil && (len(c.entries) >= c.limit || !now.Before(el.Value.(*entry).until)); el = c.order.Front() {
		c.remove(el)
	}
	c.entries[k] = c.order.PushBack(&entry{k, value, asked, until})
}

// forget drops an answer, if it is there.
func (c *cache) forget(k key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[k]; ok {
		c.remove(el)
	}
}

func (c *cache) remove(el *list.Element) {
	delete(c.entries, c.order.Remove(el).(*entry).key)
}

func (c *cache) size() (entries int, hits uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.entries), c.hits
}
