package auth

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/internal/tokens"
)

var invalidToken = says(400, `{"error":"invalid_token"}`)

// appNumber is an id like that of an app.
func appNumber(i int) string { return fmt.Sprintf("%03d", i) + app[3:] }

// A token that is refused by what is known here reads nothing on /v2/read either,
// though Cloud Controller would let it.
func TestReadAsksNobodyElseAboutKnownTokens(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Recheck, cfg.TokenAudiences = time.Second, []string{"doppler"}
	good := `{"scope":["openid"],"user_id":"u","client_id":"c","aud":["doppler"]}`
	o.set(uaaOf(says(200, good)), says(200, "{}"))
	a := newAuth(t, cfg)
	read := func(token string) Decision { return a.Read(t.Context(), request("bearer "+token), []string{app}) }
	plain := map[string]any{"scope": []string{"openid"}, "exp": time.Now().Unix() + 600}
	mine := token(t, plain)
	_, lost := held(t, a, read(mine))
	o.set(uaaOf(invalidToken), says(200, "{}"))
	wait(t, lost, Revoked)
	for _, scheme := range []string{"bearer ", "Bearer ", "bearer  ", ""} {
		if d := a.Read(t.Context(), request(scheme+mine), []string{app}); d.Reason != InvalidToken || d.Status != http.StatusNotFound {
			t.Errorf("revoked, %q: %s, status %d", scheme, d.Reason, d.Status)
		}
	}
	plain["aud"] = "other"
	if d := read(token(t, plain)); d.Reason != InvalidToken {
		t.Errorf("of another audience: %s", d.Reason)
	}
	if d := read("opaque"); !d.Allowed() {
		t.Errorf("a token that UAA does not know: %s", d.Reason)
	}
}

// UAA's no ends a stream of /v2/read however its token was written.
func TestReadIsHeldHoweverItsTokenIsWritten(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Recheck = time.Second
	o.set(uaaOf(invalidToken), says(200, "{}"))
	a := newAuth(t, cfg)
	d := a.Read(t.Context(), request("Bearer "+token(t, map[string]any{"scope": []string{"openid"}, "exp": time.Now().Unix() + 600})), []string{app})
	if d.Identity.Name() != "alice" {
		t.Errorf("%+v", d)
	}
	_, lost := held(t, a, d)
	wait(t, lost, Revoked)
}

// What is wanted of tokens that are verified here is wanted of those that UAA is
// asked about.
func TestCheckedTokensAreHeldToTheSame(t *testing.T) {
	answer := func(aud, jti string) http.HandlerFunc {
		return says(200, `{"scope":["doppler.firehose"],"user_id":"u","client_id":"c","aud":`+aud+`,"jti":"`+jti+`"}`)
	}
	for name, test := range map[string]struct {
		uaa  http.HandlerFunc
		want Reason
	}{
		"good":             {answer(`["x","doppler"]`, "1"), Allowed},
		"audience is text": {answer(`"doppler"`, "1"), Allowed},
		"other audience":   {answer(`["other"]`, "1"), InvalidToken},
		"no audience":      {says(200, scope("doppler.firehose")), InvalidToken},
		"refresh token":    {answer(`["doppler"]`, "1-r"), InvalidToken},
	} {
		for _, locally := range []bool{false, true} {
			t.Run(fmt.Sprint(name, locally), func(t *testing.T) {
				o, cfg := newOutside(t)
				cfg.TokenAudiences, cfg.LocalTokens = []string{"doppler"}, locally
				o.set(test.uaa, says(200, "{}")) // also in the place of its keys
				a := newAuth(t, cfg)
				for _, tok := range []string{"opaque", token(t, nil)} {
					if d := a.Firehose(t.Context(), request("bearer "+tok)); d.Reason != test.want {
						t.Errorf("%.6s: %s, want %s", tok, d.Reason, test.want)
					}
				}
				if d := a.Read(t.Context(), request("bearer opaque"), []string{app}); d.Reason != test.want {
					t.Errorf("/v2/read: %s, want %s", d.Reason, test.want)
				}
			})
		}
	}
}

// An empty id means every source on /v2/read: no list of sources has it.
func TestEmptyClaimGrantsNothing(t *testing.T) {
	p, cfg := newProvider(t)
	a := newAuth(t, cfg)
	r := request(p.token(t, map[string]any{"sources": []string{"", "y"}}))
	for want, sources := range map[Reason][][]string{Allowed: {{"y"}}, NotFound: {{""}, {"y", ""}}} {
		for _, list := range sources {
			if d := a.Read(t.Context(), r, list); d.Reason != want {
				t.Errorf("%q: %s, want %s", list, d.Reason, want)
			}
		}
	}
	if d := a.Read(t.Context(), request(p.token(t, map[string]any{"groups": []string{"operators"}})), []string{""}); !d.Allowed() {
		t.Errorf("who may read all: %s", d.Reason)
	}
}

