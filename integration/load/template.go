package load

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/api/envelope/envelopetest"
)

// Shape is what the envelopes look like.
type Shape string

// Shapes.
const (
	// Reference copies the reference envelope: 500 bytes, 8 tags.
	Reference Shape = "reference"
	// Random has logs of 30 bytes to 60 KB, as many between 30 and 300 bytes
	// as between 3 and 30 KB.
	Random Shape = "random"
)

// Plan is what one run sends.
type Plan struct {
	Shape Shape
	// Sources is how many sources take turns, from number First on.
	First, Sources int
	// Batch is the number of envelopes per message; 0 sends single envelopes
	// to the method Sender instead.
	Batch int
}

// SourceID is the source id of source n in this shape.
func (p Plan) SourceID(n int) string {
	if p.Shape == Random {
		return fmt.Sprintf("%s%d", randomPrefix, n)
	}
	return envelopetest.Source(n)
}

const (
	randomPrefix = "s-"
	minRandom    = 30
	maxRandom    = 60_000
	// singles is how many single envelopes a template holds, and so how many
	// are written at once at most.
	singles = 32
)

// template is a run of gRPC messages in HTTP/2 frames, complete but for the
// times and numbers, which are written over in place before each use.
type template struct {
	wire   []byte
	frames []frame
	slots  []slot
}

// frame is a DATA frame in wire, with what it takes of the flow control window
// and the number of slots up to its end.
type frame struct{ end, payload, slots int }

// slot is one envelope.
type slot struct {
	source int
	time   int    // where the timestamp is
	number int    // where the ID is; in decimal, where N begins
	binary bool   // the ID is
	base   uint64 // the ID with N = 0
}

// templates lays out what a sender sends, turn by turn.
func templates(p Plan, sender int) ([]*template, error) {
	perTemplate := p.Batch
	if p.Batch == 0 {
		perTemplate = singles
	}
	n := (p.Sources + perTemplate - 1) / perTemplate
	if p.Shape == Random {
		n = max(n, 16) // so that there are many sizes
	}
	rng := rand.New(rand.NewPCG(uint64(sender), 1))
	var all []*template
	for i := range n {
		b := &builder{plan: p, sender: sender, rng: rng}
		if err := b.fill(i*perTemplate, perTemplate); err != nil {
			return nil, err
		}
		all = append(all, &b.template)
	}
	return all, nil
}

// builder cuts messages into frames, never through a time or a number.
type builder struct {
	template
	plan   Plan
	sender int
	rng    *rand.Rand
	open   int // where the header of the open frame is
}

const (
	frameHeader = 9
	maxPayload  = 16 << 10 // what every HTTP/2 server accepts
	grpcPrefix  = 5
	dataFrame   = 0
	streamID    = 1
	timeBytes   = 9
)

func (b *builder) fill(first, n int) error {
	var envs [][]byte
	var record []byte
	for i := range n {
		env, s, err := b.envelope(b.plan.First + (first+i)%b.plan.Sources)
		if err != nil {
			return err
		}
		envs = append(envs, env)
		b.slots = append(b.slots, s)
	}
	if b.plan.Batch == 0 {
		for i, env := range envs {
			b.begin()
			b.message(len(env))
			b.envelopeBytes(i, nil, env)
			b.end(i + 1)
		}
		return nil
	}
	size := 0
	for _, env := range envs {
		size += protowire.SizeTag(1) + protowire.SizeBytes(len(env))
	}
	b.begin()
	b.message(size)
	for i, env := range envs {
		record = protowire.AppendVarint(protowire.AppendTag(record[:0], 1, protowire.BytesType), uint64(len(env)))
		b.envelopeBytes(i, record, env)
	}
	b.end(len(envs))
	return nil
}

// envelope makes one; the places of its slot are relative to it.
func (b *builder) envelope(source int) ([]byte, slot, error) {
	id := ID{Sender: b.sender, Source: source}
	if b.plan.Shape == Random {
		env := b.random(b.plan.SourceID(source), b.size())
		return env, slot{source: source, time: 1, number: len(env) - 8, binary: true, base: id.Pack()}, nil
	}
	stamp, err := envelopetest.NewStamp(b.plan.SourceID(source))
	if err != nil {
		return nil, slot{}, err
	}
	env := stamp.Append(nil, id.Pack(), time.Now())
	return env, slot{source: source, time: 1, number: len(env) - 11, base: id.Pack()}, nil
}

// size draws the logarithm evenly.
func (b *builder) size() int {
	return int(minRandom * math.Pow(float64(maxRandom)/minRandom, b.rng.Float64()))
}

// random makes a log of about the wanted size, whose text ends with its ID in
// binary.
func (b *builder) random(source string, size int) []byte {
	env := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(time.Now().UnixNano()))
	env = protowire.AppendString(protowire.AppendTag(env, 2, protowire.BytesType), source)
	text := max(8, size-len(env)-2*protowire.SizeBytes(0)-2)
	log := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), slices.Repeat([]byte{'x'}, text))
	return protowire.AppendBytes(protowire.AppendTag(env, 4, protowire.BytesType), log)
}

func (b *builder) begin() {
	b.open = len(b.wire)
	b.wire = append(b.wire, 0, 0, 0, dataFrame, 0, 0, 0, 0, streamID)
}

func (b *builder) end(slots int) {
	payload := len(b.wire) - b.open - frameHeader
	b.wire[b.open], b.wire[b.open+1], b.wire[b.open+2] = byte(payload>>16), byte(payload>>8), byte(payload)
	b.frames = append(b.frames, frame{end: len(b.wire), payload: payload, slots: slots})
}

func (b *builder) room() int { return maxPayload - (len(b.wire) - b.open - frameHeader) }

// message begins a gRPC message.
func (b *builder) message(size int) {
	b.wire = append(b.wire, 0)
	b.wire = binary.BigEndian.AppendUint32(b.wire, uint32(size))
}

// envelopeBytes appends slot i, with its record's tag and length before it.
func (b *builder) envelopeBytes(i int, record, env []byte) {
	s := &b.slots[i]
	head := s.time + timeBytes
	tail := s.number
	s.time += b.whole(i, append(record, env[:head]...)) + len(record)
	for rest := env[head:tail]; len(rest) > 0; {
		if b.room() == 0 {
			b.end(i)
			b.begin()
		}
		n := min(len(rest), b.room())
		b.wire = append(b.wire, rest[:n]...)
		rest = rest[n:]
	}
	s.number = b.whole(i, env[tail:])
}

// whole appends bytes that have to lie in one frame, and returns where.
func (b *builder) whole(slots int, bytes []byte) int {
	if b.room() < len(bytes) {
		b.end(slots)
		b.begin()
	}
	at := len(b.wire)
	b.wire = append(b.wire, bytes...)
	return at
}

// stamp gives slots [from, to) their numbers and a time.
func (t *template) stamp(from, to int, next []uint64, now time.Time) {
	var stamp [binary.MaxVarintLen64]byte
	binary.PutUvarint(stamp[:], uint64(now.UnixNano()))
	for i := from; i < to; i++ {
		s := &t.slots[i]
		copy(t.wire[s.time:s.time+timeBytes], stamp[:])
		n := next[s.source]
		next[s.source]++
		if s.binary {
			binary.LittleEndian.PutUint64(t.wire[s.number:], s.base+n)
			continue
		}
		putDigits(t.wire[s.number:s.number+11], n)
	}
}
