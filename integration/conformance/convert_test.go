package conformance

import (
	"context"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
	"github.com/a1ea6966/loggregator/integration/pipeline"
)

const conversionVectors = "../../internal/dropsonde/testdata/"

// hexBytes are bytes in hexadecimal.
type hexBytes []byte

// UnmarshalText reads them.
func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// output is what the old system made, or why it could not.
type output struct {
	Hex       hexBytes `json:"hex"`
	WireError string   `json:"wire_error"`
	Partial   hexBytes `json:"partial_hex"`
}

// v2Case is a v2 envelope and what becomes of it in the old protocol.
type v2Case struct {
	ID   string
	V2   hexBytes `json:"v2_hex"`
	ToV1 []output `json:"v1"`
}

// firehose opens a Firehose of the old framing, without access control.
func firehose(ctx context.Context, t *testing.T, subscription string) *client {
	t.Helper()
	c := do(ctx, t, here.open, exchange{Path: "/firehose/" + subscription, RequestHeaders: map[string]string{
		"Upgrade": "websocket", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13",
	}})
	here.member(ctx, t, c.local())
	return c
}

// mark is an envelope that ends a case.
func mark(id string) *loggregatorv2.Envelope {
	return &loggregatorv2.Envelope{SourceId: "mark", InstanceId: id,
		Message: &loggregatorv2.Envelope_Log{Log: &loggregatorv2.Log{Payload: []byte("mark")}}}
}

// TestV2ToV1 sends v2 envelopes to the Doppler and reads the Firehose of the
// old framing.
func TestV2ToV1(t *testing.T) {
	const file = "v2_to_v1.json"
	ctx := deadline(t)
	reader := firehose(ctx, t, "v2-to-v1")
	here.emit(t, encode(t, mark("begin"))) // a young Doppler's Firehose begins at its first envelope
	untilMark(t, reader, "begin")
	for i, c := range vectors(t, conversionVectors+file, func(c v2Case) string { return c.ID }) {
		here.emit(t, c.V2, encode(t, mark(c.ID)))
		all.judge(t, file, i, compareV1(t, c.ToV1, untilMark(t, reader, c.ID)))
	}
	reader.hangUp(t)
	if d := reader.ends(t); len(d) > 0 {
		t.Error(d)
	}
}

// untilMark reads the envelopes before a mark.
func untilMark(t *testing.T, c *client, id string) (list []*events.Envelope) {
	t.Helper()
	for {
		e := &events.Envelope{}
		if err := proto.Unmarshal(c.message(t), e); err != nil {
			t.Fatal(err)
		}
		if log := e.GetLogMessage(); log.GetAppId() == "mark" {
			if log.GetSourceInstance() != id {
				t.Fatalf("the mark of %q, want %q", log.GetSourceInstance(), id)
			}
			return list
		}
		list = append(list, e)
	}
}

// compareV1 compares what came out of the Firehose, in order: the vectors have
// the metrics of a gauge by name.
func compareV1(t *testing.T, want []output, got []*events.Envelope) (d []difference) {
	t.Helper()
	if len(got) != len(want) {
		return []difference{{"number of envelopes", fmt.Sprint(len(want)), fmt.Sprint(len(got))}}
	}
	for i, o := range want {
		e := &events.Envelope{}
		if err := (proto.UnmarshalOptions{AllowPartial: true}).Unmarshal(append(o.Hex, o.Partial...), e); err != nil {
			t.Fatal(err)
		}
		if o.WireError != "" {
			complete(e)
			d = append(d, difference{"result", "nothing: " + o.WireError, "an envelope"})
		}
		if !proto.Equal(e, got[i]) {
			d = append(d, difference{"envelope", prototext.Format(e), prototext.Format(got[i])})
		}
	}
	return d
}

// complete gives an envelope that the old system could not encode the field it
// lacks.
func complete(e *events.Envelope) {
	if l := e.LogMessage; l != nil && l.Message == nil {
		l.Message = []byte{}
	}
	if h := e.HttpStartStop; h != nil && h.RequestId == nil {
		h.RequestId = &events.UUID{Low: proto.Uint64(0), High: proto.Uint64(0)}
	}
}

