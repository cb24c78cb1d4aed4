package trafficcontroller

import (
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
		Admit:     func() (func(), error) { return t.api.Admit() },
		Open:      t.openGateway,
		Heartbeat: gateway.DefaultHeartbeat, StreamTimeout: t.cfg.ReadTimeout,
	})
}

func (t *TrafficController) openGateway(conn *gateway.Conn, q gateway.Query, closed func()) error {
	query := url.Values{"selector": q.Selectors}
	if q.DeterministicName != "" {
		query.Set("deterministic_name", q.DeterministicName)
	}
	client := api.ClientOf(q.Request)
	client.User = q.User
	return t.relay.Open(conn, relay.Options{
		Subscription: q.ShardID, Query: query, Slow: t.cfg.Slow[classRead], Who: whoIs(classRead, client), Remote: client.Remote,
		Framing: &relay.Framing{
			Encoder: gateway.NewEncoder, StuckTimeout: t.cfg.StuckTimeout, SlowCode: stream.CloseStuck,
		},
		Closed: func(row relay.Row, err error) {
			t.relayClosed("read", classRead, http.StatusOK, client, row, stream.CloseOf(nil, err))
			closed()
		},
	})
}
