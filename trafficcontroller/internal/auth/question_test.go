package auth

import (
	"context"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// stub is a Verifier that is a function.
type stub func(ctx context.Context, token string) (Identity, error)

func (s stub) Verify(ctx context.Context, token string) (Identity, error) { return s(ctx, token) }

func TestIdenticalQuestionsAreOne(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = time.Minute
	a := newAuth(t, cfg)
	const callers = 50
	var asked atomic.Int32
	arrived, answer := make(chan struct{}), make(chan struct{})
	o.set(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) == 1 {
			close(arrived)
		}
		<-answer
		says(200, scope("doppler.firehose"))(w, r)
	}, drop)
	first, leave := context.WithCancel(t.Context())
	gone, decided := make(chan Decision), make(chan Decision, callers)
	go func() { gone <- a.Firehose(first, request("bearer tok")) }()
	<-arrived
	ready := make(chan struct{}, callers)
	for range callers {
		go func() {
			ready <- struct{}{}
			decided <- a.Firehose(t.Context(), request("bearer tok"))
		}()
	}
	for range callers {
		<-ready
	}
	leave()
	if d := <-gone; d.Reason != Gone || d.Allowed() {
		t.Errorf("who left: %+v", d)
	}
	close(answer)
	for range callers {
		if d := <-decided; !d.Allowed() {
			t.Errorf("%+v", d)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("UAA was asked %d times", n)
	}
}

// TestSharedQuestion is the exact form of the above, on virtual time.
func TestSharedQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := questions(t, time.Minute)
		var asked atomic.Int32
		get := func(context.Context) (int, time.Time, error) {
			asked.Add(1)
			time.Sleep(time.Second)
			return 7, time.Now().Add(time.Minute), nil
		}
		results := make(chan int, 100)
		for i := range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*time.Minute+time.Millisecond)
			go func() {
				defer cancel()
				n, err := ask(ctx, a, keyOf("k"), get)
				if (err != nil) != (i == 0) {
					t.Errorf("caller %d: %v", i, err)
				}
				results <- n
			}()
		}
		sum := 0
		for range 100 {
			sum += <-results
		}
		if asked.Load() != 1 || sum != 99*7 {
			t.Errorf("asked %d times, sum %d", asked.Load(), sum)
		}
	})
}

func questions(t *testing.T, cacheFor time.Duration) *Auth {
	t.Helper()
	cfg := DefaultConfig()
	cfg.Disabled, cfg.CacheFor = true, cacheFor
	return newAuth(t, cfg)
}

func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := questions(t, time.Minute)
		release := make(chan struct{})
		wait := func(context.Context) (int, time.Time, error) { <-release; return 0, time.Time{}, nil }
		for i := range maxQuestions {
			go func() { _, _ = ask(t.Context(), a, keyOf(fmt.Sprint(i)), wait) }()
		}
		synctest.Wait()
		if _, err := ask(t.Context(), a, keyOf("one more"), wait); err == nil || !strings.Contains(err.Error(), "1024") {
			t.Errorf("error %v", err)
		}
		close(release)
		synctest.Wait()
		if _, err := ask(t.Context(), a, keyOf("one more"), wait); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestQuestionsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := questions(t, time.Minute)
		start := time.Now()
		_, err := ask(t.Context(), a, keyOf("k"), func(ctx context.Context) (int, time.Time, error) {
			<-ctx.Done()
			return 0, time.Now().Add(time.Hour), ctx.Err()
		})
		if took := time.Since(start); err == nil || took != a.cfg.Timeout {
			t.Errorf("%v after %v", err, took)
		}
		if n, _ := a.cache.size(); n != 0 {
			t.Error("an error was kept")
		}
	})
}

func jwt(exp int64) string {
	return "e30." + base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, `{"exp":%d}`, exp)) + ".sig"
}

func TestHowLongAYesIsBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, test := range []struct {
			name          string
			cacheFor      time.Duration
			claims, gives int64         // seconds from now that the JWT and UAA say; 0: nothing
			want          time.Duration // 0: not at all
		}{
			{"no expiry", 10 * time.Second, 0, 0, 10 * time.Second},
			{"off", 0, 0, 0, 0},
			{"expires later", 10 * time.Second, 0, 60, 10 * time.Second},
			{"expires before", 10 * time.Second, 0, 4, 4 * time.Second},
			{"has expired", 10 * time.Second, 0, -4, 0},
			{"JWT says before", 10 * time.Second, 3, 0, 3 * time.Second},
			{"JWT says before UAA", 10 * time.Second, 3, 6, 3 * time.Second},
			{"UAA says before JWT", 10 * time.Second, 9, 6, 6 * time.Second},
			{"JWT has expired", 10 * time.Second, -1, 0, 0},
		} {
			token, expires, now := "opaque", int64(0), time.Now().Unix()
			if test.claims != 0 {
				token = jwt(now + test.claims)
			}
			if test.gives != 0 {
				expires = now + test.gives
			}
			a := questions(t, test.cacheFor)
			k, asked := keyOf(token), 0
			yes := func() {
				v, err := ask(t.Context(), a, k, func(context.Context) (bool, time.Time, error) {
					asked++
					return true, a.keepUntil(token, expires), nil
				})
				if err != nil || !v {
					t.Errorf("%s: %v %v", test.name, v, err)
				}
			}
			yes()
			if test.want > 0 {
				time.Sleep(test.want - time.Nanosecond)
				yes()
				if asked != 1 {
					t.Errorf("%s: asked again too early", test.name)
				}
				time.Sleep(time.Nanosecond)
			}
			yes()
			if asked != 2 {
				t.Errorf("%s: asked %d times, want 2", test.name, asked)
			}
		}
	})
}

func TestCacheIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache(3)
		for i := range 10 {
			c.put(keyOf(fmt.Sprint(i)), i, time.Now(), time.Now().Add(time.Minute))
		}
		for i := range 10 {
			if _, ok := c.get(keyOf(fmt.Sprint(i)), time.Time{}); ok != (i >= 7) {
				t.Errorf("%d is kept: %v", i, ok)
			}
		}
		c.put(keyOf("9"), "new", time.Now(), time.Now().Add(time.Hour)) // replaces
		time.Sleep(2 * time.Minute)
		c.put(keyOf("10"), 10, time.Now(), time.Now().Add(time.Hour)) // clears what has ended
		if v, ok := c.get(keyOf("9"), time.Time{}); !ok || v != "new" {
			t.Errorf("the replaced answer is %v %v", v, ok)
		}
		if n, hits := c.size(); n != 2 || hits != 4 || c.order.Len() != 2 {
			t.Errorf("%d entries, %d in order, %d hits", n, c.order.Len(), hits)
		}
		c.put(keyOf("9"), "ended", time.Now(), time.Now())
		if _, ok := c.get(keyOf("9"), time.Time{}); ok {
			t.Error("an answer that had ended was kept")
		}
	})
}

func TestKeysKeepPartsApart(t *testing.T) {
	if keyOf("a", "bc") == keyOf("ab", "c") || keyOf("a") == keyOf("a", "") {
		t.Error("different questions are one")
	}
}

// TestYesIsKeptNoIsNot changes its mind between questions.
func TestYesIsKeptNoIsNot(t *testing.T) {
	o, cfg := newOutside(t)
	cfg.CacheFor = time.Minute
	a := newAuth(t, cfg)
	r := request("bearer tok")
	no, yes := says(400, "{}"), says(200, scope("doppler.firehose"))
	o.set(no, says(404, ""))
	if a.Firehose(t.Context(), r).Allowed() || a.App(t.Context(), r, app).Allowed() {
		t.Fatal("allowed")
	}
	o.set(yes, says(200, ""))
	if !a.Firehose(t.Context(), r).Allowed() || !a.App(t.Context(), r, app).Allowed() {
		t.Fatal("a no was kept")
	}
	o.set(no, says(404, ""))
	if !a.Firehose(t.Context(), r).Allowed() || !a.App(t.Context(), r, app).Allowed() || len(o.asked()) != 0 {
		t.Errorf("a yes was not kept: asked %q", o.asked())
	}
	// Another token, and another app, is another question.
	if a.Firehose(t.Context(), request("bearer tok2")).Allowed() || a.App(t.Context(), r, other).Allowed() || a.App(t.Context(), request("bearer tok2"), app).Allowed() {
		t.Error("somebody else's yes was taken")
	}
	if s := a.Stats(); s.CacheEntries != 2 || s.CacheHits != 2 {
		t.Errorf("%d entries, %d hits", s.CacheEntries, s.CacheHits)
	}
}

func TestVerifierInFront(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	next := a.verifier
	a.verifier = stub(func(ctx context.Context, token string) (Identity, error) {
		if token == "local" {
			return Identity{UserID: "l", Scopes: []string{"doppler.firehose"}}, nil
		}
		return next.Verify(ctx, token)
	})
	if d := a.Firehose(t.Context(), request("bearer local")); !d.Allowed() || d.Identity.UserID != "l" || len(o.asked()) != 0 {
		t.Errorf("%+v, asked %q", d, o.asked())
	}
	if d := a.LogCache(t.Context(), request("BEARER tok"), app); !d.Allowed() || d.Identity.UserID != "u" || len(o.asked()) != 1 {
		t.Errorf("%+v, asked %q", d, o.asked())
	}
}

func TestConnectionsAreKept(t *testing.T) {
	o, cfg := newOutside(t)
	a := newAuth(t, cfg)
	for i := range 10 {
		a.Firehose(t.Context(), request(fmt.Sprint("bearer ", i)))
		a.App(t.Context(), request(fmt.Sprint("bearer ", i)), app)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.connects != 2 {
		t.Errorf("%d connections for 20 questions to two services", o.connects)
	}
}

func TestDisabledAllowsEverything(t *testing.T) {
	a, err := New(Config{Disabled: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	r := request("")
	meta, seen := a.LogCacheMeta(t.Context(), r)
	query, read := a.LogCacheQuery(t.Context(), r, []string{"doppler"})
	for _, d := range []Decision{a.Firehose(t.Context(), r), a.App(t.Context(), r, "any id"), a.Read(t.Context(), r, nil), a.LogCache(t.Context(), r, "x"), meta, query} {
		if !d.Allowed() {
			t.Errorf("%+v", d)
		}
	}
	if !seen.Has("doppler") || len(read["doppler"]) != 1 {
		t.Errorf("meta shows %v, the query reads %v", seen, read)
	}
}
