package egress

import (
	"testing"

	"github.com/a1ea6966/loggregator/api/envelope"
	"github.com/a1ea6966/loggregator/api/streampb"
)

// A read that ends before what the ring holds is not answered with what came
// after it, neither in envelopes nor in counts.
func TestForwardReadEndsBeforeTheRing(t *testing.T) {
	p := newPlain(t, 1, 64<<10)
	const each, to = 10, 15
	for range 2 * each {
		p.append("app", 1, logSized(20))
	}
	for p.log.Oldest() < 2*each {
		p.append("loud", 1, logSized(500))
	}
	src := p.log.Ref("app")
	defer p.log.Unref(src)
	q := historyQuery{mask: envelope.AllClasses, epoch: 7, from: 5, matched: 5, to: to, forward: true}
	a := p.server.readForward(src, q)
	if len(a.entries) != to-5 || a.entries[0].offset != 5 || a.next != to || a.matched != 5 {
		t.Errorf("%d entries from %d matched on, next %d", len(a.entries), a.matched, a.next)
	}
	if a.gap == nil || a.gap.GetPrecision() != streampb.Gap_UNKNOWN || a.gap.GetTo() != 5 {
		t.Errorf("gap %v: it cannot know whether there is one", a.gap)
	}
	q.to = p.log.Oldest() // there it can
	if a := p.server.readForward(src, q); len(a.entries) != 2*each-5 || a.gap != nil {
		t.Errorf("%d entries, gap %v", len(a.entries), a.gap)
	}
}
