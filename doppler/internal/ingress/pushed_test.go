package ingress

import (
	"bytes"
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/plumbingpb"
	"github.com/a1ea6966/loggregator/internal/dropsonde"
)

// v1Line is a log line of the old protocol.
func v1Line(app, text string) []byte {
	return dropsonde.AppendLogMessage(nil, "origin", text, app, "APP", "0", true, 7)
}

// pushed is the EnvelopeData of a payload.
func pushed(v1 []byte) []byte { return protowire.AppendBytes([]byte{0x0a}, v1) }

// TestPusher uses the generated client, as old agents do.
func TestPusher(t *testing.T) {
	r := start(t, nil, &memory{})
	pusher, err := plumbingpb.NewDopplerIngestorClient(r.client).Pusher(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, payload := range [][]byte{v1Line("app", "hello"), []byte("\xff"), referenceV1(t)} {
		if err := pusher.Send(&plumbingpb.EnvelopeData{Payload: payload}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pusher.CloseAndRecv(); err != nil {
		t.Error(err)
	}
	stats, got := r.Stats(), r.memory.all()
	if stats.Accepted != 2 || stats.AcceptedBy[Pushed] != 2 || stats.Dropped != (Dropped{Malformed: 1}) || stats.Messages != 3 {
		t.Errorf("%+v", stats)
	}
	if len(got) != 2 || stats.AcceptedBytes != uint64(len(got[0])+len(got[1])) {
		t.Fatalf("%d envelopes, %+v", len(got), stats)
	}
	line := decode(t, got[0])
	if line.GetSourceId() != "app" || string(line.GetLog().GetPayload()) != "hello" || line.GetLog().GetType() != loggregatorv2.Log_ERR ||
		line.GetTags()["__v1_type"] != "LogMessage" || line.GetTags()["origin"] != "origin" || len(line.GetDeprecatedTags()) != 0 {
		t.Errorf("appended %v", line)
	}
}

// referenceV1 is the reference envelope in the old protocol.
func referenceV1(t testing.TB) []byte {
	t.Helper()
	var e dropsonde.Encoder
	v1, ends := e.AppendV1(nil, nil, envelopetest.Reference())
	if len(ends) != 1 {
		t.Fatalf("%d v1 envelopes", len(ends))
	}
	return v1
}

// An envelope with many fields must not leave its scratch memory behind.
func TestPushedScratchIsBounded(t *testing.T) {
	s, to := pushStream(t)
	many := append([]byte{0x10, 5}, bytes.Repeat([]byte{0x8a, 1, 0}, keptPayload)...) // empty tags
	s.takePushed(&message{mem.BufferSlice{mem.SliceBuffer(pushed(many))}})
	w := <-s.server.workspaces
	if len(to.all()) != 1 || cap(w.v2) != 0 {
		t.Errorf("%d envelopes, %d bytes kept", len(to.all()), cap(w.v2))
	}
}

// pushStream is a stream without a connection, on a server with one workspace.
func pushStream(t testing.TB) (*stream, *memory) {
	t.Helper()
	to := &memory{}
	server, err := New(testConfig(), to)
	if err != nil {
		t.Fatal(err)
	}
	for len(server.workspaces) > 1 {
		<-server.workspaces
	}
	return &stream{server: server, framing: Pushed}, to
}

// FuzzPushed: what protobuf-go would not decode is dropped, and whatever comes
// is counted once.
func FuzzPushed(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("\xff\xffgarbage"))
	f.Add(pushed(v1Line("app", "line")))
	f.Add(pushed(v1Line("\xff", "\xff")))
	f.Add(pushed(referenceV1(f)))
	f.Add(append([]byte{0x10, 5, 0x0b, 0x0c, 0x1a, 1, 0}, pushed(v1Line("", ""))...))
	f.Add(append(pushed([]byte("first")), pushed(v1Line("a", "last"))...))
	f.Add([]byte("\x80\xde\xde\xde0\x00")) // a field number out of range
	first, to := pushStream(f)
	f.Fuzz(func(t *testing.T, msg []byte) {
		var want plumbingpb.EnvelopeData
		errWant := proto.Unmarshal(msg, &want)
		payload, ok := payloadOf(msg)
		if ok != (errWant == nil) || ok && !bytes.Equal(payload, want.GetPayload()) {
			t.Fatalf("got %q %v, want %q %v", payload, ok, want.GetPayload(), errWant)
		}
		s := &stream{server: first.server, framing: Pushed}
		to.envs = nil
		s.takePushed(&message{mem.BufferSlice{mem.SliceBuffer(msg[:len(msg)/2]), mem.SliceBuffer(msg[len(msg)/2:])}})
		var stats Stats
		s.addTo(&stats, Pushed)
		got := to.all()
		if stats.Accepted+stats.Dropped.Total() != 1 || uint64(len(got)) != stats.Accepted || stats.Bytes != uint64(len(msg)) {
			t.Fatalf("%d appended, %+v", len(got), stats)
		}
		for _, env := range got {
			if err := errors.Join(errWant, proto.Unmarshal(env, &loggregatorv2.Envelope{})); err != nil {
				t.Fatalf("accepted %x: %v", env, err)
			}
		}
	})
}

// TestDrainEndsPushers: what was received is appended, and the agent told to
// go elsewhere.
func TestDrainEndsPushers(t *testing.T) {
	to := &memory{gate: make(chan struct{})}
	r := start(t, nil, to)
	s := r.open("Pusher")
	r.sendAll(s, pushed(v1Line("app", "line")))
	eventually(t, "message is at work", func() bool { return r.Stats().Bytes > 0 })
	r.cancel()
	close(to.gate)
	if err := s.RecvMsg(nil); status.Code(err) != codes.Unavailable {
		t.Errorf("ended with %v", err)
	}
	r.stop()
	if n := len(to.all()); n != 1 || r.Stats().AcceptedBy[Pushed] != 1 {
		t.Errorf("%d appended, %+v", n, r.Stats())
	}
}
