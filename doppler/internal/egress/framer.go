package egress

import (
	"fmt"
	"time"

	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/reader"
	"github.com/a1ea6966/loggregator/internal/slow"
)

// framer writes batches to one connection. It belongs to the session's
// writing goroutine.
type framer struct {
	server *Server
	conn   *stream.Conn
	batch  streampb.Batch // scratch: set, written, reset
	meta   []byte
	head   []byte
	bufs   [][]byte
	pacer  pacer
	beat   *time.Timer
	beaten time.Time // when the last heartbeat was, or the first message
	lag    func(now time.Time) slow.Lag
}

// newFramer makes one for a reader that is behind by lag.
func newFramer(s *Server, conn *stream.Conn, lag func(now time.Time) slow.Lag) *framer {
	return &framer{server: s, conn: conn, beat: time.NewTimer(s.cfg.Heartbeat), beaten: time.Now(), lag: lag}
}

func (f *framer) stop() { f.beat.Stop() }

// send writes a batch of metadata alone.
func (f *framer) send(b *streampb.Batch) error {
	f.batch = streampb.Batch{}
	meta, err := stream.AppendBatchMeta(f.meta[:0], b)
	if err != nil {
		return fmt.Errorf("encode batch: %w", err)
	}
	f.meta = meta
	return f.frame(nil, 0, func(bool) {})
}

// write sends the scratch batch with the records in pieces. release is called
// exactly once, as soon as pieces are no longer used; spilled says that the
// socket did not take everything at once.
func (f *framer) write(pieces [][]byte, size int, release func(spilled bool)) error {
	meta, err := stream.AppendBatchMeta(f.meta[:0], &f.batch)
	f.batch.Reset()
	if err != nil {
		release(false)
		return fmt.Errorf("encode batch: %w", err)
	}
	f.meta = meta
	return f.frame(pieces, size, release)
}

func (f *framer) frame(pieces [][]byte, size int, release func(bool)) error {
	f.head = stream.AppendFrameHeader(f.head[:0], len(f.meta)+size)
	f.bufs = append(f.bufs[:0], f.head, f.meta)
	f.bufs = append(f.bufs, pieces...)
	err := f.conn.WriteFrames(f.bufs, release, f.server.cfg.StuckTimeout)
	f.pacer.last = time.Now()
	return err
}

// idle waits until wake is signalled; ok is false when the connection is over.
func (f *framer) idle(wake waker, done <-chan struct{}) (ok bool, err error) {
	for {
		f.beat.Reset(max(f.server.cfg.Heartbeat-time.Since(f.beaten), 0))
		select {
		case <-wake:
			return true, nil
		case <-done:
			return false, errEnded
		case <-f.beat.C:
			if err := f.heartbeat(time.Now()); err != nil {
				return false, err
			}
		}
	}
}

// keepBeating sends a heartbeat if it is time: who takes a little now and then
// is never idle for long, and is to hear how far it is behind.
func (f *framer) keepBeating() error {
	if now := f.pacer.last; now.Sub(f.beaten) >= f.server.cfg.Heartbeat {
		return f.heartbeat(now)
	}
	return nil
}

func (f *framer) heartbeat(now time.Time) error {
	f.beaten = now
	accepted, dropped := f.server.accepted()
	lag := f.lag(now)
	return f.send(&streampb.Batch{Heartbeat: &streampb.Heartbeat{
		Timestamp: now.UnixNano(), Accepted: accepted, Dropped: dropped, Head: f.server.log.Head(),
		Lag: lag.Envelopes, LagBytes: lag.Bytes, LagAgeMillis: uint64(lag.Age.Milliseconds()),
	}})
}

var errEnded = fmt.Errorf("connection ended")

// gaps puts gaps in their wire form.
func (s *Server) gaps(list []*reader.Gap) []*streampb.Gap {
	if len(list) == 0 {
		return nil
	}
	out := make([]*streampb.Gap, len(list))
	for i, g := range list {
		out[i] = g.Proto(s.cfg.Doppler, s.cfg.Epoch)
	}
	return out
}

// hello is the first message of a connection.
func (s *Server) hello(windowOffsets uint64) *streampb.Hello {
	return &streampb.Hello{
		Version: stream.Version, Server: s.cfg.Doppler, Epoch: s.cfg.Epoch,
		Oldest: s.log.Oldest(), Head: s.log.Head(),
		WindowBytes: uint64(s.cfg.WindowBytes), WindowOffsets: windowOffsets,
		HeartbeatMillis: uint32(s.cfg.Heartbeat.Milliseconds()), SpreadMillis: stream.SpreadMillis(s.connections()),
	}
}

func (s *Server) fin() *streampb.Fin {
	return &streampb.Fin{Doppler: s.cfg.Doppler, Epoch: s.cfg.Epoch, End: s.log.Head()}
}
