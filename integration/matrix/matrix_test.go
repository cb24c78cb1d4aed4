package matrix

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/a1ea6966/loggregator/integration/blackbox"
	"github.com/a1ea6966/loggregator/integration/fakecf"
	"github.com/a1ea6966/loggregator/integration/process"
)

func TestMain(m *testing.M) {
	os.Exit(blackbox.Main(m, process.Doppler, process.TrafficController, process.FakeCF))
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// atOnce is how many requests are made at a time; of those that wait, more.
const atOnce = 16

// outcome is what came of a cell.
type outcome struct {
	status int
	wrong  string // empty if it is what has to be
}

// run makes the requests of all cells, some at a time, and returns how many ended
// in which way, and a line for each that is wrong.
func run(ctx context.Context, base string, cells []cell, most int) (counts, []string) {
	client := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: most}
	defer client.CloseIdleConnections()
	outcomes := make([]outcome, len(cells))
	var all sync.WaitGroup
	room := make(chan struct{}, most)
	for i, c := range cells {
		room <- struct{}{}
		all.Go(func() {
			outcomes[i] = ask(ctx, client, base, c, expected(c))
			<-room
		})
	}
	all.Wait()
	n, wrong := counts{}, []string{}
	for i, o := range outcomes {
		n[fmt.Sprint(o.status)]++
		if o.wrong != "" {
			wrong = append(wrong, fmt.Sprintf("%s: %d: %s", cells[i], o.status, o.wrong))
		}
	}
	return n, wrong
}

// ask makes the request of one cell and judges the answer.
func ask(ctx context.Context, client *http.Transport, base string, c cell, want verdict) outcome {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	r, err := c.request(base)
	if err != nil {
		return outcome{wrong: err.Error()}
	}
	resp, err := client.RoundTrip(r.WithContext(ctx))
	if err != nil {
		return outcome{wrong: err.Error()}
	}
	defer resp.Body.Close()
	body, err := take(resp, c, want)
	if err != nil {
		return outcome{resp.StatusCode, err.Error()}
	}
	return outcome{resp.StatusCode, want.fault(c, resp, body)}
}

// lasts tells whether an answer is a stream.
func lasts(resp *http.Response) bool {
	return resp.StatusCode == http.StatusSwitchingProtocols || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream")
}

// take reads an answer: all of it, or of a stream until it has what is wanted.
func take(resp *http.Response, c cell, want verdict) ([]byte, error) {
	if !lasts(resp) {
		return io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	}
	wants := want.wants
	if !want.in { // so all of it is one too many
		wants = speak
	}
	var body []byte
	part := make([]byte, 32<<10)
	for len(wants) > 0 && !slices.ContainsFunc(wants, func(source string) bool { return shows(c, body, source) }) {
		n, err := resp.Body.Read(part)
		body = append(body, part[:n]...)
		if err != nil {
			return body, fmt.Errorf("the stream ends without a log: %w", err)
		}
	}
	return body, nil
}

// fault is what is wrong with an answer; empty for nothing.
func (v verdict) fault(c cell, resp *http.Response, body []byte) string {
	for _, source := range speak {
		if !slices.Contains(v.shows, source) && shows(c, body, source) {
			return "SHOWS " + source
		}
	}
	challenge := strings.Join(resp.Header.Values("Www-Authenticate"), ", ")
	in := v.in && c.path.bodily
	switch {
	case !slices.Contains(v.statuses, resp.StatusCode):
		return fmt.Sprintf("status has to be of %v: %.80q", v.statuses, body)
	case (challenge == "") != (v.challenge == ""), !strings.HasPrefix(challenge, v.challenge):
		return fmt.Sprintf("challenge is %q, has to be %q", challenge, v.challenge)
	case slices.Contains([]int{http.StatusServiceUnavailable, http.StatusTooManyRequests}, resp.StatusCode) && resp.Header.Get("Retry-After") == "":
		return "no Retry-After"
	case v.body != nil && string(body) != *v.body:
		return fmt.Sprintf("body is %.80q, has to be %q", body, *v.body)
	case in && len(v.wants) > 0 && !slices.ContainsFunc(v.wants, func(source string) bool { return shows(c, body, source) }):
		return fmt.Sprintf("shows nothing of %v: %.200q", v.wants, body)
	}
	return ""
}

