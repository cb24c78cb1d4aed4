package load

import (
	"encoding/binary"
	"time"
)

// Ledger accounts for the envelopes of one reader. It is not safe for
// concurrent use.
type Ledger struct {
	// Received counts made envelopes; Others are those nobody here made, such
	// as a service's own metrics.
	Received, Others uint64
	// Missing counts the numbers left out so far: a number that comes after a
	// higher one of its sender and source is Repeated, or late.
	Missing, Repeated uint64
	// Foreign counts envelopes of another source than Only.
	Foreign uint64
	// Latency of everything received; nil before the first.
	Latency *Histogram
	// Only is the number of the one source that should come, or AnySource.
	Only int
	// Seen, when not nil, remembers every envelope.
	Seen *Set

	next [][]uint64 // by sender and source: the number expected
}

// AnySource is a Ledger's Only when envelopes of all sources are expected.
const AnySource = -1

// Identify reads who sent an envelope and when, in unix nanoseconds. ok is
// false when it was not made here. It looks only at the places where a made
// envelope has them.
func Identify(env []byte) (packed uint64, sent int64, ok bool) {
	if packed, ok = identify(env); !ok {
		return 0, 0, false
	}
	stamp, _ := binary.Uvarint(env[1 : 1+timeBytes])
	return packed, int64(stamp), true
}

func identify(env []byte) (packed uint64, ok bool) {
	const source = 1 + timeBytes // where the tag of the source id is
	if len(env) < source+4+8 || env[0] != 1<<3 || env[source] != 2<<3|2 {
		return 0, false
	}
	if env[source+2] == randomPrefix[0] && env[source+3] == randomPrefix[1] {
		return binary.LittleEndian.Uint64(env[len(env)-8:]), true
	}
	if len(env) < digits {
		return 0, false
	}
	return parseDigits(env[len(env)-digits:])
}

// Add accounts for a batch of encoded envelopes, as field 1 records, that
// arrived now.
func (l *Ledger) Add(records []byte, now time.Time) {
	var (
		arrived = now.UnixNano()
		stamp   uint64 // first bytes of the time, which envelopes sent together share
		sent    int64
		run     uint64 // how many in a row did
	)
	if l.Latency == nil {
		l.Latency = new(Histogram)
	}
	for len(records) > 0 {
		env, rest := firstRecord(records)
		records = rest
		packed, ok := identify(env)
		if !ok {
			l.Others++
			continue
		}
		// The ninth byte of a time changes once in two years.
		if s := binary.LittleEndian.Uint64(env[1:]); s != stamp {
			l.Latency.Add(time.Duration(arrived-sent), run)
			t, _ := binary.Uvarint(env[1 : 1+timeBytes])
			stamp, sent, run = s, int64(t), 0
		}
		run++
		l.one(packed)
	}
	l.Latency.Add(time.Duration(arrived-sent), run)
}

// firstRecord cuts the first field 1 record off well-formed records.
func firstRecord(records []byte) (env, rest []byte) {
	start, size := 2, int(records[1])
	if size >= 0x80 {
		long, n := binary.Uvarint(records[1:])
		start, size = 1+n, int(long)
	}
	return records[start : start+size], records[start+size:]
}

func (l *Ledger) one(packed uint64) {
	id := Unpack(packed)
	l.Received++
	if l.Only != AnySource && id.Source != l.Only {
		l.Foreign++
	}
	if l.Seen != nil {
		l.Seen.Add(id)
	}
	next := l.expected(id)
	if id.N < *next {
		l.Repeated++
		return
	}
	l.Missing += id.N - *next
	*next = id.N + 1
}

func (l *Ledger) expected(id ID) *uint64 {
	for id.Sender >= len(l.next) {
		l.next = append(l.next, nil)
	}
	of := l.next[id.Sender]
	if id.Source >= len(of) {
		of = append(of, make([]uint64, id.Source+1-len(of))...)
		l.next[id.Sender] = of
	}
	return &of[id.Source]
}

// Set remembers which envelopes were seen. The zero value is empty. It is not
// safe for concurrent use.
type Set struct {
	bits  map[[2]int][]uint64 // by sender and source
	count uint64
}

// Add remembers an envelope and returns whether it is new.
func (s *Set) Add(id ID) bool {
	if s.bits == nil {
		s.bits = make(map[[2]int][]uint64)
	}
	key := [2]int{id.Sender, id.Source}
	words := s.bits[key]
	word, bit := id.N/64, uint64(1)<<(id.N%64)
	if need := int(word) + 1 - len(words); need > 0 {
		words = append(words, make([]uint64, need)...)
		s.bits[key] = words
	}
	if words[word]&bit != 0 {
		return false
	}
	words[word] |= bit
	s.count++
	return true
}

// Has returns whether an envelope was added.
func (s *Set) Has(id ID) bool {
	words := s.bits[[2]int{id.Sender, id.Source}]
	word := int(id.N / 64)
	return word < len(words) && words[word]&(1<<(id.N%64)) != 0
}

// Count is how many different envelopes were seen.
func (s *Set) Count() uint64 { return s.count }
