package slow

import (
	"sort"
	"time"
)

// Timeline knows when the entries of a log came: somebody notes from time to
// time how far the log has got, and nobody has to for each entry. Ages are as
// exact as the notes are often, and never too high. The zero value is ready; it
// is for one goroutine at a time.
type Timeline struct {
	notes []note // both fields ascend
}

// note says that everything below head was there at a time.
type note struct {
	at   time.Time
	head uint64
}

// maxNotes bounds a Timeline. Beyond them every second one is forgotten: the
// older an entry, the coarser its age, but within a fiftieth of it.
const maxNotes = 4096

// Note says that the next entry is head, and that those below oldest are held
// no more.
func (t *Timeline) Note(now time.Time, oldest, head uint64) {
	if n := len(t.notes); n > 0 && t.notes[n-1].head >= head {
		return
	}
	gone := sort.Search(len(t.notes), func(i int) bool { return t.notes[i].head > oldest })
	t.notes = append(t.notes[:0], t.notes[gone:]...)
	if len(t.notes) >= maxNotes {
		half := t.notes[:0]
		for i := 1; i < len(t.notes); i += 2 {
			half = append(half, t.notes[i])
		}
		t.notes = half
	}
	t.notes = append(t.notes, note{now, head})
}

// Age is for how long an entry has been there, at least.
func (t *Timeline) Age(now time.Time, entry uint64) time.Duration {
	i := sort.Search(len(t.notes), func(i int) bool { return t.notes[i].head > entry })
	if i == len(t.notes) {
		return 0 // came since the last note
	}
	return max(now.Sub(t.notes[i].at), 0)
}
