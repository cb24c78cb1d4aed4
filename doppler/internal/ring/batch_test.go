package ring

import (
	"strings"
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// entry is an envelope as the tests know it.
type entry struct {
	source string
	class  envelope.Class
	env    []byte
}

// batch collects a message and its index, as a scan would.
type batch struct {
	msg     []byte
	recs    []envelope.Record
	entries []entry
	ids     map[string]uint32 // where source ids lie in msg
	strange int               // every so many envelopes the record is not canonical
}

func (b *batch) add(source string, class envelope.Class, env []byte) *batch {
	at, ok := b.ids[source]
	if !ok {
		if b.ids == nil {
			b.ids = map[string]uint32{}
		}
		at = uint32(len(b.msg))
		b.ids[source] = at
		b.msg = append(b.msg, source...)
	}
	rec := envelope.Record{
		Hash: envelope.HashSource(source), Class: class, SourceStart: at, SourceEnd: at + uint32(len(source)),
		Canonical: b.strange == 0 || len(b.recs)%b.strange != 0,
	}
	if rec.Canonical {
		b.msg = envelope.AppendRecord(b.msg, env)
	} else {
		b.msg = append(b.msg, 0x0a, 0x80|byte(len(env)&0x7f), byte(len(env)>>7)) // too long a length
		b.msg = append(b.msg, env...)
	}
	rec.End = uint32(len(b.msg))
	rec.Start = rec.End - uint32(len(env))
	b.recs = append(b.recs, rec)
	b.entries = append(b.entries, entry{source, class, env})
	return b
}

// sized returns an envelope of n bytes that tells itself from its neighbours.
func sized(n int, mark byte) []byte {
	return []byte(strings.Repeat(string(rune('a'+mark%26)), n))
}

func (b *batch) to(r *Ring) uint64 { return r.Append(b.msg, b.recs) }

// logs appends one log of n bytes for each of the sources.
func logs(r *Ring, n int, sources ...string) uint64 {
	b := &batch{}
	for i, s := range sources {
		b.add(s, envelope.Log, sized(n, byte(i)))
	}
	return b.to(r)
}

// small has room for 8 segments of 256 bytes, 16 envelopes each.
func small(t testing.TB, change func(*Config)) *Ring {
	t.Helper()
	cfg := Config{Bytes: 8 * (256 + 16*recordBytes), SegmentBytes: 256}
	if change != nil {
		change(&cfg)
	}
	r, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// held reads everything from off on.
func held(t testing.TB, r *Ring, off uint64) (entries []entry) {
	t.Helper()
	for off < r.Head() {
		c, err := r.Acquire(off)
		if err != nil {
			t.Fatalf("acquire %d: %v", off, err)
		}
		if c.Len() == 0 {
			t.Fatalf("chunk at %d is empty", off)
		}
		for i := range c.Len() {
			env := c.Envelope(i)
			entries = append(entries, entry{
				r.sources.byNumber[c.Source(i)].ID(), c.Class(i), append([]byte{}, env...),
			})
		}
		off += uint64(c.Len())
		c.Release()
	}
	return entries
}
