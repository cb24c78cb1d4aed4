package relay

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/internal/daemon"
	"github.com/a1ea6966/loggregator/internal/wsframe"
)

// BenchmarkRelay passes leases of 64 KiB from a Doppler that has them ready
// over loopback to a client that does not look at them. One operation is an
// envelope; the time is that of all three together.
func BenchmarkRelay(b *testing.B) {
	b.Run("batches", func(b *testing.B) { benchmarkRelay(b, false) })
	b.Run("old", func(b *testing.B) { benchmarkRelay(b, true) })
}

func benchmarkRelay(b *testing.B, old bool) {
	const window = 256 << 10
	frame, count, at, firstAt := benchFrame(b)
	doppler := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := stream.Accept(w, r, stream.AcceptOptions{})
		if err != nil {
			return
		}
		hello, err := stream.AppendBatchMeta(nil, &streampb.Batch{
			Hello:    &streampb.Hello{Version: 1, Server: "d", Epoch: 1, WindowBytes: window},
			Position: &streampb.Position{Doppler: "d", Epoch: 1},
		})
		if err != nil || conn.Send(context.Background(), hello) != nil {
			return
		}
		var paid atomic.Uint64
		credit := make(chan struct{}, 1)
		go func() {
			defer close(credit)
			for {
				m, err := conn.Read(context.Background())
				if err != nil {
					conn.CloseNow()
					return
				}
				if c, err := stream.DecodeControl(m.Bytes()); err == nil {
					paid.Store(c.GetSent().GetLease())
				}
				m.Release()
				select {
				case credit <- struct{}{}:
				default:
				}
			}
		}()
		paid.Store(firstLease)
		for id, open := uint64(firstLease), true; open; {
			for id-paid.Load() < window/uint64(len(frame)) {
				id++
				binary.PutUvarint(frame[at:at+5], id)
				binary.PutUvarint(frame[firstAt:firstAt+7], firstOffset+(id-firstLease)*uint64(count))
				if err := conn.WriteFrames([][]byte{frame}, nil, time.Minute); err != nil {
					return
				}
			}
			_, open = <-credit
		}
	}))
	defer doppler.Close()
	relay := New(Config{
		Name: "tc", IdleTimeout: time.Minute, StuckTimeout: time.Minute, Heartbeat: time.Minute, LostAfter: time.Minute,
		Dial: func(ctx context.Context, addr, path string, q url.Values) (*stream.Conn, error) {
			return stream.Dial(ctx, "http://"+addr+path+"?"+q.Encode(), stream.DialOptions{})
		},
	}, daemon.NewQuietEach(slog.New(slog.DiscardHandler), "addr"))
	relay.Added(strings.TrimPrefix(doppler.URL, "http://"))
	options := Options{Subscription: "s", Closed: func(Row, error) {}}
	if old {
		options.Framing = OldFraming(time.Minute)
	}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, err := stream.Accept(w, r, stream.AcceptOptions{}); err == nil {
			_ = relay.Open(conn, options)
		}
	}))
	defer front.Close()
	defer relay.Close(stream.CloseGoingAway, "", 0)

	client, err := net.Dial("tcp", strings.TrimPrefix(front.URL, "http://"))
	if err != nil {
		b.Fatal(err)
	}
	defer client.Close()
	_, err = client.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"))
	if err != nil {
		b.Fatal(err)
	}
	read := make([]byte, 256<<10)
	size, have := len(frame), 0
	if old {
		var f wsframe.Framer
		size = count * len(f.AppendEnvelope(nil, envelopetest.Reference()))
	}
	b.SetBytes(int64(len(frame) / count))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%count != 0 {
			continue
		}
		for have < size {
			n, err := client.Read(read)
			if err != nil {
				b.Fatal(err)
			}
			have += n
		}
		have -= size
	}
}

// firstLease takes five bytes as a varint, firstOffset seven, and so do those
// after them.
const (
	firstLease  = 1 << 28
	firstOffset = 1 << 42
)

// benchFrame is a lease of reference envelopes as a Doppler writes it; at is
// where its id stands, firstAt its first offset.
func benchFrame(b *testing.B) (frame []byte, count, at, firstAt int) {
	env := envelopetest.Reference()
	count = (64 << 10) / envelope.RecordSize(len(env))
	msg, err := stream.AppendBatchMeta(nil, &streampb.Batch{
		Position: &streampb.Position{
			Doppler: "d", Epoch: 1, First: firstOffset, Count: uint32(count), Next: firstOffset + uint64(count),
			Matched: 1 << 30, Low: 1 << 29, LowMatched: 1 << 29,
		},
		Lease: &streampb.Lease{Id: firstLease},
	})
	if err != nil {
		b.Fatal(err)
	}
	at = bytes.LastIndex(msg, binary.AppendUvarint(nil, firstLease))
	firstAt = bytes.Index(msg, binary.AppendUvarint(nil, firstOffset))
	for range count {
		msg = envelope.AppendRecord(msg, env)
	}
	frame = stream.AppendFrameHeader(nil, len(msg))
	return append(frame, msg...), count, at + len(frame), firstAt + len(frame)
}
