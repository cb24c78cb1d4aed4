package ingress

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// message is one gRPC message as it came over the wire, in the frames it came
// in. Whoever received it frees it.
type message struct{ frames mem.BufferSlice }

func (m *message) free() {
	m.frames.Free()
	m.frames = nil
}

// reply is any of the empty responses of the service.
type reply struct{}

// encoded is a response of another service that needs no encoding. Its bytes
// are given away.
type encoded interface{ Encoded() mem.BufferSlice }

// codec hands over messages undecoded, and sends what is encoded. Everything
// else goes to gRPC's own protobuf codec, so that other services can live on
// the same server.
type codec struct{ fallback encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(proto.Name)} }

// Name makes the codec answer to the content type of protobuf.
func (codec) Name() string { return proto.Name }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch v := v.(type) {
	case reply:
		return nil, nil
	case encoded:
		return v.Encoded(), nil
	}
	return c.fallback.Marshal(v)
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*message)
	if !ok {
		return c.fallback.Unmarshal(data, v)
	}
	data.Ref() // gRPC frees its own reference when this returns
	m.frames = data
	return nil
}
