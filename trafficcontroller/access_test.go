package trafficcontroller

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/trafficcontroller/internal/auth"
)

func TestOldClientsAreToldWhatTheyKnow(t *testing.T) {
	old := auth.Decision{Reason: auth.NoScope, Status: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {"Basic"}}}
	for _, test := range []struct {
		path, subprotocols string
		want               int
	}{
		{"/firehose/a", "", 401},
		{"/firehose/a", "other", 401},
		{"/apps/a/stream", "", 401},
		{"/apps/a/recentlogs", "", 401},
		{"/firehose/a", "other, " + stream.Subprotocol, 403},
		{"/apps/a/stream", stream.Subprotocol, 403},
		{"/v2/subscriptions", "", 403},
		{"/v2/sources", "", 403},
	} {
		r := httptest.NewRequest(http.MethodGet, test.path, nil)
		if test.subprotocols != "" {
			r.Header.Set("Sec-WebSocket-Protocol", test.subprotocols)
		}
		if d := told(r, old); d.Status != test.want {
			t.Errorf("%s %q: %d, want %d", test.path, test.subprotocols, d.Status, test.want)
		}
	}
}
