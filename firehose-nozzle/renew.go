package nozzle

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

const (
	// earliness is how long before its end a token is renewed: a quarter of what
	// it has left, at most this.
	earliness = time.Minute
	// A token that is not taken is tried again, but not all the time.
	soonestRenewal = time.Second
)

// errNoToken says that Header gave nothing to renew a token with.
var errNoToken = errors.New("the headers have no Authorization")

// renewIn is when to renew a token that ends in left.
func renewIn(left time.Duration) time.Duration {
	return max(left-min(left/4, earliness), soonestRenewal)
}

// schedule says when to send a token. The server tells how much time the one in
// force has left, but not when it wrote that, and who reads may lag far behind: so
// that time is counted from when the token was sent that the server answers.
type schedule struct {
	ends     time.Time // of the token in force
	since    time.Time // when the first token was sent that has no answer; else the last
	sent     time.Time // the last token
	open     bool      // there is one without an answer
	failures int       // in a row
	waits    backoff.BackOff
}

// newSchedule is that of a connection whose handshake had a token just now.
func newSchedule(now time.Time) *schedule { return &schedule{since: now, sent: now} }

// answered takes what the server says, and tells when to send a token; 0 is never.
func (s *schedule) answered(a *streampb.Access, now time.Time) time.Duration {
	since, least := s.since, soonestRenewal
	s.since, s.open = s.sent, false
	left := time.Duration(a.GetExpiresInMillis()) * time.Millisecond
	s.ends = since.Add(left)
	if a.GetError() == "" {
		s.failures, s.waits = 0, nil
	} else {
		least = max(least, s.failed(now))
	}
	if left == 0 {
		return 0
	}
	return max(renewIn(left)-now.Sub(since), least)
}

// asked notes that a token was sent at a time, and tells when to send another
// should no answer come.
func (s *schedule) asked(at time.Time) time.Duration {
	if !s.open {
		s.since = at
	}
	s.sent, s.open = at, true
	return s.part(at, 2)
}

// failed notes that no token could be sent, or that it was refused, and tells when
// to try again at the soonest.
func (s *schedule) failed(now time.Time) time.Duration {
	s.failures++
	if s.waits == nil {
		s.waits = backoff.NewExponentialBackOff(
			backoff.WithInitialInterval(soonestRenewal),
			backoff.WithMaxInterval(s.part(now, 4)),
			backoff.WithMaxElapsedTime(0),
		)
	}
	return s.waits.NextBackOff()
}

// part is an nth of what the token in force has left. Once it has ended there is no
// hurry any more.
func (s *schedule) part(now time.Time, n time.Duration) time.Duration {
	left := s.ends.Sub(now)
	if left <= 0 {
		return earliness
	}
	return max(left/n, soonestRenewal)
}

// access has the goroutine that renews take note of how long the token is good for.
func (l *link) access(a *streampb.Access) {
	if a == nil || l.cfg.Header == nil {
		return
	}
	select {
	case <-l.answers: // what was known before
	default:
	}
	l.answers <- a
}

// renew sends another token whenever the one before is about to end, until ctx
// does. The server says how long each is good for.
func (l *link) renew(ctx context.Context, s *schedule) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case a := <-l.answers:
			wait := s.answered(a, time.Now())
			if timer.Stop(); wait > 0 {
				timer.Reset(wait)
			}
			if a.GetError() != "" {
				l.notify(Notice{Kind: TokenRefused, Err: errors.New(a.GetError()), Attempt: s.failures})
			}
		case <-timer.C:
			timer.Reset(l.another(ctx, s))
		case <-ctx.Done():
			return
		}
	}
}

// another sends another token, and tells when to send the next should the server
// not say.
func (l *link) another(ctx context.Context, s *schedule) time.Duration {
	at, err := l.sendToken(ctx)
	if err == nil {
		return s.asked(at)
	}
	wait := s.failed(time.Now())
	if ctx.Err() == nil {
		l.notify(Notice{Kind: TokenRefused, Err: err, Attempt: s.failures, Wait: wait})
	}
	return wait
}

// sendToken asks for a token and sends it. What it says of the time is no later
// than when the server had it.
func (l *link) sendToken(ctx context.Context) (at time.Time, err error) {
	header, err := l.cfg.Header(ctx)
	if err != nil {
		return at, fmt.Errorf("make headers: %w", err)
	}
	token := header.Get("Authorization")
	if token == "" {
		return at, errNoToken
	}
	msg, err := stream.AppendControl(nil, &streampb.Control{Message: &streampb.Control_Token{Token: &streampb.Token{Token: token}}})
	if err != nil {
		return at, err
	}
	bounded, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	at = time.Now()
	return at, l.conn.Send(bounded, msg)
}
