package envelope_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/a1ea6966/loggregator/api/envelope"
)

// node is one field of a message, taken apart so that mutations keep most of
// the framing intact.
type node struct {
	num    uint64
	typ    protowire.Type
	scalar uint64 // varint or fixed value
	bytes  string // of a field that is not taken apart
	kids   []node // of a group or of a message
	open   bool   // kids count, not bytes
	pad    int    // extra bytes for the key and for the length
	skew   int    // how wrong the length is
}

// parse takes a message apart, as deep as it looks like one.
func parse(b string, depth int) ([]node, bool) {
	var nodes []node
	for len(b) > 0 {
		n, typ, l := protowire.ConsumeTag([]byte(b))
		if l < 0 {
			return nil, false
		}
		m := protowire.ConsumeFieldValue(n, typ, []byte(b[l:]))
		if m < 0 {
			return nil, false
		}
		value := []byte(b[l : l+m])
		b = b[l+m:]
		f := node{num: uint64(n), typ: typ}
		switch typ {
		case protowire.VarintType:
			f.scalar, _ = protowire.ConsumeVarint(value)
		case protowire.Fixed64Type:
			f.scalar, _ = protowire.ConsumeFixed64(value)
		case protowire.Fixed32Type:
			v, _ := protowire.ConsumeFixed32(value)
			f.scalar = uint64(v)
		case protowire.BytesType:
			f.bytes, _ = protowire.ConsumeString(value)
			if depth > 0 {
				f.kids, f.open = parse(f.bytes, depth-1)
			}
		case protowire.StartGroupType:
			v, _ := protowire.ConsumeGroup(n, value)
			f.kids, f.open = parse(string(v), depth-1)
		}
		nodes = append(nodes, f)
	}
	return nodes, true
}

func encode(nodes []node) string {
	var s string
	for _, n := range nodes {
		s += pad(n.num<<3|uint64(n.typ), n.pad)
		body := n.bytes
		if n.open {
			body = encode(n.kids)
		}
		switch n.typ {
		case protowire.VarintType:
			s += pad(n.scalar, n.pad)
		case protowire.Fixed64Type:
			s += string(protowire.AppendFixed64(nil, n.scalar))
		case protowire.Fixed32Type:
			s += string(protowire.AppendFixed32(nil, uint32(n.scalar)))
		case protowire.BytesType:
			s += pad(uint64(max(0, len(body)+n.skew)), n.pad) + body
		case protowire.StartGroupType:
			s += body + key(n.num, protowire.EndGroupType)
		}
	}
	return s
}

// mutator changes messages at random.
type mutator struct {
	rng    *rand.Rand
	donors []string
}

func (m *mutator) pick(n int) int { return m.rng.IntN(max(n, 1)) }

// list picks the fields of some message within nodes.
func (m *mutator) list(nodes *[]node) *[]node {
	for range 4 {
		if len(*nodes) == 0 || m.pick(3) == 0 {
			break
		}
		n := &(*nodes)[m.pick(len(*nodes))]
		if !n.open {
			break
		}
		nodes = &n.kids
	}
	return nodes
}

var (
	numbers = []uint64{0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1001, 1<<29 - 1, 1 << 29, 1<<31 - 1}
	types   = []protowire.Type{0, 1, 2, 2, 2, 3, 5, 6}
	strs    = []string{"", "Error", "__v1_type", "http", "cpu", "memory", "disk", "é", "\xff", "日本語日本語", "\xe2\x80"}
	scalars = []uint64{0, 1, 127, 128, 1 << 14, 1 << 63, 1<<64 - 1, 0x3ff0000000000000}
)

func choose[T any](m *mutator, list []T) T { return list[m.pick(len(list))] }

// field makes a field out of nothing, or takes one of a donor.
func (m *mutator) field() node {
	if m.pick(2) == 0 {
		if nodes, ok := parse(choose(m, m.donors), 4); ok && len(nodes) > 0 {
			if from := *m.list(&nodes); len(from) > 0 {
				return choose(m, from)
			}
		}
	}
	n := node{num: choose(m, numbers), typ: choose(m, types), scalar: choose(m, scalars), bytes: choose(m, strs)}
	n.open = n.typ == protowire.StartGroupType
	return n
}

