package integration

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/breaker"
	"github.com/a1ea6966/loggregator/integration/pipeline"
	"github.com/a1ea6966/loggregator/integration/process"
)

// Somebody follows an app while the connection breaks, and the Traffic
// Controller at its end is killed: every line is shown, once and in order.
func TestLogsGoOnAfterBreaks(t *testing.T) {
	const breaks, linesBetween = 6, 500
	ctx := deadline(t)
	p := start(t, pipeline.Config{Dopplers: 1, Controllers: 2})
	front, err := breaker.Listen(ctx, 64<<10, p.Controllers[0].Addrs[pipeline.Public], p.Controllers[1].Addrs[pipeline.Public])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(front.Close)
	tailed := filepath.Join(t.TempDir(), "tail.json")
	out, err := os.Create(tailed)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	tail := launch(t, process.Lgr, process.Command{
		Args: []string{"logs", "my-app", "--addr", "http://" + front.Addr(), "--since", "1h", "--json"}, Stdout: out,
	})
	reader, writer := io.Pipe()
	emit := launch(t, process.Lgr, process.Command{
		Args: []string{"emit", "--source", "my-app", "--addr", p.Dopplers[0].Addrs[pipeline.GRPC]}, Stdin: reader,
	})
	var said []string
	say := func(n int) {
		for range n {
			said = append(said, fmt.Sprintf("line %d", len(said)))
			if _, err := io.WriteString(writer, said[len(said)-1]+"\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	shown := func(what string) {
		poll(ctx, t, what, func() bool { return lines(t, tailed) >= len(said) })
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range breaks {
		say(linesBetween)
		shown("lines while it is connected")
		poll(ctx, t, "a connection to break", func() bool {
			ok, err := front.Break(ctx, rng, breaker.How(rng.IntN(2)), rng.IntN(1000))
			if err != nil {
				t.Fatal(err)
			}
			say(10) // what passes breaks it
			return ok
		})
		say(linesBetween)
	}
	for _, c := range p.Controllers { // it reads through one of them
		c.Kill()
		say(linesBetween)
		shown("lines after a Traffic Controller was killed")
		if err := p.Restart(ctx, c); err != nil {
			t.Fatal(err)
		}
		if err := p.WaitReady(ctx, c); err != nil {
			t.Fatal(err)
		}
	}
	_ = writer.Close()
	finish(ctx, t, emit)
	if _, err := tail.Stop(ctx); err != nil {
		t.Error(err)
	}
	if t.Failed() {
		t.Log(tail.Log())
	}
	blackbox.SamePayloads(t, tailed, len(said), func(i int) string { return said[i] })
}
