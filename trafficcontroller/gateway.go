package trafficcontroller

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/api"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/gateway"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/relay"
)

// buildGateway makes the stream of Server-Sent Events one more framing of the
// Firehose.
func (t *TrafficController) buildGateway() http.Handler {
	return gateway.New(gateway.Config{
		Allow:     t.access.Read,
		Admit:     t.admitRead,
		Open:      t.openGateway,
		Heartbeat: gateway.DefaultHeartbeat, StreamTimeout: t.cfg.ReadTimeout,
	})
}

// admitRead counts a new stream, in the words of both.
func (t *TrafficController) admitRead(r *http.Request, leave any) (func(), error) {
	user := ""
	if l, ok := leave.(api.Leave); ok {
		user = l.Name()
	}
	dismiss, err := t.api.Admit(r, user)
	if errors.Is(err, api.ErrOverLimit) {
		err = fmt.Errorf("%w: %w", gateway.ErrOverLimit, err)
	}
	return dismiss, err
}

func (t *TrafficController) openGateway(conn *gateway.Conn, q gateway.Query, closed func()) error {
	query := url.Values{"selector": q.Selectors}
	if q.DeterministicName != "" {
		query.Set("deterministic_name", q.DeterministicName)
	}
	client := t.api.ClientOf(q.Request)
	if leave, ok := q.Leave.(api.Leave); ok {
		client.User = leave.Name()
	}
	hold := t.access.hold(q.Leave, conn)
	err := t.relay.Open(conn, relay.Options{
		Subscription: q.ShardID, Query: query, Slow: t.cfg.Slow[classRead], Who: whoIs(classRead, client), Remote: client.Remote,
		Framing: &relay.Framing{
			Encoder: gateway.NewEncoder, StuckTimeout: t.cfg.StuckTimeout, SlowCode: stream.CloseStuck,
		},
		Closed: func(row relay.Row, err error) {
			hold.Release()
			t.relayClosed("read", classRead, http.StatusOK, client, row, stream.CloseOf(nil, err))
			closed()
		},
	})
	if err != nil {
		hold.Release()
	}
	return err
}
