package stream

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/streampb"
)

// Limits of a Control, which DecodeControl enforces before it allocates.
const (
	MaxWatches     = 100_000  // added, and removed, by one Watch
	MaxRanges      = 10_000   // of one Ack
	MaxClassCounts = 64       // of one watch
	MaxName        = 4 << 10  // bytes of a source id or of a Doppler's name
	MaxToken       = 16 << 10 // bytes of a Token
)

// DecodeControl decodes a client message: exactly one field, nothing over its
// limit. What it returns does not refer to msg. The error says in plain words
// what is wrong; the connection is to be closed with CloseBadMessage then.
func DecodeControl(msg []byte) (*streampb.Control, error) {
	if err := checkControlMessage(msg); err != nil {
		return nil, fmt.Errorf("not a Control message: %w", err)
	}
	c := &streampb.Control{}
	if err := discardUnknown.Unmarshal(msg, c); err != nil {
		return nil, fmt.Errorf("not a Control message: %w", err)
	}
	if c.Message == nil {
		return nil, errors.New("not a Control message: none of watch, sent, ack, token")
	}
	return c, nil
}

// Field numbers of Control, Watch, Watch.Add and Ack.
const (
	controlWatch = 1
	controlAck   = 3
	controlToken = 4

	watchAdd    = 2
	watchRemove = 3

	addSource = 1
	addCounts = 3

	ackDoppler = 1
	ackRanges  = 3
)

// checkControlMessage walks over the wire and counts.
func checkControlMessage(msg []byte) error {
	fields := 0
	return eachField(msg, func(num protowire.Number, typ protowire.Type, v []byte) error {
		if num > controlToken {
			return nil
		}
		if fields++; fields > 1 {
			return errors.New("more than one of watch, sent, ack, token")
		}
		if typ != protowire.BytesType {
			return nil // proto.Unmarshal takes it for unknown
		}
		switch num {
		case controlWatch:
			return checkWatch(v)
		case controlAck:
			return checkAck(v)
		case controlToken:
			if len(v) > MaxToken+8 { // the token and what is around it
				return fmt.Errorf("a token of about %d bytes, the limit is %d", len(v), MaxToken)
			}
		}
		return nil
	})
}

func checkWatch(p []byte) error {
	adds, removes := 0, 0
	return eachField(p, func(num protowire.Number, typ protowire.Type, v []byte) error {
		switch {
		case num == watchAdd && typ == protowire.BytesType:
			if adds++; adds > MaxWatches {
				return fmt.Errorf("more than %d watches added at once", MaxWatches)
			}
			return checkAdd(v)
		case num == watchRemove:
			if removes += countVarints(typ, v); removes > MaxWatches {
				return fmt.Errorf("more than %d watches removed at once", MaxWatches)
			}
		}
		return nil
	})
}

func checkAdd(p []byte) error {
	counts := 0
	return eachField(p, func(num protowire.Number, typ protowire.Type, v []byte) error {
		switch {
		case num == addSource && len(v) > MaxName:
			return fmt.Errorf("source id of %d bytes, the limit is %d", len(v), MaxName)
		case num == addCounts:
			if counts += countVarints(typ, v); counts > MaxClassCounts {
				return fmt.Errorf("more than %d class counts", MaxClassCounts)
			}
		}
		return nil
	})
}

func checkAck(p []byte) error {
	ranges := 0
	return eachField(p, func(num protowire.Number, _ protowire.Type, v []byte) error {
		switch {
		case num == ackDoppler && len(v) > MaxName:
			return fmt.Errorf("name of a Doppler of %d bytes, the limit is %d", len(v), MaxName)
		case num == ackRanges:
			if ranges++; ranges > MaxRanges {
				return fmt.Errorf("more than %d ranges in one ack", MaxRanges)
			}
		}
		return nil
	})
}

// countVarints is how many elements a field of a repeated number has, packed
// or not.
func countVarints(typ protowire.Type, v []byte) int {
	if typ != protowire.BytesType {
		return 1
	}
	n := 0
	for _, b := range v {
		if b < 0x80 {
			n++
		}
	}
	return n
}

