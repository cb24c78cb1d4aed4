package sink

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/a1ea6966/loggregator/api/streampb"
	nozzle "github.com/a1ea6966/loggregator/firehose-nozzle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asLines makes a line of what a test calls the Doppler of a batch.
func asLines(dst []byte, b *nozzle.Batch) []byte {
	for text := range strings.SplitSeq(b.Position.GetDoppler(), ",") {
		dst = append(dst, text...)
		dst = append(dst, '\n')
	}
	return dst
}

func batches(texts ...string) []*nozzle.Batch {
	all := make([]*nozzle.Batch, len(texts))
	for i, text := range texts {
		all[i] = &nozzle.Batch{Position: &streampb.Position{Doppler: text}}
	}
	return all
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func numbered(from, to int) []string {
	var all []string
	for i := from; i < to; i++ {
		all = append(all, fmt.Sprintf("line %05d", i))
	}
	return all
}
