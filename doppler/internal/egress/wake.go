package egress

import "time"

// Pacing: a session that has written less than pace ago waits for the mark,
// so that tiny envelopes at a high rate share system calls; light load is
// sent at once.
const (
	pace       = 500 * time.Microsecond
	paceEnough = 128 // envelopes not to wait for
)

// waker wakes one goroutine; signals while it is awake are remembered once.
type waker chan struct{}

func newWaker() waker { return make(waker, 1) }

func (w waker) signal() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// pacer keeps a session's writes apart.
type pacer struct {
	last  time.Time
	timer *time.Timer
}

// wait blocks until the mark after the last write, unless enough is there
// already or done closes.
func (p *pacer) wait(enough bool, done <-chan struct{}) {
	left := pace - time.Since(p.last)
	if enough || left <= 0 {
		return
	}
	if p.timer == nil {
		p.timer = time.NewTimer(left)
	} else {
		p.timer.Reset(left)
	}
	select {
	case <-p.timer.C:
	case <-done:
		p.timer.Stop()
	}
}
