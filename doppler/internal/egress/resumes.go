package egress

import (
	"sync/atomic"
	"time"
)

// resumes knows whether tails that came back read what they have missed. What
// they have missed is asked for in pieces, by a Traffic Controller that may have
// many such tails: the reads follow each other closely. It may be used
// concurrently.
type resumes struct {
	reads atomic.Int64 // under way
	last  atomic.Int64 // end of the latest, unix nanoseconds
}

// resumePause is how long after one read the next may begin.
const resumePause = 250 * time.Millisecond

// read notes the beginning of a read; done has to be called at its end.
func (r *resumes) read() (done func()) {
	r.reads.Add(1)
	return func() {
		r.last.Store(time.Now().UnixNano())
		r.reads.Add(-1)
	}
}

// goOn tells whether there is more to be read.
func (r *resumes) goOn(now time.Time) bool {
	return r.reads.Load() > 0 || now.UnixNano()-r.last.Load() < int64(resumePause)
}
