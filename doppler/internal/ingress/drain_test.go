package ingress

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestDrainEndsQuietStreams: producers are told to go elsewhere, with nothing
// lost of what they sent.
func TestDrainEndsQuietStreams(t *testing.T) {
	to := &memory{gate: make(chan struct{})}
	r := start(t, nil, to)
	idle, busy := r.open("Sender"), r.open("BatchSender")
	const messages = 10
	for i := range messages {
		var envs [][]byte
		for j := range 50 {
			envs = append(envs, env(t, "source", i*50+j))
		}
		r.sendAll(busy, batch(envs...))
	}
	// One is at the gate, the others wait in the server.
	eventually(t, "all messages received", func() bool { return r.pool.held.Load() == messages*2048 })
	r.cancel()
	if err := idle.RecvMsg(nil); status.Code(err) != codes.Unavailable {
		t.Errorf("idle stream: %v", err)
	}
	close(to.gate)
	if err := busy.RecvMsg(nil); status.Code(err) != codes.Unavailable {
		t.Errorf("busy stream: %v", err)
	}
	r.stop()
	if got := len(to.all()); got != messages*50 {
		t.Errorf("%d envelopes appended, want %d", got, messages*50)
	}
	if s := r.Stats(); s.Streams != 0 || s.Accepted != messages*50 {
		t.Errorf("%+v", s)
	}
	_, err := r.client.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true}, "/loggregator.v2.Ingress/Sender")
	if status.Code(err) != codes.Unavailable {
		t.Errorf("new stream: %v", err)
	}
}

// TestDrainCutsEndlessStreams: producers that never pause cannot keep the
// server, and what is appended is what they sent first, without a hole.
func TestDrainCutsEndlessStreams(t *testing.T) {
	to := &memory{}
	r := start(t, nil, to)
	const producers = 4
	cut := make(chan error, producers)
	for p := range producers {
		s := r.open("BatchSender")
		go func() {
			for i := 0; ; i++ {
				if err := s.SendMsg(batch(env(t, fmt.Sprint("p", p), i))); err != nil {
					if errors.Is(err, io.EOF) {
						err = s.RecvMsg(nil)
					}
					cut <- err
					return
				}
			}
		}()
	}
	eventually(t, "envelopes flow", func() bool { return r.Stats().Accepted > 10_000 })
	r.stop()
	appended := len(to.all())
	for range producers {
		if err := <-cut; status.Code(err) != codes.Unavailable {
			t.Errorf("ended with %v", err)
		}
	}
	next := make(map[string]int64)
	for _, e := range to.all() {
		d := decode(t, e)
		if d.GetTimestamp() != next[d.GetSourceId()] {
			t.Fatalf("%s: envelope %d after %d", d.GetSourceId(), d.GetTimestamp(), next[d.GetSourceId()]-1)
		}
		next[d.GetSourceId()]++
	}
	if len(to.all()) != appended {
		t.Error("appended after Run returned")
	}
}

// TestDrainWaitsForUnaryCalls: what was received of a call is appended.
func TestDrainWaitsForUnaryCalls(t *testing.T) {
	to := &memory{gate: make(chan struct{})}
	r := start(t, nil, to)
	answer := make(chan error, 1)
	go func() {
		answer <- r.client.Invoke(t.Context(), "/loggregator.v2.Ingress/Send", batch(env(t, "s", 1)), nil, grpc.ForceCodecV2(rawCodec{}))
	}()
	eventually(t, "call is at work", func() bool { return r.Stats().Bytes > 0 })
	r.cancel()
	close(to.gate)
	if err := <-answer; err != nil {
		t.Error(err)
	}
	r.stop()
	if len(to.all()) != 1 {
		t.Error("nothing appended")
	}
}
