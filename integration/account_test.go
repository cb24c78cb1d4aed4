package integration

import (
	"context"
	"testing"

	"github.com/a1ea6966/loggregator/integration/load"
)

// untilAccounted waits until what a reader received and what it was told it
// missed make up all that was sent.
func untilAccounted(ctx context.Context, t *testing.T, r *load.Reader, sent uint64) load.Account {
	t.Helper()
	until(ctx, t, r, "account for everything", func(a load.Account, _ map[string]load.Place) bool {
		return a.Received-a.Late+a.Exact >= sent
	})
	return r.Account()
}

// checkAccount checks that a reader that lost something was told exactly how
// much, where it belongs.
func checkAccount(t *testing.T, sent uint64, a load.Account) {
	t.Helper()
	t.Logf("received %d, %d of them too late; told lost %d (%v); sent %d", a.Received, a.Late, a.Exact, a.GapReasons, sent)
	if acked := a.Received - a.Late; acked+a.Exact != sent {
		t.Errorf("acked in time %d + told %d = %d, sent were %d", acked, a.Exact, acked+a.Exact, sent)
	}
	if a.Missing > a.Exact {
		t.Errorf("%d are missing and only %d were told", a.Missing, a.Exact)
	}
	if a.Exact == 0 {
		t.Error("nothing was lost, so nothing is proved: the ring is too large for this test")
	}
	if a.AtLeast+a.Unknown+a.Repeated+a.Foreign != 0 {
		t.Errorf("%d gaps at least, %d unknown, %d repeated, %d foreign", a.AtLeast, a.Unknown, a.Repeated, a.Foreign)
	}
}