// product is all cells of some paths with some of the rest.
func product(paths []path, apps, roles, kinds, hows []string, fs ...fault) (all []cell) {
	if fs == nil {
		fs = []fault{{}}
	}
	for _, p := range paths {
		apps := apps
		if !p.takesApp() {
			apps = []string{""}
		}
		for _, app := range apps {
			if p.rule == byName && names[app] == "" {
				continue
			}
			for _, role := range roles {
				for _, kind := range kinds {
					for _, how := range hows {
						for _, f := range fs {
							all = append(all, cell{path: p, app: app, role: role, user: role + ", " + kind, kind: kind, how: how, fault: f})
						}
					}
				}
			}
		}
	}
	return all
}

var (
	valid  = []string{fakecf.JWT, fakecf.Opaque}
	usual  = []string{"bearer"}
	people = []string{"admin", "developer"}
)

// TestMatrix makes thousands of requests. Whoever may read is let in, and nobody
// else.
func TestMatrix(t *testing.T) {
	for name, test := range map[string]func(context.Context, *testing.T, *world){
		"tokens": tokens, "faults": broken, "no keys": withoutKeys, "over a limit": overLimit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := blackbox.Deadline(t)
			test(ctx, t, begin(ctx, t))
		})
	}
}

// tokens has UAA and Cloud Controller well.
func tokens(ctx context.Context, t *testing.T, w *world) {
	cells := product(others, nil, people, []string{fakecf.JWT, "none", "garbage"}, usual)
	cells = append(cells, product(paths, []string{"own", "foreign", "unknown", "malformed"}, people, sorted(kinds), usual)...)
	cells = append(cells, product(paths, sorted(ids), sorted(roles), valid, usual)...)
	cells = append(cells, product(paths, []string{"own", "foreign"}, people, valid, sorted(hows))...)
	w.check(ctx, t, "tokens", w.controller(ctx, t), cells)
}

// broken breaks one part after another in every way, those where somebody may
// have to wait all at once. Every cell has a user of its own: answers are shared
// between the tokens of one.
func broken(ctx context.Context, t *testing.T, w *world) {
	base := w.controller(ctx, t, "--access-cache", "0s")
	groups := map[string][]cell{}
	for i, c := range product(main(), []string{"own"}, people, valid, usual, faults()...) {
		c.user = fmt.Sprint(c.role, " ", i)
		group := c.fault.where
		if c.waits() {
			group = "waits"
		}
		groups[group] = append(groups[group], c)
	}
	for _, group := range sorted(groups) {
		w.forget()
		w.check(ctx, t, "fault "+group, base, groups[group])
	}
}

// main are the paths whose answers show logs.
func main() []path {
	return slices.DeleteFunc(slices.Clone(paths), func(p path) bool { return !p.bodily })
}

// waits tells whether the cell may have to.
func (c cell) waits() bool { return c.fault.How == fakecf.Hang || c.fault.How == fakecf.Stall }

// check runs cells and reports.
func (w *world) check(ctx context.Context, t *testing.T, what, base string, cells []cell, besides ...fakecf.Answer) {
	t.Helper()
	if blackbox.Race { // which is slow: every seventh will do, of all kinds
		n := 0
		cells = slices.DeleteFunc(slices.Clone(cells), func(cell) bool { n++; return n%7 != 0 })
	}
	began, room, in := time.Now(), atOnce, 0
	for _, c := range cells {
		if expected(c).in {
			in++
		}
		if c.waits() {
			room = 8 * atOnce
		}
	}
	w.provide(ctx, t, cells)
	w.breaks(ctx, t, cells, besides...)
	n, wrong := run(ctx, base, cells, room)
	t.Logf("%s: %d cells in %s, %d to let in, %d to refuse; %s", what, len(cells), time.Since(began).Round(100*time.Millisecond), in, len(cells)-in, n)
	for _, line := range wrong {
		t.Error(line)
	}
}

