package envelope

import (
	"encoding/binary"
	"iter"
	"math/bits"
)

// keyBatch is the key of EnvelopeBatch.batch, the one field of a batch.
const keyBatch = 1<<3 | wireBytes

// recordHead returns how many bytes come before an envelope of n bytes in a
// canonical record: the key and the shortest form of the length.
func recordHead(n int) int { return 1 + (bits.Len32(uint32(n)|1)+6)/7 }

// RecordSize returns how long the record of an envelope of n bytes is.
func RecordSize(n int) int { return recordHead(n) + n }

// AppendRecord appends env as a record: a batch field with the shortest form
// of its length. Records one after another are an encoded EnvelopeBatch.
func AppendRecord(dst, env []byte) []byte {
	dst = append(dst, keyBatch)
	dst = binary.AppendUvarint(dst, uint64(len(env)))
	return append(dst, env...)
}

// Next splits the first of trusted records, as AppendRecord makes them, from
// the rest. It returns false at the end, and at anything that is not a
// record. The slices share the memory of records.
func Next(records []byte) (env, rest []byte, ok bool) {
	if len(records) == 0 || records[0] != keyBatch {
		return nil, nil, false
	}
	start, end := chunk(records, 1)
	if end < 0 {
		return nil, nil, false
	}
	return records[start:end:end], records[end:], true
}

// Walk ranges over the envelopes of trusted records like Next.
func Walk(records []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for env, rest, ok := Next(records); ok && yield(env); env, rest, ok = Next(rest) {
		}
	}
}
