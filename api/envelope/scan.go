// Package envelope reads encoded loggregator.v2 envelopes without decoding
// them. It tells which envelopes of a message protobuf-go would unmarshal and
// what it would read in the few fields the pipeline looks at, in one pass and
// without allocating.
//
// Nothing here keeps or changes the bytes it is given, and all functions may
// be called concurrently.
package envelope

import (
	"errors"
	"hash/maphash"
	"math"
)

// Record is one envelope of a scanned message.
type Record struct {
	// Start and End bound the encoded Envelope in the message, without the
	// key and length before it.
	Start, End uint32
	// Timestamp is the envelope's own, in unix nanoseconds.
	Timestamp int64
	// Hash is HashSource of the source id.
	Hash uint64
	// SourceStart and SourceEnd bound the source id in the message; they are
	// equal when it is empty.
	SourceStart, SourceEnd uint32
	// Name is what deterministic routing goes by (protocol/01, Doppler v2
	// routing), folded to 16 bits: of a counter the CRC-64 (ECMA) of its name, of a
	// gauge the sum of those of its metrics, in whatever order they come; 0 of
	// others. It is the same in every process. A metric that a later one of the
	// same name replaces counts as well; no encoder writes such.
	Name uint16
	// Class is the class of the envelope.
	Class Class
	// Canonical says that in front of Start are exactly the byte 0x0a and
	// the shortest form of the length, so key, length and envelope can be
	// copied in one piece.
	Canonical bool
}

// Limits bound what a scan accepts. A field that is 0 means its default.
type Limits struct {
	// MaxEnvelope is the longest encoded envelope, in bytes.
	MaxEnvelope int
	// MaxSourceID is the longest source id, in bytes.
	MaxSourceID int
}

// Limits that apply where Limits leaves a field 0.
const (
	DefaultMaxEnvelope = 1 << 20
	DefaultMaxSourceID = 256
)

func (l Limits) withDefaults() Limits {
	if l.MaxEnvelope <= 0 {
		l.MaxEnvelope = DefaultMaxEnvelope
	}
	if l.MaxSourceID <= 0 {
		l.MaxSourceID = DefaultMaxSourceID
	}
	return l
}

// Dropped counts what a scan left out.
type Dropped struct {
	// Malformed counts envelopes that protobuf-go would not unmarshal.
	Malformed uint64
	// TooLarge counts envelopes over MaxEnvelope, whether well formed or not.
	TooLarge uint64
	// SourceTooLong counts envelopes whose source id is over MaxSourceID.
	SourceTooLong uint64
	// UnknownFields counts fields of the batch that are not envelopes.
	UnknownFields uint64
	// Truncated says that the framing of the batch broke at some place; what
	// came before it is scanned, the rest is not.
	Truncated bool
}

// Envelopes returns how many envelopes were left out.
func (d Dropped) Envelopes() uint64 { return d.Malformed + d.TooLarge + d.SourceTooLong }

// count counts an envelope that ScanEnvelope would refuse with err.
func (d *Dropped) count(err error) {
	switch {
	case errors.Is(err, ErrTooLarge):
		d.TooLarge++
	case errors.Is(err, ErrSourceTooLong):
		d.SourceTooLong++
	default:
		d.Malformed++
	}
}

// Errors of ScanEnvelope.
var (
	// ErrMalformed means that protobuf-go would not unmarshal the envelope:
	// broken framing or a string that is not UTF-8.
	ErrMalformed = errors.New("malformed envelope")
	// ErrTooLarge means that the envelope is over MaxEnvelope.
	ErrTooLarge = errors.New("envelope too large")
	// ErrSourceTooLong means that the source id is over MaxSourceID.
	ErrSourceTooLong = errors.New("source id too long")
)

// ScanBatch appends to dst a record for each acceptable envelope of msg, an
// encoded loggregator.v2.EnvelopeBatch, in order. What it leaves out is
// counted. It allocates only when dst has no room. A message of 4 GiB or more
// is not scanned at all and reported as truncated.
func ScanBatch(msg []byte, lim Limits, dst []Record) ([]Record, Dropped) {
	var d Dropped
	for next := 0; ; {
		dst, next = ScanChunk(msg, next, lim, dst, &d)
		if next >= len(msg) {
			return dst, d
		}
		dst = append(dst, Record{})[:len(dst)]
	}
}

// ScanChunk is ScanBatch in steps, for who wants to bound the memory that
// records take: a batch of empty envelopes has a record for every 2 bytes. It
// scans msg from the place next that the last call returned, 0 at first,
// until the capacity of dst is full (which must not be 0), and adds to d. All
// of msg is scanned when the returned place is len(msg).
func ScanChunk(msg []byte, next int, lim Limits, dst []Record, d *Dropped) ([]Record, int) {
	if uint64(len(msg)) > math.MaxUint32 {
		d.Truncated = true
		return dst, len(msg)
	}
	lim = lim.withDefaults()
	for next < len(msg) {
		if len(dst) == cap(dst) {
			return dst, next
		}
		k, i := key(msg, next)
		if i < 0 {
			d.Truncated = true
			return dst, len(msg)
		}
		if k != keyBatch {
			if next = skip(msg, i, k); next < 0 {
				d.Truncated = true
				return dst, len(msg)
			}
			d.UnknownFields++
			continue
		}
		start, end := chunk(msg, i)
		if end < 0 {
			d.Truncated = true
			return dst, len(msg)
		}
		r := &dst[:len(dst)+1][len(dst)]
		if err := scanRecord(msg[:end], start, lim, r); err != nil {
			d.count(err)
		} else {
			r.Canonical = start-next == recordHead(end-start)
			dst = dst[:len(dst)+1]
		}
		next = end
	}
	return dst, next
}

// ScanEnvelope scans msg as one encoded loggregator.v2.Envelope. The record
// spans all of it and is not canonical. The error is ErrMalformed,
// ErrTooLarge or ErrSourceTooLong.
func ScanEnvelope(msg []byte, lim Limits) (Record, error) {
	var r Record
	if uint64(len(msg)) > math.MaxUint32 {
		return r, ErrTooLarge
	}
	err := scanRecord(msg, 0, lim.withDefaults(), &r)
	return r, err
}

// scanRecord scans the envelope from i to the end of b and fills r if it is
// acceptable.
func scanRecord(b []byte, i int, lim Limits, r *Record) error {
	if len(b)-i > lim.MaxEnvelope {
		return ErrTooLarge
	}
	var x index
	if !x.envelope(b, i) {
		return ErrMalformed
	}
	if x.sourceEnd-x.source > lim.MaxSourceID {
		return ErrSourceTooLong
	}
	*r = Record{
		Start:       uint32(i),
		End:         uint32(len(b)),
		Timestamp:   x.timestamp,
		Hash:        maphash.Bytes(hashSeed, b[x.source:x.sourceEnd]),
		SourceStart: uint32(x.source),
		SourceEnd:   uint32(x.sourceEnd),
		Class:       x.class(),
		Name:        foldName(x.names),
	}
	return nil
}

// hashSeed is never written again, so that a hash means the same everywhere
// in the process.
var hashSeed = maphash.MakeSeed()

// HashSource returns the hash of a source id that records carry. It differs
// from process to process.
func HashSource(id string) uint64 { return maphash.String(hashSeed, id) }
