package stream

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// keyEnvelope is the tag of an envelope in a Batch.
const keyEnvelope = 0x0a

// AppendBatchMeta appends the encoded metadata of b, which must not have
// envelopes. Their records, as package envelope has them, follow it.
func AppendBatchMeta(dst []byte, b *streampb.Batch) ([]byte, error) {
	out, err := proto.MarshalOptions{}.MarshalAppend(dst, b)
	if err != nil {
		return dst, fmt.Errorf("encode batch: %w", err)
	}
	return out, nil
}

// SplitBatch cuts a batch where its envelopes begin. Both parts share msg.
func SplitBatch(msg []byte) (meta, envelopes []byte, err error) {
	rest := msg
	for len(rest) > 0 && rest[0] != keyEnvelope {
		_, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return nil, nil, fmt.Errorf("batch metadata: %w", errMalformed)
		}
		rest = rest[n:]
	}
	return msg[:len(msg)-len(rest)], rest, nil
}

var errMalformed = errors.New("malformed message")

// UnmarshalMeta decodes the metadata of a batch.
func UnmarshalMeta(meta []byte, into *streampb.Batch) error {
	if err := proto.Unmarshal(meta, into); err != nil {
		return fmt.Errorf("batch metadata: %w", err)
	}
	return nil
}

// DecodeControl decodes a client message.
func DecodeControl(msg []byte) (*streampb.Control, error) {
	c := &streampb.Control{}
	if err := proto.Unmarshal(msg, c); err != nil {
		return nil, fmt.Errorf("control message is not understood: %w", err)
	}
	if c.GetMessage() == nil {
		return nil, errors.New("control message is empty")
	}
	return c, nil
}

// EncodeControl encodes a client message.
func EncodeControl(c *streampb.Control) ([]byte, error) {
	b, err := proto.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode control: %w", err)
	}
	return b, nil
}

// Offsets visits the offset of each envelope of a batch until visit returns
// false. It returns an error when the position contradicts itself.
func Offsets(p *streampb.Position, visit func(i int, offset uint64) bool) error {
	n := int(p.GetCount())
	deltas := p.GetDeltas()
	if len(deltas) != 0 && len(deltas) != n-1 {
		return fmt.Errorf("position has %d envelopes and %d distances", n, len(deltas))
	}
	off := p.GetFirst()
	for i := range n {
		if i > 0 {
			if len(deltas) > 0 {
				off += uint64(deltas[i-1])
			} else {
				off++
			}
		}
		if !visit(i, off) {
			return nil
		}
	}
	return nil
}
