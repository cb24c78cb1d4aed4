package sizing

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
)

const (
	document   = "../../docs/scaling.md"
	tableBegin = "<!-- table: made by integration/sizing -->\n"
	tableEnd   = "<!-- /table -->"
)

// platforms are those of the document's table.
func platforms() []Platform {
	sizes := []struct{ dopplers, controllers, subscriptions, nozzles, tails int }{
		{1, 1, 1, 1, 100}, {4, 2, 2, 2, 1000}, {16, 8, 4, 8, 5000}, {64, 32, 4, 32, 10_000},
	}
	list := make([]Platform, len(sizes))
	for i, s := range sizes {
		list[i] = Platform{
			Dopplers: s.dopplers, Controllers: s.controllers, Rate: 50_000, EnvelopeBytes: 500, Subscriptions: s.subscriptions,
			Nozzles: s.nozzles, Tails: s.tails, TailRate: 10, RingBytes: 2 << 30, WindowBytes: 2 << 20,
		}
	}
	return list
}

func table() string {
	var out strings.Builder
	out.WriteString("| Dopplers x Traffic Controllers | subscriptions x nozzles | tails | Doppler: cores | memory | connections | in, out MB/s " +
		"| Traffic Controller: cores | memory | more for a stuck nozzle | connections | out MB/s |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n")
	for _, p := range platforms() {
		d, c := Calculate(Measured, p)
		fmt.Fprintf(&out, "| %d x %d | %d x %d | %d | %.2f | %.1f GiB | %d | %.0f, %.0f | %.2f | %.0f MiB | %.0f MiB | %d | %.0f |\n",
			p.Dopplers, p.Controllers, p.Subscriptions, p.Nozzles, p.Tails,
			d.Cores, d.MemoryBytes/(1<<30), d.Connections, d.In/1e6, d.Out/1e6,
			c.Cores, c.MemoryBytes/(1<<20), c.StuckBytes/(1<<20), c.Connections, c.Out/1e6)
	}
	return out.String()
}

// TestDocument holds docs/scaling.md to the calculation; LGR_SCALING=write puts
// it there.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), tableBegin)
	written, after, found := strings.Cut(rest, tableEnd)
	if !ok || !found {
		t.Fatalf("%s has no place for the table", document)
	}
	if strings.TrimSpace(written) == strings.TrimSpace(table()) {
		return
	}
	if os.Getenv("LGR_SCALING") != "write" {
		t.Fatalf("%s has\n%s\nbut calculated is\n%s\nrun LGR_SCALING=write go test ./integration/sizing", document, written, table())
	}
	if err := os.WriteFile(document, []byte(before+tableBegin+"\n"+table()+"\n"+tableEnd+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCalculate(t *testing.T) {
	base := platforms()[1]
	for name, test := range map[string]struct {
		change func(*Platform)
		holds  func(d0, d Doppler, c0, c Controller) bool
	}{
		"twice the rate is twice the CPU, but for tails": {
			func(p *Platform) { p.Rate *= 2; p.Tails = 0 },
			func(d0, d Doppler, _, _ Controller) bool { return d.Cores > 1.9*d0.Cores && d.Cores < 2*d0.Cores },
		},
		"nozzles of a subscription share it": {
			func(p *Platform) { p.Nozzles *= 4 },
			func(d0, d Doppler, c0, c Controller) bool {
				return d.Cores == d0.Cores && d.Out == d0.Out && c.Out == c0.Out
			},
		},
		"a subscription more costs a Doppler less than the first": {
			func(p *Platform) { p.Subscriptions++ },
			func(d0, d Doppler, _, _ Controller) bool {
				return d.Cores-d0.Cores < base.Rate*Measured.FirstFirehose/1e9
			},
		},
		"links are Dopplers times Traffic Controllers": {
			func(p *Platform) { p.Dopplers, p.Controllers, p.Subscriptions, p.Tails = 64, 32, 0, 0 },
			func(_, d Doppler, _, c Controller) bool { return d.Connections == 32 && c.Connections == 64 },
		},
		"a stuck nozzle may hold a window of every Doppler": {
			func(p *Platform) { p.Dopplers = 64 },
			func(_, _ Doppler, _, c Controller) bool { return c.StuckBytes == 64*base.WindowBytes },
		},
		"the ring reaches back as far as it has room": {
			func(p *Platform) { p.RingBytes *= 3 },
			func(d0, d Doppler, _, _ Controller) bool { return math.Abs(d.HeldSeconds-3*d0.HeldSeconds) < 1e-9 },
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := base
			d0, c0 := Calculate(Measured, p)
			test.change(&p)
			d, c := Calculate(Measured, p)
			if !test.holds(d0, d, c0, c) {
				t.Errorf("before %+v %+v\nafter  %+v %+v", d0, c0, d, c)
			}
		})
	}
}