// Requests to be let in do not take the places of questions about streams that live.
func TestFullHouseAsksAgain(t *testing.T) {
	_, cfg := newOutside(t)
	a := newAuth(t, cfg)
	for range maxQuestions {
		a.slots <- struct{}{}
	}
	defer func() {
		for range maxQuestions {
			<-a.slots
		}
	}()
	if d := a.Firehose(t.Context(), request("bearer t")); d.Reason != Outage {
		t.Errorf("to be let in: %s", d.Reason)
	}
	if id, err := a.Fresh(t.Context(), "t"); err != nil || id.UserID != "u" {
		t.Errorf("about a stream: %+v, %v", id, err)
	}
}

// The last of many sources is withdrawn: the stream of all of them ends, though
// asking about each takes longer than one question may.
func TestHoldOfManySourcesEnds(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Recheck, cfg.Timeout = time.Second, time.Second
	var sources []string
	for i := range 200 {
		sources = append(sources, appNumber(i))
	}
	a := newAuth(t, cfg)
	_, lost := held(t, a, a.Read(t.Context(), request("bearer t"), sources))
	o.set(says(200, scope("x")), func(w http.ResponseWriter, r *http.Request) {
		<-time.After(100 * time.Millisecond)
		if strings.Contains(r.RequestURI, sources[len(sources)-1]) {
			w.WriteHeader(http.StatusNotFound)
		}
	})
	wait(t, lost, Withdrawn)
}

// UAA's no ends streams though Cloud Controller hangs.
func TestHoldEndsWhileCloudControllerHangs(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Recheck, cfg.Timeout = time.Second, 20*time.Second
	a := newAuth(t, cfg)
	var streams []<-chan Lost
	for i := range 3 * checksAtATime {
		_, lost := held(t, a, a.App(t.Context(), request("bearer t"), appNumber(i)))
		streams = append(streams, lost)
	}
	hangs, hang := make(chan struct{}, len(streams)), make(chan struct{})
	defer close(hang)
	cc := func(_ http.ResponseWriter, r *http.Request) {
		hangs <- struct{}{}
		select {
		case <-hang:
		case <-r.Context().Done():
		}
	}
	o.set(says(200, scope("x")), cc)
	<-hangs
	o.set(invalidToken, cc)
	for _, lost := range streams {
		wait(t, lost, Revoked)
	}
}

// The scheme word of one stream is not that of another.
func TestHoldsOfOneTokenWrittenInTwoWays(t *testing.T) {
	o, a := quick(t)
	o.set(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("token") == "t" {
			says(200, scope(scopeFirehose))(w, r)
			return
		}
		invalidToken(w, r)
	}, says(200, "{}"))
	_, one := held(t, a, a.App(t.Context(), request("Bearer t"), app))
	_, all := held(t, a, a.Firehose(t.Context(), InAnyCase(request("Bearer t"))))
	before := a.Stats().Calls[CallCheckToken].Count
	for a.Stats().Calls[CallCheckToken].Count < before+4 {
		time.Sleep(20 * time.Millisecond)
	}
	select {
	case why := <-one:
		t.Errorf("the app: %s", why)
	case why := <-all:
		t.Errorf("the Firehose: %s", why)
	default:
	}
}

// Who was cut does not come back by an answer from before.
func TestWithdrawnIsNotRemembered(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Recheck, cfg.CacheFor = 5*time.Second, 5*time.Minute
	a := newAuth(t, cfg)
	_, lost := held(t, a, a.App(t.Context(), request("bearer t"), app))
	o.set(says(200, scope("x")), says(404, ""))
	wait(t, lost, Withdrawn)
	o.set(says(200, scope("x")), drop)
	if d := a.App(t.Context(), request("bearer t"), app); d.Allowed() {
		t.Error("let in again, without a question")
	}
}

// A token that takes the place of one that is being asked about is asked about at
// once.
func TestRenewedWhileAskedAbout(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.Recheck = time.Hour
	a := newAuth(t, cfg)
	h, lost := held(t, a, a.Firehose(t.Context(), request("bearer t1")))
	a.keeper.mu.Lock()
	h.of.asking = true
	a.keeper.mu.Unlock()
	var asked atomic.Int32
	o.set(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 { // after the renewal
			invalidToken(w, r)
			return
		}
		says(200, scope(scopeFirehose))(w, r)
	}, drop)
	if err := renewed(h, "t2"); err != nil {
		t.Fatal(err)
	}
	wait(t, lost, Revoked)
}

