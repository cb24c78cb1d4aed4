package trafficcontroller

import (
	"context"
	"net/url"
	"sync"
)

// askHistory asks every Doppler at once for the history of a source. One that
// does not answer in time is left out.
func (t *TrafficController) askHistory(ctx context.Context, source string, query url.Values) (answers [][]byte, dopplers int) {
	ctx, cancel := context.WithTimeout(ctx, t.cfg.GatherTimeout)
	defer cancel()
	addrs := t.relay.Addrs()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, addr := range addrs {
		wg.Go(func() {
			body, err := t.dialer.History(ctx, addr, source, query)
			if err != nil {
				t.log.Warn("history could not be read", "addr", addr, "source_id", source, "error", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers = append(answers, body)
		})
	}
	wg.Wait()
	return answers, len(addrs)
}