// withoutKeys has UAA fail to say its keys, or its name, to Traffic Controllers
// that know neither: it is asked about each token then, or gives no answer.
func withoutKeys(ctx context.Context, t *testing.T, w *world) {
	down := fault{keys: true, where: "/check_token", Answer: fakecf.Answer{Status: 500}}
	for what, a := range map[string]fakecf.Answer{
		"500": {Status: 500}, "401": {Status: 401}, "404": {Status: 404}, "429": {Status: 429}, "hang": {How: fakecf.Hang}, "garbage": {How: fakecf.Garbage},
		"cut": {How: fakecf.Truncate, Body: `{"keys":[]}`}, "none": {Body: `{"keys":[]}`}, "a page": {Body: "<html>"},
		"all kinds": {Status: 503},
		"a secret":  {Body: `{"keys":[{"kty":"oct","kid":"key-1","alg":"HS256","k":"c2VjcmV0IG9mIGF0IGxlYXN0IHRoaXJ0eS10d28gYnl0ZXM"}]}`},
	} {
		a.Server, a.Path = "uaa", "/token_keys"
		w.keyless(ctx, t, "keys "+what, a, down)
	}
	for what, a := range map[string]fakecf.Answer{"404": {Status: 404}, "hang": {How: fakecf.Hang}, "nameless": {Body: `{"issuer":""}`}} {
		a.Server, a.Path = "uaa", "/.well-known/openid-configuration"
		w.keyless(ctx, t, "issuer "+what, a, down)
	}
}

// some are kinds of token of which each is refused for another reason; the last
// two are no tokens, for which no fault can be ordered.
var some = []string{fakecf.JWT, fakecf.Opaque, fakecf.Sound, "expired", "wrong-key", "alg-none", "hs-for-rs", "tampered", "scope", "none", "garbage"}

func (w *world) keyless(ctx context.Context, t *testing.T, what string, a fakecf.Answer, down fault) {
	t.Helper()
	kinds := some
	if what == "keys all kinds" {
		kinds = sorted(tokenKinds())
	}
	cells := product(main(), []string{"own"}, people, kinds, usual, fault{keys: true})
	lost := product(main(), []string{"own"}, people, some[:len(some)-2], usual, down)
	for i := range lost {
		lost[i].user += ", lost"
	}
	w.check(ctx, t, what, w.controller(ctx, t, "--access-cache", "0s"), append(cells, lost...), a)
}

// overLimit holds a stream where one is allowed. The next gets 429.
func overLimit(ctx context.Context, t *testing.T, w *world) {
	base := w.controller(ctx, t, "--max-connections-per-user", "1")
	cells := slices.DeleteFunc(product(paths, []string{"own"}, []string{"admin"}, valid, usual), func(c cell) bool {
		unnamed := c.kind == fakecf.Opaque && (c.path.rule == app || c.path.rule == newApp) // operators.md
		return !c.path.streams() || unnamed
	})
	for i := range cells {
		cells[i].user = fmt.Sprint("limited ", i)
	}
	w.provide(ctx, t, cells)
	client := &http.Transport{}
	defer client.CloseIdleConnections()
	for _, c := range cells {
		first, err := c.request(base)
		if err != nil {
			t.Fatal(err)
		}
		held, err := client.RoundTrip(first.WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if o := ask(ctx, client, base, c, out("", http.StatusTooManyRequests)); o.wrong != "" {
			t.Errorf("%s, when one is open: %d: %s", c, o.status, o.wrong)
		}
		_ = held.Body.Close()
	}
	t.Logf("over a limit: %d cells", len(cells))
}

// TestMatrixFails shows that the matrix sees who is let in and should not be.
// Names are left out: they mean something with access control only.
func TestMatrixFails(t *testing.T) {
	ctx := blackbox.Deadline(t)
	w := begin(ctx, t)
	open := slices.DeleteFunc(main(), func(p path) bool { return p.rule == byName })
	cells := product(open, []string{"own", "foreign"}, people, []string{"none", "garbage", "expired", "hs-for-rs"}, usual)
	w.provide(ctx, t, cells)
	n, wrong := run(ctx, w.controller(ctx, t, "--disable-access-control"), cells, atOnce)
	t.Logf("%d of %d cells are wrong without access control: %s", len(wrong), len(cells), n)
	shown := slices.DeleteFunc(slices.Clone(wrong), func(line string) bool { return !strings.Contains(line, ": SHOWS ") })
	if len(wrong) != len(cells) || len(shown) != len(cells) {
		t.Errorf("%d of them show logs", len(shown))
	}
}
