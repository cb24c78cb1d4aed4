package relay

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/a1ea6966/loggregator/api/loggregatorv2"
	"github.com/a1ea6966/loggregator/api/stream"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// offered is a batch of a Doppler: the offsets of its envelopes and the places of
// its gaps.
type offered struct {
	epoch, low uint64
	offsets    []uint64
	gaps       [][2]uint64
}

func (o offered) batch(t *testing.T) (*streampb.Batch, []byte) {
	t.Helper()
	b := &streampb.Batch{Position: &streampb.Position{Doppler: "d0", Epoch: o.epoch, Low: o.low, Count: uint32(len(o.offsets))}}
	body := &loggregatorv2.EnvelopeBatch{}
	for i, offset := range o.offsets {
		body.Batch = append(body.Batch, logLine(fmt.Sprint(offset)))
		if i == 0 {
			b.Position.First = offset
		} else {
			b.Position.Deltas = append(b.Position.Deltas, uint32(offset-o.offsets[i-1]))
		}
	}
	for _, g := range o.gaps {
		b.Gaps = append(b.Gaps, &streampb.Gap{From: g[0], To: g[1], Count: g[1] - g[0]})
	}
	records, err := proto.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	return b, records
}

func TestPassedLeavesOutWhatTheClientHas(t *testing.T) {
	type taken struct {
		offsets string // of what is passed on
		gaps    int
	}
	for name, steps := range map[string][]struct {
		offered
		want taken
	}{
		"all new": {
			{offered{epoch: 1, offsets: []uint64{0, 1, 2}}, taken{"0 1 2", 0}},
			{offered{epoch: 1, offsets: []uint64{3, 7}}, taken{"3 7", 0}},
		},
		"handed out again": {
			{offered{epoch: 1, offsets: []uint64{0, 1, 2}}, taken{"0 1 2", 0}},
			{offered{epoch: 1, offsets: []uint64{1, 2}}, taken{"", 0}},
			{offered{epoch: 1, offsets: []uint64{3}}, taken{"3", 0}},
		},
		"in part": {
			{offered{epoch: 1, offsets: []uint64{0, 2}}, taken{"0 2", 0}},
			{offered{epoch: 1, offsets: []uint64{2, 4, 6}}, taken{"4 6", 0}},
		},
		"what another member had": {
			{offered{epoch: 1, offsets: []uint64{0, 1}}, taken{"0 1", 0}},
			{offered{epoch: 1, offsets: []uint64{8, 9}}, taken{"8 9", 0}},
			{offered{epoch: 1, offsets: []uint64{4, 5}}, taken{"4 5", 0}},
			{offered{epoch: 1, offsets: []uint64{4, 5}}, taken{"", 0}},
		},
		"another epoch": {
			{offered{epoch: 1, offsets: []uint64{0, 1}}, taken{"0 1", 0}},
			{offered{epoch: 2, offsets: []uint64{0, 1}}, taken{"0 1", 0}},
		},
		"gaps": {
			{offered{epoch: 1, offsets: []uint64{10}, gaps: [][2]uint64{{0, 5}, {0, 0}}}, taken{"10", 2}},
			{offered{epoch: 1, offsets: []uint64{10, 11}, gaps: [][2]uint64{{0, 5}, {5, 10}, {0, 0}}}, taken{"11", 2}},
		},
		"forgotten when it is settled": {
			{offered{epoch: 1, offsets: []uint64{4, 5}, gaps: [][2]uint64{{0, 4}}}, taken{"4 5", 1}},
			{offered{epoch: 1, low: 5, offsets: []uint64{5}, gaps: [][2]uint64{{0, 4}}}, taken{"", 1}},
			{offered{epoch: 1, low: 6, offsets: []uint64{5}}, taken{"5", 0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := &passed{}
			for i, step := range steps {
				b, records := step.batch(t)
				fresh, count, gaps := p.take(b, records)
				got := &loggregatorv2.EnvelopeBatch{}
				if err := proto.Unmarshal(fresh, got); err != nil {
					t.Fatal(err)
				}
				var offsets []string
				for _, e := range got.GetBatch() {
					offsets = append(offsets, string(e.GetLog().GetPayload()))
				}
				if s := strings.Join(offsets, " "); s != step.want.offsets || int(count) != len(offsets) || len(gaps) != step.want.gaps {
					t.Errorf("step %d: passes on %q, which are %d, and %d gaps; want %+v", i, s, count, len(gaps), step.want)
				}
			}
		})
	}
}

func TestPassedIsBounded(t *testing.T) {
	p := &passed{}
	for i := range uint64(2 * maxPassed) {
		b, records := offered{epoch: 1, offsets: []uint64{i * 2}, gaps: [][2]uint64{{i * 2, i*2 + 1}}}.batch(t)
		p.take(b, records)
	}
	newest := stream.OffsetRange{First: 4*maxPassed - 2, Last: 4*maxPassed - 2}
	if len(p.envelopes) != maxPassed || len(p.gaps) != maxPassed || !slices.Contains(p.envelopes, newest) {
		t.Errorf("%d and %d runs are kept, the bound is %d", len(p.envelopes), len(p.gaps), maxPassed)
	}
}
