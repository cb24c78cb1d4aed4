package doppler

import (
	"github.com/a1ea6966/loggregator/doppler/internal/egress"
	"github.com/a1ea6966/loggregator/doppler/internal/ingress"
	"github.com/a1ea6966/loggregator/doppler/internal/recent"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// snapshot is every counter of the Doppler at about one moment.
type snapshot struct {
	in     ingress.Stats
	out    egress.Stats
	ring   ring.Stats
	recent recent.Stats
}

func (d *Doppler) snapshot() snapshot {
	return snapshot{in: d.ingress.Stats(), out: d.egress.Stats(), ring: d.ring.Stats(), recent: d.recent.Stats()}
}
