package auth

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// held opens a stream's leave with a token, and tells when it is lost.
func held(t *testing.T, a *Auth, d Decision) (*Hold, <-chan Lost) {
	t.Helper()
	if !d.Allowed() {
		t.Fatalf("refused: %s", d.Reason)
	}
	lost := make(chan Lost, 2)
	h := a.Hold(d, func(why Lost) { lost <- why })
	t.Cleanup(h.Release)
	return h, lost
}

func quick(t *testing.T) (*outside, *Auth) {
	o, cfg := newOutside(t)
	cfg.Recheck, cfg.CacheFor = time.Second, 10*time.Second
	return o, newAuth(t, cfg)
}

func wait(t *testing.T, lost <-chan Lost, want Lost) {
	t.Helper()
	select {
	case got := <-lost:
		if got != want {
			t.Fatalf("lost because %s, not %s", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was lost")
	}
}

func TestHoldEnds(t *testing.T) {
	invalid := says(400, `{"error":"invalid_token"}`)
	for name, test := range map[string]struct {
		uaa, cc  http.HandlerFunc
		firehose Lost // of who reads everything
		app      Lost // of who reads an app
	}{
		"revoked":       {invalid, says(200, "{}"), Revoked, Revoked},
		"scope is gone": {says(200, scope("x")), says(404, ""), Withdrawn, Withdrawn},
		"both":          {invalid, says(404, ""), Revoked, Revoked},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, a := quick(t)
			_, all := held(t, a, a.Firehose(context.Background(), request("bearer t")))
			_, one := held(t, a, a.App(context.Background(), request("bearer t"), app))
			o.set(test.uaa, test.cc)
			wait(t, all, test.firehose)
			wait(t, one, test.app)
		})
	}
}

// What nobody can tell ends no stream.
func TestHoldOutlivesOutages(t *testing.T) {
	for name, h := range broken(scope(scopeFirehose)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, cfg := newOutside(t)
			cfg.Recheck, cfg.Timeout = time.Second, time.Second
			a := newAuth(t, cfg)
			_, all := held(t, a, a.Firehose(context.Background(), request("bearer t")))
			_, one := held(t, a, a.App(context.Background(), request("bearer t"), app))
			o.set(h, h)
			for asked := time.Now().Add(1300 * time.Millisecond); time.Now().Before(asked); {
				select {
				case why := <-all:
					t.Fatalf("the Firehose was lost: %s", why)
				case why := <-one:
					t.Fatalf("the app was lost: %s", why)
				case <-time.After(50 * time.Millisecond):
				}
			}
			if len(o.asked()) == 0 {
				t.Error("nothing was asked")
			}
		})
	}
}

func expiring(in time.Duration) string {
	return `{"scope":["doppler.firehose"],"user_id":"u","client_id":"c","exp":` + strconv.FormatInt(time.Now().Add(in).Unix(), 10) + `}`
}

func TestHoldExpires(t *testing.T) {
	o, a := quick(t)
	o.set(says(200, expiring(2*time.Second)), says(200, "{}"))
	h, lost := held(t, a, a.Firehose(context.Background(), request("bearer t")))
	if left, ok := h.Left(); !ok || left <= 0 || left > 2*time.Second {
		t.Errorf("left: %s, %v", left, ok)
	}
	wait(t, lost, Expired)
	if _, ok := h.Left(); ok {
		t.Error("there is something left")
	}
}

func TestHoldRenewed(t *testing.T) {
	o, a := quick(t)
	o.set(says(200, expiring(2*time.Second)), says(200, "{}"))
	h, lost := held(t, a, a.Firehose(context.Background(), request("bearer t")))
	o.set(says(200, expiring(time.Hour)), says(200, "{}"))
	if err := renewed(h, "t2"); err != nil {
		t.Fatal(err)
	}
	if left, ok := h.Left(); !ok || left < time.Minute {
		t.Errorf("left: %s, %v", left, ok)
	}
	select {
	case why := <-lost:
		t.Fatalf("lost although renewed: %s", why)
	case <-time.After(2500 * time.Millisecond):
	}
	s := a.HoldStats()
	if s.Tokens != 1 || s.Renewed != 1 {
		t.Errorf("%+v", s)
	}
	h.Release()
	if s := a.HoldStats(); s.Tokens != 0 {
		t.Errorf("%+v after its end", s)
	}
}

// Who sends tokens all the time is asked about all the same.
func TestRenewingPutsOffNothing(t *testing.T) {
	_, cfg := newOutside(t)
	cfg.Recheck = 4 * time.Second
	a := newAuth(t, cfg)
	h, lost := held(t, a, a.Firehose(context.Background(), request("bearer t")))
	asked := a.Stats().Calls[CallCheckToken].Count
	renewals := uint64(0)
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until); renewals++ {
		if err := renewed(h, "t"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(200 * time.Millisecond)
	}
	if n := a.Stats().Calls[CallCheckToken].Count - asked; n <= renewals {
		t.Errorf("%d questions with %d renewals: nobody asked again", n, renewals)
	}
	if len(lost) > 0 {
		t.Error("lost")
	}
}

func renewed(h *Hold, token string) error {
	told := make(chan error, 1)
	h.Renew(token, func(err error) { told <- err })
	return <-told
}

func TestHoldRefusesTokens(t *testing.T) {
	o, a := quick(t)
	h, lost := held(t, a, a.Firehose(context.Background(), request("bearer t")))
	for name, answer := range map[string]http.HandlerFunc{
		"invalid":      says(400, `{"error":"invalid_token"}`),
		"other user":   says(200, `{"scope":["doppler.firehose"],"user_id":"v","client_id":"c"}`),
		"less allowed": says(200, scope("x")),
		"outage":       says(500, ""),
	} {
		o.set(answer, says(200, "{}"))
		if err := renewed(h, "bearer "+name); err == nil {
			t.Errorf("%s: taken", name)
		} else if name == "other user" && !errors.Is(err, errOtherUser) {
			t.Errorf("%s: %v", name, err)
		}
	}
	o.set(says(200, scope(scopeFirehose)), says(200, "{}"))
	if err := renewed(h, "good"); err != nil {
		t.Error(err)
	}
	if len(lost) > 0 {
		t.Error("a token that was not taken ended the stream")
	}
}

// Many streams of one token, each of them one of two apps, cost three questions.
func TestHoldsShareQuestions(t *testing.T) {
	o, a := quick(t)
	for i := range 200 {
		id := app
		if i%2 == 0 {
			id = other
		}
		held(t, a, a.App(context.Background(), request("bearer t"), id))
	}
	o.set(says(200, scope()), says(200, "{}"))
	for a.Stats().Calls[CallCheckToken].Count < 2 {
		time.Sleep(20 * time.Millisecond)
	}
	if n := len(o.asked()); n > 8 {
		t.Errorf("%d questions", n)
	}
}

func TestHoldWithoutAccessControl(t *testing.T) {
	a := newAuth(t, Config{Disabled: true})
	h, lost := held(t, a, a.Firehose(context.Background(), request("")))
	if left, ok := h.Left(); left != 0 || !ok {
		t.Errorf("left %s, %v", left, ok)
	}
	if err := renewed(h, "anything"); err != nil {
		t.Error(err)
	}
	h.Release()
	if len(lost) > 0 {
		t.Error("lost")
	}
}
