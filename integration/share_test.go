package integration

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"testing"

	"github.com/a1ea6966/loggregator/integration/journal"
	"github.com/a1ea6966/loggregator/integration/load"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// group is several nozzles of one subscription, each a process that writes a
// journal.
type group struct {
	subscription string
	urls, files  []string
	nozzles      []*process.Process
}

func startGroup(ctx context.Context, t *testing.T, p *pipeline.Pipeline, n int) *group {
	t.Helper()
	g := &group{subscription: "shared", nozzles: make([]*process.Process, n)}
	dir := t.TempDir()
	for i := range n {
		g.urls = append(g.urls, p.URL(i%len(p.Controllers)))
		g.files = append(g.files, filepath.Join(dir, fmt.Sprintf("journal-%d", i)))
		g.start(ctx, t, i)
	}
	g.waitMembers(ctx, t, p, n)
	return g
}

func (g *group) start(ctx context.Context, t *testing.T, i int) {
	t.Helper()
	g.nozzles[i] = launch(t, process.LoadTool, process.Command{
		Args: []string{journal.Argument, g.urls[i], g.subscription, g.files[i]},
	})
	if _, err := g.nozzles[i].Listening(ctx); err != nil { // is connected, that is
		t.Fatal(err)
	}
}

// waitMembers waits until every Doppler knows n members.
func (g *group) waitMembers(ctx context.Context, t *testing.T, p *pipeline.Pipeline, n int) {
	t.Helper()
	for _, d := range p.Dopplers {
		poll(ctx, t, "members of the group at "+d.Name, func() bool { return members(ctx, t, d, g.subscription) == n })
	}
}

// written is how many envelopes all journals have.
func (g *group) written() (n int) {
	for _, file := range g.files {
		n += journal.Size(file)
	}
	return n
}

// stop ends all nozzles in good order and returns their journals.
func (g *group) stop(ctx context.Context, t *testing.T) [][]journal.Entry {
	t.Helper()
	var all [][]journal.Entry
	for i, nozzle := range g.nozzles {
		if code, err := nozzle.Stop(ctx); err != nil || code != 0 {
			t.Fatalf("nozzle %d: code %d, %v: %s", i, code, err, nozzle.Log())
		}
		entries, err := journal.Read(g.files[i])
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entries)
	}
	return all
}

// checkUnion checks that the union of the journals is everything that was sent, and
// that whatever is there twice was marked as redelivered. It returns how many
// were there twice.
func checkUnion(t *testing.T, all [][]journal.Entry, sent uint64) (doubled int) {
	t.Helper()
	var union, first load.Set
	unmarked := 0
	for _, entries := range all {
		for _, e := range entries {
			if !union.Add(e.ID) {
				doubled++
			}
			if !e.Redelivered && !first.Add(e.ID) {
				unmarked++
			}
		}
	}
	if union.Count() != sent || unmarked != 0 {
		t.Errorf("of %d envelopes the nozzles have %d; %d are doubled, %d of them unmarked", sent, union.Count(), doubled, unmarked)
	}
	return doubled
}

func sharedLoad() sending {
	s := sending{Plan: load.Plan{Shape: load.Reference, Sources: 100, Batch: 10}, Rate: 10_000, Count: 40_000}
	if full {
		s.Batch, s.Rate, s.Count = 100, 25_000, 25_000*30
	}
	return s
}

func TestNozzlesShareASubscription(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 2, Controllers: 2})
	g := startGroup(ctx, t, p, 3)
	sent := send(ctx, t, newSenders(2), p.Dopplers, sharedLoad())
	poll(ctx, t, "all envelopes in the journals", func() bool { return uint64(g.written()) >= sent })
	all := g.stop(ctx, t)
	if doubled := checkUnion(t, all, sent); doubled != 0 {
		t.Errorf("%d envelopes were delivered twice", doubled)
	}
	for i, entries := range all {
		share := float64(len(entries)) / float64(sent)
		t.Logf("nozzle %d: %d envelopes, %.4f of all", i, len(entries), share)
		if math.Abs(share*3-1) > 0.05 {
			t.Errorf("nozzle %d has %.3f of all, want a third, give or take 5 %%", i, share)
		}
	}
}

func TestKilledNozzleLosesNothing(t *testing.T) {
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 2, Controllers: 2})
	g := startGroup(ctx, t, p, 3)
	load := sharedLoad()
	sending := make(chan uint64, 1)
	go func() { sending <- send(ctx, t, newSenders(2), p.Dopplers, load) }()
	poll(ctx, t, "a third of all", func() bool { return g.written() >= int(2*load.Count)/3 })
	g.nozzles[1].Kill()
	g.start(ctx, t, 1)
	sent := <-sending
	poll(ctx, t, "all envelopes in the journals", func() bool {
		return uint64(g.written()) >= sent && g.distinct(t) >= sent
	})
	doubled := checkUnion(t, g.stop(ctx, t), sent)
	t.Logf("%d envelopes were delivered again, and marked so", doubled)
}

// distinct counts different envelopes in all journals.
func (g *group) distinct(t *testing.T) uint64 {
	t.Helper()
	var union load.Set
	for _, file := range g.files {
		entries, err := journal.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			union.Add(e.ID)
		}
	}
	return union.Count()
}
