package emit

import (
	"fmt"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
)

// batchField is the number of EnvelopeBatch.batch: a batch is nothing but such
// records one after another, so it can be built by appending.
const batchField protowire.Number = 1

// appendRecord appends one envelope as a record of an EnvelopeBatch.
func appendRecord(dst []byte, e *loggregatorv2.Envelope) ([]byte, error) {
	start := len(dst)
	dst = protowire.AppendTag(dst, batchField, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(proto.Size(e)))
	dst, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(dst, e)
	if err != nil {
		return dst[:start], fmt.Errorf("encode an envelope of %q: %w", e.GetSourceId(), err)
	}
	return dst, nil
}

// rawCodec hands encoded batches to gRPC as they are. Its name is that of the
// protobuf codec, for that is what goes over the wire.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

// Marshal shares the batch with gRPC, which only reads it: what is sent is
// never written again.
func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("cannot send a %T: not an encoded batch", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(b)}, nil
}

// Unmarshal ignores the answer: it says nothing but that it came.
func (rawCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
