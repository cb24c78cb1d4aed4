package stream

import (
	"errors"
	"fmt"
	"iter"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// recordTag starts an envelope in a Batch: field 1, length-delimited.
const recordTag = 0x0a

// firstMeta is the lowest field number of metadata.
const firstMeta = 1001

// SplitBatch cuts an encoded Batch before its first envelope. Both parts are
// parts of msg. The envelopes are not looked at.
func SplitBatch(msg []byte) (meta, envelopes []byte, err error) {
	at := 0
	for at < len(msg) && msg[at] != recordTag {
		num, typ, n := protowire.ConsumeTag(msg[at:])
		if n < 0 {
			return nil, nil, fmt.Errorf("split batch: tag at byte %d: %w", at, protowire.ParseError(n))
		}
		if num < firstMeta {
			return nil, nil, fmt.Errorf("split batch: field %d at byte %d is no metadata", num, at)
		}
		v := protowire.ConsumeFieldValue(num, typ, msg[at+n:])
		if v < 0 {
			return nil, nil, fmt.Errorf("split batch: field %d at byte %d: %w", num, at, protowire.ParseError(v))
		}
		at += n + v
	}
	return msg[:at:at], msg[at:], nil
}

var discardUnknown = proto.UnmarshalOptions{DiscardUnknown: true}

// UnmarshalMeta decodes the metadata part of a Batch, as SplitBatch gives it,
// into into, which is reset before. into does not refer to meta afterwards.
func UnmarshalMeta(meta []byte, into *streampb.Batch) error {
	if err := discardUnknown.Unmarshal(meta, into); err != nil {
		return fmt.Errorf("decode batch metadata: %w", err)
	}
	if len(into.Batch) > 0 {
		into.Batch = nil
		return errors.New("decode batch metadata: it holds envelopes")
	}
	return nil
}

// AppendBatchMeta appends the encoded metadata of b to dst; the envelopes, as
// field-1 records, come after it. b must not hold envelopes itself.
func AppendBatchMeta(dst []byte, b *streampb.Batch) ([]byte, error) {
	if len(b.GetBatch()) > 0 {
		return dst, errors.New("encode batch metadata: the batch holds envelopes")
	}
	out, err := proto.MarshalOptions{}.MarshalAppend(dst, b)
	if err != nil {
		return dst, fmt.Errorf("encode batch metadata: %w", err)
	}
	return out, nil
}

// CountRecords counts the envelopes in the second part of a Batch.
func CountRecords(envelopes []byte) (int, error) {
	count := 0
	for at := 0; at < len(envelopes); count++ {
		if envelopes[at] != recordTag {
			return count, fmt.Errorf("count envelopes: byte %d starts no envelope", at)
		}
		_, n := protowire.ConsumeBytes(envelopes[at+1:])
		if n < 0 {
			return count, fmt.Errorf("count envelopes: envelope at byte %d: %w", at, protowire.ParseError(n))
		}
		at += 1 + n
	}
	return count, nil
}

// ParseOffsets gives the offset of each of the records envelopes that p
// places, in ascending order, after checking that p places exactly so many.
func ParseOffsets(p *streampb.Position, records int) (iter.Seq[uint64], error) {
	count, deltas := int(p.GetCount()), p.GetDeltas()
	if count != records {
		return nil, fmt.Errorf("position places %d envelopes, the batch holds %d", count, records)
	}
	if len(deltas) > 0 && len(deltas) != count-1 {
		return nil, fmt.Errorf("position of %d envelopes has %d deltas", count, len(deltas))
	}
	last := p.GetFirst()
	add := func(d uint64) bool {
		last += d
		return last >= d
	}
	for _, d := range deltas {
		if d == 0 || !add(uint64(d)) {
			return nil, errors.New("position whose offsets do not grow")
		}
	}
	if len(deltas) == 0 && count > 0 && !add(uint64(count-1)) {
		return nil, errors.New("position whose offsets do not grow")
	}
	if last == math.MaxUint64 {
		return nil, errors.New("position beyond the last offset")
	}
	return func(yield func(uint64) bool) {
		off := p.GetFirst()
		for i := range count {
			if i > 0 {
				if len(deltas) > 0 {
					off += uint64(deltas[i-1])
				} else {
					off++
				}
			}
			if !yield(off) {
				return
			}
		}
	}, nil
}
