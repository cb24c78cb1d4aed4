package nozzle

import (
	"context"
	"errors"
	"fmt"
	"time"

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

// access takes note of how long the token is good for.
func (l *link) access(a *streampb.Access) {
	if a == nil {
		return
	}
	if a.GetError() != "" {
		l.notify(Notice{Kind: TokenRefused, Err: errors.New(a.GetError())})
	}
	if l.cfg.Header == nil || a.GetExpiresInMillis() <= 0 {
		return
	}
	select {
	case <-l.renewals: // what was known before
	default:
	}
	l.renewals <- renewIn(time.Duration(a.GetExpiresInMillis()) * time.Millisecond)
}

// renew sends another token whenever the one before is about to end, until ctx
// does. The server says how long each is good for.
func (l *link) renew(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for {
		select {
		case wait := <-l.renewals:
			timer.Reset(wait)
		case <-timer.C:
			if err := l.sendToken(ctx); err != nil && ctx.Err() == nil {
				l.notify(Notice{Kind: TokenRefused, Err: err})
				timer.Reset(soonestRenewal)
			}
		case <-ctx.Done():
			return
		}
	}
}

// sendToken asks for a token and sends it.
func (l *link) sendToken(ctx context.Context) error {
	header, err := l.cfg.Header(ctx)
	if err != nil {
		return fmt.Errorf("make headers: %w", err)
	}
	token := header.Get("Authorization")
	if token == "" {
		return errNoToken
	}
	msg, err := stream.AppendControl(nil, &streampb.Control{Message: &streampb.Control_Token{Token: &streampb.Token{Token: token}}})
	if err != nil {
		return err
	}
	bounded, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	return l.conn.Send(bounded, msg)
}
