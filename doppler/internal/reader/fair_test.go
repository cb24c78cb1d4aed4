package reader

import (
	"fmt"
	"testing"

	"github.com/a1ea6966/loggregator/api/streampb"
	"github.com/a1ea6966/loggregator/doppler/internal/ring"
)

// A link that takes a quarter of what comes, however small the ring: the loud
// source makes up for it, 20 quiet ones lose nothing.
func TestSlowLinkSparesTheQuiet(t *testing.T) {
	const quiet, loudness, size = 20, 50, 400
	for _, ringBytes := range []int64{1 << 20, 4 << 20} {
		t.Run(fmt.Sprint(ringBytes>>20, " MiB"), func(t *testing.T) {
			w := newWorld(t, 1, func(c *ring.Config) { c.SegmentBytes, c.Bytes = 0, ringBytes })
			defer w.close()
			l := newLink(t, w, LinkConfig{}, Start{})
			for i := range quiet {
				l.Add(1, uint32(i), fmt.Sprint("quiet", i), nil)
			}
			l.Add(1, quiet, "loud", nil)
			takeAll(w, l)
			said, got, told := [2]int{}, [2]int{}, 0
			note := func(b *LinkBatch) {
				for _, id := range b.Watches {
					got[id/quiet]++
				}
				for _, g := range b.Gaps {
					if told += int(g.Count); g.Source != "loud" || g.Reason != streampb.Gap_OVER_SHARE {
						t.Fatalf("gap %s of %s", show([]*Gap{g}), g.Source)
					}
				}
				b.Release()
			}
			for range 40 {
				for i := range int(ringBytes) / 2 / size {
					source, is := "loud", 1
					if i%loudness == 0 {
						source, is = fmt.Sprint("quiet", i/loudness%quiet), 0
					}
					w.append(w.make(source, 0, size))
					said[is]++
				}
				for room := int(ringBytes) / 8; room > 0; {
					b, _ := l.Next()
					room -= max(b.Bytes, size)
					note(&b)
				}
			}
			for b, more := l.Next(); more || b.Count > 0; b, more = l.Next() {
				note(&b)
			}
			if got[0] != said[0] || got[1]+told != said[1] || told == 0 {
				t.Errorf("quiet: %d of %d; loud: %d and told %d of %d", got[0], said[0], got[1], told, said[1])
			}
		})
	}
}
