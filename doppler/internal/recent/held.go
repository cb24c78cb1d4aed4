package recent

import (
	"encoding/binary"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// held is what is kept of one source.
type held struct {
	envelopes      int
	oldest, newest int64 // timestamps, by offset
}

// sourcesPerLock bounds how long EachSource keeps the writer waiting.
const sourcesPerLock = 64

// EachSource visits every source of which something is kept, at about the same
// moment, with how many envelopes and the timestamps of the oldest and of the
// newest, by offset. totals is how many envelopes of each class a source has had, as Read
// wants it; both are called without a lock.
func (s *Store) EachSource(totals func(source string) [envelope.NumClasses]uint64, visit func(source string, envelopes int, oldest, newest int64),
) {
	s.mu.Lock()
	ids := make([]string, 0, len(s.sources))
	for id := range s.sources {
		ids = append(ids, id)
	}
	s.mu.Unlock()
	found := make([]held, sourcesPerLock)
	had := make([][envelope.NumClasses]uint64, sourcesPerLock)
	for len(ids) > 0 {
		n := min(len(ids), sourcesPerLock)
		for i, id := range ids[:n] {
			had[i] = totals(id)
		}
		s.heldOf(ids[:n], had, found)
		for i, id := range ids[:n] {
			if found[i].envelopes > 0 {
				visit(id, found[i].envelopes, found[i].oldest, found[i].newest)
			}
		}
		ids = ids[n:]
	}
}

func (s *Store) heldOf(ids []string, had [][envelope.NumClasses]uint64, found []held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, id := range ids {
		found[i] = held{}
		if src := s.sources[id]; src != nil {
			found[i] = s.sourceHeld(src, &had[i])
		}
	}
}

// sourceHeld is what is kept of one source. mu is held. Some of the oldest may
// be over the limit already; they are not counted.
func (s *Store) sourceHeld(src *source, had *[envelope.NumClasses]uint64) (h held) {
	var oldest, newest uint64
	for class, c := range src.chains {
		if c == nil {
			continue
		}
		n := min(c.count, s.allowed(c, had[class]))
		if n == 0 {
			continue
		}
		first := &s.blocks.about[c.head]
		if h.envelopes == 0 || first.offset < oldest {
			oldest, h.oldest = first.offset, envelope.Timestamp(s.envelopeAt(c.head, int(first.first)))
		}
		last, at, offset := s.lastHeader(c)
		if h.envelopes == 0 || offset > newest {
			newest, h.newest = offset, envelope.Timestamp(s.envelopeAt(last, at))
		}
		h.envelopes += n
	}
	return h
}

// lastHeader finds where the newest envelope of a chain begins.
func (s *Store) lastHeader(c *chain) (number uint32, at int, offset uint64) {
	number, end := c.tail, c.fill
	for s.blocks.about[number].starts == 0 {
		number, end = s.blocks.about[number].prev, blockSize
	}
	data := s.blocks.bytes(number)
	for at = int(s.blocks.about[number].first); ; {
		offset = binary.LittleEndian.Uint64(data[at:])
		next := at + headerSize + int(binary.LittleEndian.Uint32(data[at+8:]))
		if next+headerSize > end {
			return number, at, offset
		}
		at = next
	}
}

// envelopeAt copies the envelope whose header is in a block.
func (s *Store) envelopeAt(number uint32, at int) []byte {
	data := s.blocks.bytes(number)
	size := int(binary.LittleEndian.Uint32(data[at+8:]))
	env := make([]byte, 0, size)
	env = append(env, data[at+headerSize:min(blockSize, at+headerSize+size)]...)
	for len(env) < size {
		number = s.blocks.about[number].next
		env = append(env, s.blocks.bytes(number)[:min(blockSize, size-len(env))]...)
	}
	return env
}
