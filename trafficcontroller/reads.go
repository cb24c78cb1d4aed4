package trafficcontroller

import (
	"context"
	"net/url"
	"sync"
)

// gathered is what the Dopplers answered.
type gathered struct {
	bodies [][]byte // of those that did, in the order of their addresses
	late   int      // asked, but without an answer in time
	away   int      // not connected, so not asked
}

// gather asks every Doppler at once. One that does not answer in time is left
// out; if connected is set, so is one whose link is not.
func (t *TrafficController) gather(ctx context.Context, connected bool, source string, ask func(ctx context.Context, addr string) ([]byte, error)) gathered {
	bounded, cancel := context.WithTimeout(ctx, t.cfg.GatherTimeout)
	defer cancel()
	var g gathered
	addrs := t.relay.Addrs()
	bodies := make([][]byte, len(addrs))
	var wg sync.WaitGroup
	for i, addr := range addrs {
		if connected && !t.links.Linked(addr) {
			g.away++
			continue
		}
		wg.Go(func() {
			body, err := ask(bounded, addr)
			switch {
			case err == nil:
				bodies[i] = body
			case ctx.Err() == nil: // else the client has left
				t.readLog.Warn("history could not be read", "addr", addr, "source_id", source, "error", err)
			}
		})
	}
	wg.Wait()
	for _, body := range bodies {
		if body != nil {
			g.bodies = append(g.bodies, body)
		}
	}
	g.late = len(addrs) - g.away - len(g.bodies)
	return g
}

// askHistory asks every Doppler for the history of a source.
func (t *TrafficController) askHistory(ctx context.Context, source string, query url.Values) (answers [][]byte, dopplers int) {
	g := t.gather(ctx, false, source, func(ctx context.Context, addr string) ([]byte, error) {
		return t.dialer.History(ctx, addr, source, query)
	})
	return g.bodies, len(g.bodies) + g.late
}