// change applies one mutation to the fields of one message.
func (m *mutator) change(nodes *[]node) {
	nodes = m.list(nodes)
	at := m.pick(len(*nodes))
	if len(*nodes) == 0 || m.pick(6) == 0 {
		*nodes = slices.Insert(slices.Clone(*nodes), at, m.field())
		return
	}
	*nodes = slices.Clone(*nodes)
	n := &(*nodes)[at]
	switch m.pick(12) {
	case 0, 1:
		m.rng.Shuffle(len(*nodes), func(i, j int) { (*nodes)[i], (*nodes)[j] = (*nodes)[j], (*nodes)[i] })
	case 2, 3:
		*nodes = slices.Insert(*nodes, m.pick(len(*nodes)+1), *n)
	case 4:
		*nodes = slices.Delete(*nodes, at, at+1)
	case 5:
		n.num = choose(m, numbers)
	case 6:
		n.typ = choose(m, types)
		n.open = n.open && n.typ == protowire.BytesType || n.typ == protowire.StartGroupType
	case 7, 8:
		n.bytes, n.open = choose(m, strs), false
		n.scalar = choose(m, scalars)
	case 9:
		n.pad = m.pick(12)
	case 10:
		if m.pick(3) == 0 {
			n.skew = m.pick(5) - 2
		}
	case 11:
		if n.typ == protowire.BytesType && m.pick(3) == 0 {
			n.kids, n.open, n.typ = []node{m.field()}, true, protowire.StartGroupType
		}
	}
}

// mangle changes bytes without regard to the framing.
func (m *mutator) mangle(b []byte) []byte {
	at := m.pick(len(b))
	switch m.pick(4) {
	case 0:
		return b[:at]
	case 1:
		if len(b) > 0 {
			b[at] ^= 1 << m.pick(8)
		}
	case 2:
		return slices.Insert(b, at, byte(m.pick(256)))
	case 3:
		if len(b) > 0 {
			return slices.Delete(b, at, at+1)
		}
	}
	return b
}

// mutate returns a relative of one of the donors.
func (m *mutator) mutate() []byte {
	nodes, _ := parse(choose(m, m.donors), 4)
	for range m.pick(5) {
		m.change(&nodes)
	}
	b := []byte(encode(nodes))
	for m.pick(4) == 0 {
		b = m.mangle(b)
	}
	return b
}

func newMutator(tb testing.TB, seed uint64) *mutator {
	tb.Helper()
	m := &mutator{rng: rand.New(rand.NewPCG(seed, 0))}
	for _, s := range allSamples(tb) {
		if len(s.wire) < 1000 {
			m.donors = append(m.donors, s.wire)
		}
	}
	return m
}

func TestScanEnvelopeMutations(t *testing.T) {
	const cases = 200_000
	m := newMutator(t, 1)
	var classes [envelope.NumClasses]int
	var accepted int
	for i := range cases {
		env := m.mutate()
		ok, err := checkEnvelope(env)
		if err != nil {
			t.Fatalf("case %d, %x: %v", i, env, err)
		}
		if ok {
			accepted++
			r, _ := envelope.ScanEnvelope(env, envelope.Limits{})
			classes[r.Class]++
		}
	}
	// The test is worth something only if it goes both ways, everywhere.
	if accepted < cases/4 || accepted > cases*3/4 {
		t.Errorf("%d of %d accepted", accepted, cases)
	}
	for c, n := range classes {
		if n < 200 {
			t.Errorf("only %d of class %v", n, envelope.Class(c))
		}
	}
}

func TestScanBatchMutations(t *testing.T) {
	m := newMutator(t, 2)
	lim := envelope.Limits{MaxEnvelope: 600, MaxSourceID: 40}
	for i := range 10_000 {
		var batch []byte
		for range m.pick(6) {
			batch = append(batch, pad(1<<3|2, max(0, m.pick(20)-16))...)
			env := m.mutate()
			batch = append(batch, pad(uint64(len(env)), max(0, m.pick(20)-16))...)
			batch = append(batch, env...)
		}
		for m.pick(3) == 0 {
			batch = m.mangle(batch)
		}
		if err := checkBatch(batch, lim); err != nil {
			t.Fatal(fmt.Errorf("case %d, %x: %w", i, batch, err))
		}
	}
}
