//go:build !race

package ring

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// The race detector allocates by itself, so this is not run under it.
func TestHotPathDoesNotAllocate(t *testing.T) {
	r := small(t, func(c *Config) { c.OnEvict = func(Evicted) {} })
	b := &batch{}
	for i := range 20 {
		b.add(string(rune('a'+i%5)), envelope.Log, sized(30, byte(i)))
	}
	for range 50 {
		b.to(r)
	}
	s := r.Ref("a")
	defer r.Unref(s)
	for name, f := range map[string]func(){
		"append":      func() { b.to(r) },
		"evict ahead": func() { b.to(r); r.EvictAhead() },
		"acquire": func() {
			c, err := r.Acquire(r.Oldest() + 3)
			if err != nil {
				t.Error(err)
			}
			c.Release()
		},
		"appended": func() { r.Appended(Filter{Mask: envelope.AllClasses}) },
		"evicted":  func() { r.Evicted(Filter{Mask: envelope.AllClasses}) },
	} {
		if n := testing.AllocsPerRun(200, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
