package relay

import (
	"sync"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// OldFraming is the framing of clients that know dropsonde: one envelope in
// each WebSocket message (protocol/03). It is for one client. To such clients
// the close code for a slow one means "too slow" (protocol, sharp edge 4).
func OldFraming(stuckTimeout time.Duration) *Framing {
	d := &dropped{}
	return &Framing{
		StuckTimeout: stuckTimeout, SlowCode: stream.CloseNormal,
		Encoder: func() func([]byte, []*streampb.Gap, []byte) []byte {
			f := &wsframe.Framer{}
			return func(dst []byte, gaps []*streampb.Gap, records []byte) []byte {
				for _, g := range gaps {
					dst = d.tell(f, dst, g)
				}
				for env := range envelope.Walk(records) {
					dst = f.AppendEnvelope(dst, env)
				}
				return dst
			}
		},
	}
}

// dropped counts what a client was told it misses.
type dropped struct {
	mu    sync.Mutex
	total uint64
}

func (d *dropped) tell(f *wsframe.Framer, dst []byte, g *streampb.Gap) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	dst, d.total = f.AppendDropped(dst, g, d.total, time.Now().UnixNano())
	return dst
}