// eachField visits the fields of p. v is the content of a length-delimited
// field, and empty for others.
func eachField(p []byte, visit func(num protowire.Number, typ protowire.Type, v []byte) error) error {
	for len(p) > 0 {
		num, typ, n := protowire.ConsumeTag(p)
		if n < 0 {
			return protowire.ParseError(n)
		}
		p = p[n:]
		var v []byte
		if typ == protowire.BytesType {
			v, n = protowire.ConsumeBytes(p)
		} else {
			n = protowire.ConsumeFieldValue(num, typ, p)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		if err := visit(num, typ, v); err != nil {
			return err
		}
		p = p[n:]
	}
	return nil
}

// AppendControl appends an encoded client message to dst.
func AppendControl(dst []byte, c *streampb.Control) ([]byte, error) {
	out, err := proto.MarshalOptions{}.MarshalAppend(dst, c)
	if err != nil {
		return dst, fmt.Errorf("encode control: %w", err)
	}
	return out, nil
}

// AppendSent appends Control{Sent{lease}} to dst. It does not allocate beyond
// dst.
func AppendSent(dst []byte, lease uint64) []byte {
	dst = protowire.AppendTag(dst, 2, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(1+protowire.SizeVarint(lease)))
	dst = protowire.AppendTag(dst, 1, protowire.VarintType)
	return protowire.AppendVarint(dst, lease)
}

// AppendAck appends Control{Ack{doppler, epoch, ranges}} to dst. It does not
// allocate beyond dst.
func AppendAck(dst []byte, doppler string, epoch uint64, ranges ...OffsetRange) []byte {
	size := 0
	if doppler != "" {
		size += 1 + protowire.SizeBytes(len(doppler))
	}
	size += 1 + protowire.SizeVarint(epoch)
	for _, r := range ranges {
		size += 1 + protowire.SizeBytes(r.size())
	}
	dst = protowire.AppendTag(dst, controlAck, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	if doppler != "" {
		dst = protowire.AppendTag(dst, ackDoppler, protowire.BytesType)
		dst = protowire.AppendString(dst, doppler)
	}
	dst = protowire.AppendTag(dst, 2, protowire.VarintType)
	dst = protowire.AppendVarint(dst, epoch)
	for _, r := range ranges {
		dst = protowire.AppendTag(dst, ackRanges, protowire.BytesType)
		dst = protowire.AppendVarint(dst, uint64(r.size()))
		dst = protowire.AppendTag(dst, 1, protowire.VarintType)
		dst = protowire.AppendVarint(dst, r.First)
		dst = protowire.AppendTag(dst, 2, protowire.VarintType)
		dst = protowire.AppendVarint(dst, r.Last)
	}
	return dst
}

// OffsetRange is inclusive on both ends.
type OffsetRange struct{ First, Last uint64 }

func (r OffsetRange) size() int {
	return 2 + protowire.SizeVarint(r.First) + protowire.SizeVarint(r.Last)
}

// AckRanges appends to dst what has to be acked of b: its envelopes, and the
// gaps told with it that have a place in the same epoch.
func AckRanges(dst []OffsetRange, b *streampb.Batch) []OffsetRange {
	p := b.GetPosition()
	for _, g := range b.GetGaps() {
		if g.GetTo() > g.GetFrom() && (g.GetDoppler() == "" || g.GetDoppler() == p.GetDoppler()) && (g.GetEpoch() == 0 || g.GetEpoch() == p.GetEpoch()) {
			dst = append(dst, OffsetRange{g.GetFrom(), g.GetTo() - 1})
		}
	}
	if n := p.GetCount(); n > 0 {
		dst = append(dst, OffsetRange{p.GetFirst(), lastOffset(p)})
	}
	return dst
}

// lastOffset is the offset of the last envelope p places; it places some.
func lastOffset(p *streampb.Position) uint64 {
	if len(p.GetDeltas()) == 0 {
		return p.GetFirst() + uint64(p.GetCount()) - 1
	}
	last := p.GetFirst()
	for _, d := range p.GetDeltas() {
		last += uint64(d)
	}
	return last
}