// An answer to what was asked before is not one to what is asked now.
func TestFreshTakesNoOlderAnswer(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = 10 * time.Second
	arrived, answer := make(chan struct{}), make(chan struct{})
	var revoked atomic.Bool
	o.set(func(w http.ResponseWriter, r *http.Request) {
		if revoked.Load() {
			invalidToken(w, r)
			return
		}
		arrived <- struct{}{}
		<-answer
		says(200, scope(scopeFirehose))(w, r)
	}, drop)
	a := newAuth(t, cfg)
	before := make(chan Decision, 1)
	go func() { before <- a.Firehose(context.Background(), request("bearer t")) }()
	<-arrived
	revoked.Store(true)
	fresh := make(chan error, 1)
	go func() {
		_, err := a.Fresh(context.Background(), "t")
		fresh <- err
	}()
	time.Sleep(50 * time.Millisecond) // it joins the question before
	close(answer)
	if err := <-fresh; !errors.Is(err, ErrInvalidToken) {
		t.Errorf("fresh: %v", err)
	}
	if d := <-before; !d.Allowed() {
		t.Errorf("before: %s", d.Reason)
	}
	if d := a.Firehose(t.Context(), request("bearer t")); d.Allowed() {
		t.Error("the old answer was kept")
	}
}

// Who joins a question that was answered from the cache is not told a later time of
// it than was asked for.
func TestRememberedAnswerIsNoNewOne(t *testing.T) {
	_, cfg := newOutside(t)
	a := newAuth(t, cfg)
	k, now := keyOf("question"), time.Now()
	a.cache.put(k, 1, now.Add(-time.Minute), now.Add(time.Minute))
	for _, from := range []time.Time{{}, now.Add(-2 * time.Minute)} {
		said, err := asking(a, k, from, func(context.Context) (int, time.Time, error) { return 2, time.Time{}, nil })
		if err != nil || said.value != 1 || !said.began.Equal(from) {
			t.Errorf("from %v: %+v, %v", from, said, err)
		}
	}
	said, err := asking(a, k, now, func(context.Context) (int, time.Time, error) { return 2, time.Time{}, nil })
	if err != nil || said.value != 2 || said.began.Before(now) {
		t.Errorf("from now on: %+v, %v", said, err)
	}
}

// A static token whose end was taken out of the file has none.
func TestStaticTokenWithoutItsEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tokens.yml")
	write := func(more string) {
		text := fmt.Sprintf("tokens:\n- {name: a, sha256: %s, sources: ['*']%s}\n", tokens.Hash("lgr_x"), more)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(", expires: " + time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	cfg := DefaultConfig()
	cfg.StaticTokens, cfg.Recheck = file, time.Second
	a := newAuth(t, cfg)
	h, _ := held(t, a, a.Firehose(t.Context(), request("bearer lgr_x")))
	told := make(chan struct{})
	h.OnEnd(func() { close(told) })
	write("")
	<-told
	if left, ok := h.Left(); left != 0 || !ok {
		t.Errorf("%s are left, %v", left, ok)
	}
}

// Nobody's tail goes on with the opaque token of somebody else.
func TestRenewedByAnotherUser(t *testing.T) {
	o, a := quick(t)
	o.set(func(w http.ResponseWriter, r *http.Request) {
		says(200, `{"scope":["x"],"user_id":"`+r.FormValue("token")[:5]+`","client_id":"c"}`)(w, r)
	}, says(200, "{}"))
	h, _ := held(t, a, a.App(t.Context(), request("bearer alice-1"), app))
	if err := renewed(h, "alice-2"); err != nil {
		t.Errorf("her own: %v", err)
	}
	if err := renewed(h, "carol-1"); !errors.Is(err, errOtherUser) {
		t.Errorf("another's: %v", err)
	}
	o.set(says(500, ""), says(200, "{}"))
	if err := renewed(h, "carol-2"); !errors.Is(err, errWhose) {
		t.Errorf("whose it is nobody can tell: %v", err)
	}
}

// The client of a tail hears when its token ends, though that is found out later.
func TestEndIsFoundOut(t *testing.T) {
	o, a := quick(t)
	o.set(says(200, expiring(time.Hour)), says(200, "{}"))
	h, _ := held(t, a, a.App(t.Context(), request("bearer opaque"), app))
	told := make(chan struct{})
	h.OnEnd(func() { close(told) })
	if left, _ := h.Left(); left != 0 {
		t.Errorf("%s are left", left)
	}
	<-told
	if left, ok := h.Left(); left < time.Minute || !ok {
		t.Errorf("%s are left, %v", left, ok)
	}
}

// A source that is no app is hidden from those who have a token.
func TestNoTokenComesBeforeNoSuchApp(t *testing.T) {
	o, cfg := newOutside(t)
	a, _ := staticAuth(t, cfg)
	o.set(uaaOf(invalidToken), says(404, ""))
	for authorization, want := range map[string]int{
		"": http.StatusUnauthorized, "bearer lgr_unknown": http.StatusUnauthorized,
		"bearer " + token(t, map[string]any{"exp": 1}): http.StatusUnauthorized, "bearer " + token(t, nil): http.StatusNotFound,
	} {
		d := a.App(t.Context(), request(authorization), "no-app")
		if got := d.Plain().Status; got != want {
			t.Errorf("%.20q: %d, want %d", authorization, got, want)
		}
	}
}