// v1Case is a v1 envelope and what becomes of it in the new protocol.
type v1Case struct {
	ID        string
	V1        hexBytes `json:"v1_hex"`
	Preferred output   `json:"v2_preferred_tags"`
}

// TestV1ToV2 pushes v1 envelopes as old agents do, and reads the Firehose of
// the batch framing.
func TestV1ToV2(t *testing.T) {
	const file = "v1_to_v2.json"
	ctx := deadline(t)
	push := here.pusher(ctx, t)
	stream, err := nozzle.Open(ctx, nozzle.Config{Addr: "ws://" + here.open.Addrs[pipeline.Public], Subscription: "v1-to-v2", AutoAck: true})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	r := &batches{stream: stream}
	push(encodeV1(t, markV1("begin v1")))
	r.untilMark(ctx, t, "begin v1")
	for i, c := range vectors(t, conversionVectors+file, func(c v1Case) string { return c.ID }) {
		push(c.V1)
		push(encodeV1(t, markV1(c.ID)))
		var notes []string
		if i == 0 {
			notes = append(notes, "v2_deprecated_tags: what an agent's own configuration made; a Doppler always prefers tags")
		}
		all.judge(t, file, i, compareV2(t, c.Preferred, r.untilMark(ctx, t, c.ID)), notes...)
	}
}

// pusher opens a stream of plumbing.DopplerIngestor/Pusher.
func (p *platform) pusher(ctx context.Context, t *testing.T) func(v1 []byte) {
	t.Helper()
	stream, err := p.producer.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/plumbing.DopplerIngestor/Pusher")
	if err != nil {
		t.Fatal(err)
	}
	return func(v1 []byte) {
		data := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), v1)
		if err := stream.SendMsg(data); err != nil {
			t.Fatal(err)
		}
	}
}

// markV1 is an envelope that ends a case.
func markV1(id string) *events.Envelope {
	return &events.Envelope{Origin: proto.String("mark"), EventType: events.Envelope_LogMessage.Enum(), LogMessage: &events.LogMessage{
		Message: []byte("mark"), MessageType: events.LogMessage_OUT.Enum(), Timestamp: proto.Int64(1),
		AppId: proto.String("mark"), SourceInstance: proto.String(id),
	}}
}

func encodeV1(t *testing.T, e *events.Envelope) []byte {
	t.Helper()
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// batches reads a Firehose of the batch framing.
type batches struct {
	stream *nozzle.Stream
	list   []*loggregatorv2.Envelope // read, and not taken
}

// untilMark reads the envelopes before a mark.
func (b *batches) untilMark(ctx context.Context, t *testing.T, id string) []*loggregatorv2.Envelope {
	t.Helper()
	for seen := 0; ; {
		for i, e := range b.list[seen:] {
			if e.GetSourceId() == "mark" && e.GetInstanceId() == id {
				before := b.list[:seen+i]
				b.list = b.list[seen+i+1:]
				return before
			}
		}
		seen = len(b.list)
		batch, err := b.stream.Recv(ctx)
		if err != nil {
			t.Fatal(err)
		}
		more, err := batch.Decode()
		if err != nil {
			t.Fatal(err)
		}
		b.list = append(b.list, more...)
		batch.Release()
	}
}

func compareV2(t *testing.T, o output, got []*loggregatorv2.Envelope) []difference {
	t.Helper()
	if len(got) != 1 {
		return []difference{{"number of envelopes", "1", fmt.Sprint(len(got))}}
	}
	want := &loggregatorv2.Envelope{}
	if err := proto.Unmarshal(o.Hex, want); err != nil {
		t.Fatal(err)
	}
	switch {
	case o.WireError != "":
		return []difference{{"result", "nothing: " + o.WireError, got[0].GetSourceId()}}
	case !proto.Equal(want, got[0]):
		return []difference{{"envelope", prototext.Format(want), prototext.Format(got[0])}}
	}
	return nil
}
